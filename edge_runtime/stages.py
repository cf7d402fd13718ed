"""What happens to one frame: the detector stage.

Owns how a frame is looked at: fitted whole, and again through windows when its cells
are small. Knows boxes and thresholds, not cameras, threads or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.backends import InferenceBackend
from edge_runtime.bundle import DetectorSpec
from edge_runtime.errors import BackendError
from edge_runtime.postprocess import decode_xywh_scores, suppress_doubles
from edge_runtime.preprocess import Window, fit_window, tensor_of
from edge_runtime.scale import (
    CellSize,
    agreed_cell_size,
    cell_size_from_red_cells,
    cell_size_of_finds,
    windows_at_scale,
)
from edge_runtime.types import Detections, Frame

# Finds closer than this to an inner window border are cut cells (input pixels).
_CUT_PX = 2.0
# A find of which this share lies in a better one is a part of the same cell.
_PART_SHARE = 0.7
# Finds of the whole view that fix the scale: those near the best one, and above this
# score without asking the red cells.
_NEAR_BEST = 0.75
_BEYOND_DOUBT = 0.75


@dataclass(frozen=True, slots=True)
class Examined:
    """What the detector found in a frame, and through how many windows it looked."""

    detections: Detections
    windows: int


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
    def score(self) -> float:
        """The operating point in force."""
        return self._score

    def examine(self, frame: Frame) -> Examined:
        """All white cells of one frame, best score first."""
        spec = self._spec
        whole = fit_window(frame.width, frame.height, spec.input)
        low = min(self._score, spec.working_scale.probe_score)
        coarse = suppress_doubles(self._look(frame, whole, low), iou=spec.thresholds.nms_iou)
        cell = self._cell_size(frame, coarse)
        fitted = (
            spec.working_scale.min_cell_px
            if cell is None
            else np.sqrt(cell.width * cell.height * whole.scale_x * whole.scale_y)
        )
        if cell is None or fitted >= spec.working_scale.min_cell_px:
            return Examined(self._finish(coarse), 1)
        windows = windows_at_scale(frame.width, frame.height, cell, spec.working_scale, spec.input)
        found = [self._inner_finds(frame, window, low) for window in windows]
        # Cells wider than the windows' overlap can be cut in every window; the whole
        # view has them.
        found.append(_larger_than(coarse, 1.3 * cell.width, 1.3 * cell.height))
        return Examined(self._finish(_join(found)), 1 + len(windows))

    def _look(self, frame: Frame, window: Window, score: float) -> Detections:
        tensor = tensor_of(frame.pixels, window, self._spec.input)
        output = self._backend.infer({self._spec.input.name: tensor})[self._spec.output.name]
        found = decode_xywh_scores(output, score_threshold=score)
        boxes = window.to_frame(found.boxes_xyxy)
        solid = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= 1.0
        return Detections(boxes, found.scores, found.class_ids).select(solid)

    def _inner_finds(self, frame: Frame, window: Window, score: float) -> Detections:
        """Finds of one window without those its inner borders cut."""
        found = suppress_doubles(
            self._look(frame, window, score), iou=self._spec.thresholds.nms_iou
        )
        edge_x, edge_y = _CUT_PX / window.scale_x, _CUT_PX / window.scale_y
        boxes = found.boxes_xyxy
        cut = (
            ((window.x1 > 0) & (boxes[:, 0] < window.x1 + edge_x))
            | ((window.y1 > 0) & (boxes[:, 1] < window.y1 + edge_y))
            | ((window.x2 < frame.width) & (boxes[:, 2] > window.x2 - edge_x))
            | ((window.y2 < frame.height) & (boxes[:, 3] > window.y2 - edge_y))
        )
        return found.select(~cut)

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

    def _finish(self, found: Detections) -> Detections:
        thresholds = self._spec.thresholds
        kept = found.select(found.scores >= self._score)
        return suppress_doubles(
            kept, iou=thresholds.nms_iou, covered=_PART_SHARE, limit=thresholds.max_cells
        )


def _larger_than(found: Detections, width: float, height: float) -> Detections:
    extent = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    return found.select((extent[:, 0] > width) | (extent[:, 1] > height))


def _join(parts: list[Detections]) -> Detections:
    return Detections(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
    )


def _check_tensors(spec: DetectorSpec, backend: InferenceBackend) -> None:
    inputs = {tensor.name: tensor.shape for tensor in backend.inputs}
    outputs = {tensor.name: tensor.shape for tensor in backend.outputs}
    expected = (1, 3, spec.input.height, spec.input.width)
    if inputs.get(spec.input.name) != expected:
        raise BackendError(
            f"model input {inputs}: the manifest says {spec.input.name!r} {expected}; "
            "the bundle was put together wrongly, export it again"
        )
    rows = 4 + len(spec.classes)
    shape = outputs.get(spec.output.name, ())
    if len(shape) != 3 or shape[1] != rows:
        raise BackendError(
            f"model output {outputs}: the manifest says {spec.output.name!r} with {rows} rows; "
            "the bundle was put together wrongly, export it again"
        )
