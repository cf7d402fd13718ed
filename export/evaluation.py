"""What a graph finds on labelled fields, through the detector that devices run.

Owns running one model over fields. Does not own the figures made of it (see
``calibration.accuracy``) nor the verdict (see ``parity``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from calibration.accuracy import LabelledFinds
from calibration.fields import LabelledField
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import DetectorSpec
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from edge_runtime.stages import Detector
from edge_runtime.types import Detections, Float32Array, Frame, UInt8Image

# AP of the same 50 fields, merely mirrored, differs by some points, and what rounding does to
# it by one: half a point of loss can only be told with several hundred cells.
_CELLS_TO_TELL = 400
_ALL_VIEWS = 8
# Average precision needs the whole ranking; anchors below are noise even to it.
RANKING_SCORE = 0.01


def find_in_domains(
    spec: DetectorSpec,
    model: bytes,
    domains: Mapping[str, Sequence[LabelledField]],
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    views: Mapping[str, int] | None = None,
) -> dict[str, LabelledFinds]:
    """Labelled boxes and finds of every field, per domain.

    Scale estimate, windows and suppression of doubles are the device's own.

    Args:
        spec: the detector as the manifest will have it.
        model: ONNX bytes.
        domains: labelled fields.
        backend: one that runs ONNX on a processor.
        threads: fields looked at at once.
        views: per domain, in how many of the eight mirrored and turned positions each
            field is looked at [default: only as it is].

    Raises:
        BackendError: the backend is not available or refuses the model.
        DataError: a field cannot be read.
    """
    with (
        open_backend(backend_row(backend), model, threads=threads) as loaded,
        ThreadPoolExecutor(threads) as pool,
    ):
        detector = Detector(spec, loaded, score=RANKING_SCORE)

        def look(view: tuple[LabelledField, int]) -> tuple[Float32Array, Detections]:
            item, position = view
            pixels, truth = turned(*_read(item), position)
            return truth, detector.examine(Frame(0, 0, pixels, item.image.name)).detections

        found: dict[str, LabelledFinds] = {}
        for name, fields in domains.items():
            positions = range(1 if views is None else views[name])
            pairs = list(pool.map(look, [(item, each) for item in fields for each in positions]))
            found[name] = [truth for truth, _ in pairs], [finds for _, finds in pairs]
        return found


def views_to_tell(domains: Mapping[str, Sequence[LabelledField]]) -> dict[str, int]:
    """Views per field (1, 2, 4 or 8) that show some 400 cells of every domain."""
    wanted: dict[str, int] = {}
    for name, fields in domains.items():
        cells = sum(len(item.boxes_xywhn) for item in fields)
        views = 1
        while views < _ALL_VIEWS and cells * views < _CELLS_TO_TELL:
            views *= 2
        wanted[name] = views
    return wanted


def turned(
    pixels: UInt8Image, boxes_xyxy: Float32Array, position: int
) -> tuple[UInt8Image, Float32Array]:
    """A field in one of its eight positions on the stage; 0 leaves it as it is.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        boxes_xyxy: pixel corners ``(N, 4)``.
        position: sum of 1 (mirrored left to right), 2 (top to bottom) and, after these,
            4 (rows and columns exchanged).
    """
    height, width = pixels.shape[:2]
    boxes = boxes_xyxy.copy()
    if position & 1:
        pixels = pixels[:, ::-1]
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if position & 2:
        pixels = pixels[::-1]
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    if position & 4:
        pixels = pixels.transpose(1, 0, 2)
        boxes = boxes[:, [1, 0, 3, 2]]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(boxes)


def _read(item: LabelledField) -> tuple[UInt8Image, Float32Array]:
    try:
        pixels = read_image(item.image)
    except FrameError as error:
        raise DataError(f"{item.image}: {error}; remove it from the data set") from error
    return pixels, item.boxes_xyxy(pixels.shape[1], pixels.shape[0])
