"""The detector stage: where in a frame white cells are.

Owns how a frame is looked at: fitted whole, and again through windows when its cells
are small; and which finds of each look are described from its feature maps. Knows boxes
and thresholds, not cameras, threads or files, nor what a description is
(see ``attribute_head``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.backends import InferenceBackend, Tensor, fits, on_host
from edge_runtime.bundle import DetectorSpec
from edge_runtime.errors import BackendError
from edge_runtime.postprocess import (
    decode_xywh_scores,
    decode_xyxy_score_class,
    suppress_doubles,
)
from edge_runtime.preprocess import Window, fit_window, tensor_of
from edge_runtime.scale import (
    CellSize,
    agreed_cell_size,
    cell_size_from_red_cells,
    cell_size_of_finds,
    windows_at_scale,
)
from edge_runtime.types import Detections, Float32Array, Frame, Int64Array

# Finds closer than this to an inner window border are cut cells (input pixels).
_CUT_PX = 2.0
# A find of which this share lies in a better one is a part of the same cell.
_PART_SHARE = 0.7
# Finds of the whole view that fix the scale: those near the best one, and above this
# score without asking the red cells.
_NEAR_BEST = 0.75
_BEYOND_DOUBT = 0.75

# From the feature maps of one look, by name, and boxes ``(n, 4)`` in input pixels: value
# indices and probabilities, both ``(n, attributes)``.
Describe = Callable[[Mapping[str, Tensor], Float32Array], tuple[Int64Array, Float32Array]]
# From the feature maps of the look at the whole frame, by name, and how it lay in the input.
WatchWhole = Callable[[Mapping[str, Tensor], Window], None]


@dataclass(frozen=True, slots=True)
class Examined:
    """What the detector found in a frame, and through how many windows it looked."""

    detections: Detections
    windows: int


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look through one window gave, its finds in frame pixels."""

    window: Window
    found: Detections
    feature_maps: Mapping[str, Tensor]


class Detector:
    """Finds white cells in frames of any size. Safe to call from several threads."""

    def __init__(
        self, spec: DetectorSpec, backend: InferenceBackend, *, score: float | None = None
    ) -> None:
        """Checks that model and manifest fit each other.

        Args:
            spec: the bundle's detector.
            backend: the loaded model.
            score: operating point other than the bundle's.

        Raises:
            BackendError: tensor names or shapes differ from the manifest's.
        """
        self._spec = spec
        self._backend = backend
        self._score = spec.thresholds.score if score is None else score
        _check_tensors(spec, backend)

    @property
    def _one_to_one(self) -> bool:
        """Whether the head names every cell of a look once, so that nothing is suppressed."""
        return self._spec.output.decode == "xyxy_score_class"

    @property
    def score(self) -> float:
        """The operating point in force."""
        return self._score

    def examine(
        self, frame: Frame, describe: Describe | None = None, watch: WatchWhole | None = None
    ) -> Examined:
        """All white cells of one frame, best score first.

        Args:
            frame: the field.
            describe: judges attributes from the feature maps of one look. It is asked once
                for each look that has a find to keep, for those finds only.
            watch: is shown the feature maps of the whole view, once.

        Raises:
            BackendError: the model fails, or answers with something that is no number.
        """
        spec = self._spec
        whole = fit_window(frame.width, frame.height, spec.input)
        low = min(self._score, spec.working_scale.probe_score)
        look = self._look(frame, whole, low)
        if watch is not None:
            watch(look.feature_maps, whole)
        cell = self._cell_size(frame, look.found)
        fitted = (
            spec.working_scale.min_cell_px
            if cell is None
            else np.sqrt(cell.width * cell.height * whole.scale_x * whole.scale_y)
        )
        if cell is None or fitted >= spec.working_scale.min_cell_px:
            return Examined(_described(look, self._finish_look(look.found), describe), 1)
        # Cells wider than the windows' overlap can be cut in every window; the whole
        # view has them.
        large = _larger_than(self._sure(look.found), 1.3 * cell.width, 1.3 * cell.height)
        large = _described(look, large, describe)
        del look
        windows = windows_at_scale(frame.width, frame.height, cell, spec.working_scale, spec.input)
        found = [self._inner_finds(frame, window, low, describe) for window in windows]
        return Examined(self._finish(Detections.joined([*found, large])), 1 + len(windows))

    def _look(self, frame: Frame, window: Window, score: float) -> _Look:
        spec = self._spec
        tensor = tensor_of(frame.pixels, window, spec.input, frame.half)
        maps = [each.name for each in spec.feature_maps]
        # Maps stay where they were computed until someone looks at them, on the device or here.
        outputs = self._backend.infer_keeping({spec.input.name: tensor}, maps)
        output = on_host(outputs[spec.output.name])
        strange = int(np.size(output) - np.count_nonzero(np.isfinite(output)))
        if strange:
            # Dropped, they would make a field without cells of one that nobody has seen.
            raise BackendError(
                f"detector: it answers with {strange} values that are no numbers; the model is "
                "damaged or does not fit the backend: export it again, or try another --backend"
            )
        if self._one_to_one:
            found = decode_xyxy_score_class(
                output, score_threshold=score, classes=len(spec.classes)
            )
        else:
            found = decode_xywh_scores(output, score_threshold=score)
        if len(found) > 0:
            boxes = window.to_frame(found.boxes_xyxy)
            solid = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= 1.0
            found = Detections(boxes, found.scores, found.class_ids).select(solid)
            if not self._one_to_one:
                found = suppress_doubles(found, iou=spec.thresholds.nms_iou)
        return _Look(
            window,
            found,
            {name: outputs[name] for name in maps},
        )

    def _inner_finds(
        self, frame: Frame, window: Window, score: float, describe: Describe | None
    ) -> Detections:
        """Sure finds of one window without those its inner borders cut."""
        look = self._look(frame, window, score)
        edge_x, edge_y = _CUT_PX / window.scale_x, _CUT_PX / window.scale_y
        boxes = look.found.boxes_xyxy
        cut = (
            ((window.x1 > 0) & (boxes[:, 0] < window.x1 + edge_x))
            | ((window.y1 > 0) & (boxes[:, 1] < window.y1 + edge_y))
            | ((window.x2 < frame.width) & (boxes[:, 2] > window.x2 - edge_x))
            | ((window.y2 < frame.height) & (boxes[:, 3] > window.y2 - edge_y))
        )
        return _described(look, self._sure(look.found.select(~cut)), describe)

    def _cell_size(self, frame: Frame, coarse: Detections) -> CellSize | None:
        scale = self._spec.working_scale
        if frame.pixel_size_um is not None:
            side = scale.cell_um / frame.pixel_size_um
            return CellSize(side, side)
        best = float(coarse.scores.max(initial=0.0))
        trusted = coarse.select(coarse.scores >= max(scale.probe_score, _NEAR_BEST * best))
        found = cell_size_of_finds(trusted.boxes_xyxy)
        if found is not None and best >= _BEYOND_DOUBT:
            return found
        return agreed_cell_size(found, cell_size_from_red_cells(frame.pixels))

    def _sure(self, found: Detections) -> Detections:
        return found.select(found.scores >= self._score)

    def _finish_look(self, found: Detections) -> Detections:
        """The finds of a frame that one look has seen whole."""
        if not self._one_to_one:
            return self._finish(found)
        sure = self._sure(found)
        best = np.argsort(-sure.scores, kind="stable")
        return sure.select(best[: self._spec.thresholds.max_cells])

    def _finish(self, found: Detections) -> Detections:
        thresholds = self._spec.thresholds
        return suppress_doubles(
            self._sure(found),
            iou=thresholds.nms_iou,
            covered=_PART_SHARE,
            limit=thresholds.max_cells,
        )


