"""What a soak looks at and with: a hand-moved virtual film, small, and heads that cost little.

Owns the pictures and the two stand-ins for models. They answer as exported models do, so that
detector, classifier and everything behind them are the device's own. Does not own the faults
(see ``soak_faults``) nor the run (see ``soak``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import TracebackType

import cv2
import numpy as np
from typing_extensions import Self

from benchmarks.mosaic import Scan, profile_of
from edge_runtime.backends import BackendFacts, Tensor, TensorSpec, on_host
from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.classifier import Classifier
from edge_runtime.film.confusion import BlastConfusion
from edge_runtime.film.gate import FieldGate
from edge_runtime.film.guide import FilmGuide
from edge_runtime.film.mosaic import FilmMosaic
from edge_runtime.film.screening import ScreeningPlan, ScreeningRule
from edge_runtime.film.tally import RunningTally
from edge_runtime.film_record import FilmSetup
from edge_runtime.film_report import (
    BackendRecord,
    BundleRecord,
    ClassifierRecord,
    ModelCardSummary,
)
from edge_runtime.manifest import (
    Artifact,
    ClassifierSpec,
    CropInputSpec,
    DetectorSpec,
    InputSpec,
    OutputSpec,
    Thresholds,
    WorkingScale,
)
from edge_runtime.settings import Settings
from edge_runtime.stages import Detector
from edge_runtime.types import Float32Array, UInt8Image
from edge_runtime.virtual_film import FilmSpec, VirtualFilm

WIDTH_PX, HEIGHT_PX = 200, 124
POSITIONS = 150
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "blast", "erythroblast")
_CROP_PX = 16
_MOST_FINDS = 30
# Of the tensor: a nucleus lets little green through, and more blue than green.
_DARK_GREEN, _BLUER = 0.42, 0.08
_LEAST_PX = 60
_ARTIFACT = Artifact(path="none", runtime="cpu", precision="float32", quantisation="none")
_DETECTOR = DetectorSpec(
    architecture="stain threshold",
    classes=("WBC",),
    input=InputSpec(name="images", width=WIDTH_PX, height=HEIGHT_PX, scale=1 / 255, pad_value=114),
    output=OutputSpec(name="finds", decode="xyxy_score_class"),
    thresholds=Thresholds(score=0.5, nms_iou=0.5, max_cells=_MOST_FINDS),
    working_scale=WorkingScale(
        cell_px=34, min_cell_px=4, cell_um=13, probe_score=0.4, max_windows=4
    ),
    artifacts=(_ARTIFACT,),
)
_CLASSIFIER = ClassifierSpec(
    architecture="mean colour",
    classes=CLASSES,
    input=CropInputSpec(
        name="crops", width=_CROP_PX, height=_CROP_PX, scale=1 / 255, pad_value=114, margin=0.1
    ),
    output="logits",
    abstain_below=0.3,
    outside_differential=("erythroblast",),
    artifacts=(_ARTIFACT,),
)


class StandIn:
    """A backend that computes something small; ``streams`` calls at once."""

    facts = BackendFacts("stand-in", "1", "CPU")
    streams = 1
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """See ``InferenceBackend``."""
        raise NotImplementedError

    def infer_keeping(
        self, arrays: Mapping[str, Tensor], keep: Collection[str]
    ) -> dict[str, Tensor]:
        """See ``InferenceBackend``."""
        return dict(self.infer(arrays))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class StainDetector(StandIn):
    """Finds what is stained as a nucleus is."""

    inputs = (TensorSpec("images", (1, 3, HEIGHT_PX, WIDTH_PX)),)
    outputs = (TensorSpec("finds", (1, _MOST_FINDS, 6)),)

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """Boxes around dark, blue connected areas."""
        _, green, blue = on_host(arrays["images"])[0]
        stained = ((green < _DARK_GREEN) & (blue > green + _BLUER)).astype(np.uint8)
        _, _, areas, _ = cv2.connectedComponentsWithStats(stained, connectivity=4)
        finds = np.zeros((1, _MOST_FINDS, 6), np.float32)
        large = [each for each in areas[1:] if each[cv2.CC_STAT_AREA] >= _LEAST_PX]
        for row, (x, y, width, height, area) in zip(finds[0], large, strict=False):
            # The cytoplasm around a nucleus.
            edge = 0.25 * max(width, height)
            fill = min(1.0, area / (0.6 * width * height))
            row[:5] = (x - edge, y - edge, x + width + edge, y + height + edge, 0.5 + fill / 2.1)
        return {"finds": finds}


class ColourClassifier(StandIn):
    """Names cells by their mean colour, which tells nothing, but always the same."""

    inputs = (TensorSpec("crops", (-1, 3, _CROP_PX, _CROP_PX)),)
    outputs = (TensorSpec("logits", (-1, len(CLASSES))),)

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """One logit for each class."""
        colour = on_host(arrays["crops"]).mean(axis=(2, 3))
        turns = np.arange(1, len(CLASSES) + 1, dtype=np.float32)
        waves = np.sin(40 * colour.sum(axis=1, keepdims=True) * turns)
        return {"logits": np.asarray(2.5 * waves, np.float32)}


class Scene:
    """Pictures along a hand's path, rendered once, and what looks at them."""

    def __init__(
        self,
        *,
        positions: int = POSITIONS,
        film_um: tuple[float, float] = (700.0, 480.0),
        seed: int = 5,
    ) -> None:
        profile = profile_of(WIDTH_PX, HEIGHT_PX)
        film = VirtualFilm.build(
            seed, FilmSpec(film_um, pixel_size_um=0.3, white_cells_per_mm2=200.0)
        )
        scan = Scan.over(film, profile, positions, seed=seed, jumps=2)
        self.pixel_size_um = profile.pixel_size_um
        self.pictures: list[UInt8Image] = [
            scan.camera.frame(index).pixels for index in range(positions)
        ]
        self.detector = Detector(_DETECTOR, StainDetector())
        self.classifier = Classifier(_CLASSIFIER, ColourClassifier())
        # Its bounds take a second; one rule serves many films.
        self._rule = ScreeningRule(ScreeningPlan(), confusion=BlastConfusion(200, 190, 600, 6))

    def guide(self) -> FilmGuide:
        """For one film: gate, mosaic, tally and screening rule."""
        return FilmGuide(
            gate=FieldGate(None, live=True),
            mosaic=FilmMosaic(),
            tally=RunningTally(
                CLASSES,
                unclassified=UNCLASSIFIED,
                outside=_CLASSIFIER.outside_differential,
                blasts=("blast",),
            ),
            rule=lambda wait: self._rule,
            blasts=("blast",),
        )

    def setup(self, settings: Settings) -> FilmSetup:
        """What a film's record says of all this."""
        backend = BackendRecord(
            name="stand-in", version="1", device="CPU", precision="none", artifact="none", threads=1
        )
        return FilmSetup(
            source="soak",
            bundle=BundleRecord(id="stand-ins", sha256="0" * 64),
            backend=backend,
            model_card=ModelCardSummary(
                title="Stand-ins", summary="No models.", limits=[], licence="none", metrics={}
            ),
            class_names=_DETECTOR.classes,
            settings=settings,
            version="soak",
            classifier=ClassifierRecord(
                architecture=_CLASSIFIER.architecture,
                backend=backend,
                classes=list(CLASSES),
                abstain_below=_CLASSIFIER.abstain_below,
                outside_differential=list(_CLASSIFIER.outside_differential),
            ),
        )
