"""Drawing labelled training cells that set a head's int8 ranges: seeded, classes in turn.

Owns the draw, its digest and what it refuses. Does not own the record of labelled cells
(see ``labelled_cells``) nor the tensors made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calibration.labelled_cells import CellPicture, OpenedCells
from calibration.sampling import hash_files
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array, UInt8Image

DEFAULT_CELLS = 400
DEFAULT_MINIMUM_CELLS = 100


@dataclass(frozen=True, slots=True)
class DrawnCells:
    """Cells of the training split.

    Attributes:
        source: the record they are from.
        rows: per picture, which of its cells; in the record's order.
        digest: SHA-256 over the pictures' contents and the cells chosen of them.
    """

    source: OpenedCells
    rows: tuple[tuple[CellPicture, Int64Array], ...]
    digest: str

    @property
    def count(self) -> int:
        """Cells in all."""
        return sum(len(rows) for _, rows in self.rows)

    def fields(self) -> Iterator[tuple[UInt8Image, Float32Array]]:
        """Pixels ``(H, W, 3)`` and the drawn cells' corners ``(n, 4)`` of every picture."""
        for picture, rows in self.rows:
            pixels = picture.read(self.source.root)
            yield pixels, picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])[rows]


def draw_cells(
    source: OpenedCells, *, cells: int, minimum: int = DEFAULT_MINIMUM_CELLS, seed: int = 0
) -> DrawnCells:
    """Draws training cells, one of each class in turn as long as it has any.

    Args:
        source: the record.
        cells: how many, at most.
        minimum: fewer are refused.
        seed: of the draw.

    Raises:
        DataError: too few, or a picture is also evaluated on.
    """
    pictures = source.cells.of_split("train")
    by_class: dict[int, list[tuple[int, int]]] = {}
    for index, picture in enumerate(pictures):
        for row, class_id in enumerate(picture.class_ids.tolist()):
            by_class.setdefault(class_id, []).append((index, row))
    rng = np.random.default_rng(seed)
    queues = [
        [group[place] for place in rng.permutation(len(group)).tolist()]
        for _, group in sorted(by_class.items())
    ]
    chosen: list[tuple[int, int]] = []
    while len(chosen) < cells and any(queues):
        for queue in queues:
            if queue and len(chosen) < cells:
                chosen.append(queue.pop())
    if len(chosen) < max(minimum, 1):
        raise DataError(
            f"calibration: {len(chosen)} labelled training cells in {source.cells.name!r}, at "
            f"least {max(minimum, 1)} are needed: int8 ranges are measured and never assumed"
        )
    rows: dict[int, list[int]] = {}
    for index, row in sorted(chosen):
        rows.setdefault(index, []).append(row)
    drawn = tuple((pictures[index], np.array(own, np.int64)) for index, own in rows.items())
    return DrawnCells(source, drawn, _digest(source, drawn))


def _digest(source: OpenedCells, drawn: tuple[tuple[CellPicture, Int64Array], ...]) -> str:
    files = [source.root / picture.file for picture, _ in drawn]
    hashes = hash_files(files)
    judged = {*hash_files([*source.files("val"), *source.files("test")])}
    for file, digest in zip(files, hashes, strict=True):
        if digest in judged:
            raise DataError(
                f"calibration: {file} is also evaluated on; take it out of the training split"
            )
    lines = sorted(
        f"{digest} {','.join(map(str, rows.tolist()))}"
        for digest, (_, rows) in zip(hashes, drawn, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
