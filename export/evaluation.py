"""What a graph finds on labelled fields, through the detector that devices run.

Owns running one model over fields. Does not own the figures made of it (see
``calibration.accuracy``) nor the verdict (see ``parity``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from calibration.accuracy import LabelledFinds
from calibration.fields import LabelledField
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import DetectorSpec
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from edge_runtime.stages import Detector
from edge_runtime.types import Detections, Float32Array, Frame

# Average precision needs the whole ranking; anchors below are noise even to it.
RANKING_SCORE = 0.01


def find_in_domains(
    spec: DetectorSpec,
    model: bytes,
    domains: Mapping[str, Sequence[LabelledField]],
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
) -> dict[str, LabelledFinds]:
    """Labelled boxes and finds of every field, per domain.

    Scale estimate, windows and suppression of doubles are the device's own.

    Args:
        spec: the detector as the manifest will have it.
        model: ONNX bytes.
        domains: labelled fields.
        backend: one that runs ONNX on a processor.
        threads: fields looked at at once.

    Raises:
        BackendError: the backend is not available or refuses the model.
        DataError: a field cannot be read.
    """
    with (
        open_backend(backend_row(backend), model, threads=threads) as loaded,
        ThreadPoolExecutor(threads) as pool,
    ):
        detector = Detector(spec, loaded, score=RANKING_SCORE)

        def look(item: LabelledField) -> tuple[Float32Array, Detections]:
            frame = _frame(item)
            truth = item.boxes_xyxy(frame.width, frame.height)
            return truth, detector.examine(frame).detections

        found: dict[str, LabelledFinds] = {}
        for name, fields in domains.items():
            pairs = list(pool.map(look, fields))
            found[name] = [truth for truth, _ in pairs], [finds for _, finds in pairs]
        return found


def _frame(item: LabelledField) -> Frame:
    try:
        return Frame(0, 0, read_image(item.image), item.image.name)
    except FrameError as error:
        raise DataError(f"{item.image}: {error}; remove it from the data set") from error
