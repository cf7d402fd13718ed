"""Simulated fields of a microscope nobody trained on: wide, small-celled, restained.

Owns making evaluation fields in which a domain's own labelled fields lie side by side at
their native size, squeezed and restained as a whole. It stands in for the wide fields of
unseen microscopes, it is a yardstick, not proof. Test splits
only; nothing here is ever trained on.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from calibration.fields import LabelledField
from edge_runtime.types import Float32Array, Frame, UInt8Image
from train.datasets.appearance import light_and_lens, restain
from train.datasets.scene import Scene, place_grid

# Cells take 6 % to 16 % of such a field's width, fields are 640 to 4000 px wide.
_CELL_SHARE = (0.06, 0.16)
_WIDTH_PX = (640, 2600)
_LARGEST_SQUEEZE = 1.78


def wide_fields(
    fields: list[LabelledField], *, count: int, seed: int
) -> Iterator[tuple[Frame, Float32Array]]:
    """Yields ``count`` fields with their boxes, pixel corners ``(N, 4)``.

    Args:
        fields: labelled fields of one domain's test split.
        count: how many.
        seed: the same seed gives the same pixels.
    """
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        picked = [fields[i] for i in rng.integers(0, len(fields), 64)]
        first = picked[0].boxes_xywhn
        own_share = float(np.median(first[:, 2])) if len(first) else 0.35
        share = float(rng.uniform(*_CELL_SHARE))
        columns = int(np.clip(round(own_share / share), 2, 7))
        rows = max(1, round(columns * float(rng.uniform(0.55, 1.0))))
        tiles: list[tuple[UInt8Image, Float32Array]] = []
        for item in picked[: rows * columns]:
            pixels = item.read_rgb()
            tiles.append((pixels, item.boxes_xyxy(pixels.shape[1], pixels.shape[0])))
        width = int(rng.uniform(*_WIDTH_PX))
        scene = place_grid(tiles, size=width, rows=rows, columns=columns)
        scene = _squeeze(scene, rows / columns, float(rng.uniform(1.0, _LARGEST_SQUEEZE)), rng)
        pixels = light_and_lens(restain(scene.pixels, rng, 0.8), rng, 0.5)
        yield Frame(index, 0, pixels, f"wide_{index:03d}"), scene.boxes_xyxy


def _squeeze(scene: Scene, proportion: float, squeeze: float, rng: np.random.Generator) -> Scene:
    """From a square canvas to the grid's own proportions, then squeezed in one direction."""
    if rng.random() < 0.5:
        squeeze = 1.0
    size = scene.pixels.shape[0]
    height = max(64, round(size * proportion))
    width = max(64, round(size / squeeze)) if rng.random() < 0.7 else size
    pixels = cv2.resize(scene.pixels, (width, height), interpolation=cv2.INTER_AREA)
    scale = np.array([width / size, height / size] * 2, np.float32)
    return Scene(np.asarray(pixels, np.uint8), scene.boxes_xyxy * scale)