def _larger_than(found: Detections, width: float, height: float) -> Detections:
    extent = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    return found.select((extent[:, 0] > width) | (extent[:, 1] > height))


def _described(look: _Look, found: Detections, describe: Describe | None) -> Detections:
    """The finds of one look with their attributes, where anyone judges them."""
    if describe is None or len(found) == 0:
        return found
    # From the clipped boxes, as people draw them: training saw no others.
    boxes = look.window.to_input(found.boxes_xyxy)
    values, shares = describe(look.feature_maps, boxes)
    return replace(found, attribute_values=values, attribute_probabilities=shares)


def _check_tensors(spec: DetectorSpec, backend: InferenceBackend) -> None:
    inputs = {tensor.name: tensor.shape for tensor in backend.inputs}
    outputs = {tensor.name: tensor.shape for tensor in backend.outputs}
    expected = (1, 3, spec.input.height, spec.input.width)
    if inputs.get(spec.input.name) != expected:
        raise BackendError(
            f"model input {inputs}: the manifest says {spec.input.name!r} {expected}; "
            "the bundle was put together wrongly, export it again"
        )
    shape = outputs.get(spec.output.name, ())
    if spec.output.decode == "xyxy_score_class":
        axis, length, parts = 2, 6, "columns"
    else:
        axis, length, parts = 1, 4 + len(spec.classes), "rows"
    if len(shape) != 3 or shape[axis] != length:
        raise BackendError(
            f"model output {outputs}: the manifest says {spec.output.name!r} with {length} "
            f"{parts}; the bundle was put together wrongly, export it again"
        )
    for each in spec.feature_maps:
        high, wide = spec.input.height // each.stride, spec.input.width // each.stride
        wanted = (1, each.channels, high, wide)
        if not fits(outputs.get(each.name), wanted):
            raise BackendError(
                f"model output {outputs}: the manifest says feature map {each.name!r} {wanted}; "
                "the bundle was put together wrongly, export it again"
            )
