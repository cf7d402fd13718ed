"""Which part of a sparsely annotated picture is labelled.

Owns what four patch columns mean and the file ``patches.csv``, which keeps the patch of every
picture, also of one whose patch holds no cell and which therefore has no label row. Does not
own label files.

The published description of the columns (x1 x2 y1 y2) and the published program (x1 y1 x2 y2,
pixels of a square network picture) disagree, so the order is told from the data: cells are
labelled inside their patch only.
"""

from __future__ import annotations

import csv
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array
from train.datasets.labelled import LabelledImage, Patch
from train.datasets.schemas import PatchOrder

PATCH_FILE = "patches.csv"
_HEADER = ("split", "image", "x1", "y1", "x2", "y2")
_ORDERS: dict[PatchOrder, tuple[int, int, int, int]] = {
    "x1,y1,x2,y2": (0, 1, 2, 3),
    "x1,x2,y1,y2": (0, 2, 1, 3),
}
# Patches and centres are rounded to pixels of a picture at least 500 wide.
_SLACK = 0.002


class PatchLayoutError(DataError):
    """No order of the patch columns, or more than one, fits the labels.

    Attributes:
        offenders: ``file:line: why`` where the order that fits best does not fit.
    """

    def __init__(self, message: str, offenders: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.offenders = offenders


@dataclass(frozen=True, slots=True)
class PatchColumns:
    """The four numbers of one picture, and the centres of its cells.

    Attributes:
        where: ``file:line`` they stand at.
        centres_xyn: float32 ``(N, 2)``, fractions of the picture.
    """

    where: str
    values: tuple[float, float, float, float]
    centres_xyn: Float32Array


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """How to turn four patch columns into a patch; ``divisor`` is 1 for fractions."""

    order: PatchOrder
    divisor: float

    def patch(self, values: tuple[float, float, float, float]) -> Patch:
        """x1, y1, x2, y2 as fractions, clipped to the picture."""
        ordered = [values[i] / self.divisor for i in _ORDERS[self.order]]
        x1, y1, x2, y2 = (min(1.0, max(0.0, value)) for value in ordered)
        return x1, y1, x2, y2

    def misfit(self, columns: PatchColumns) -> str | None:
        """Why the columns of one picture cannot be meant so, or None."""
        x1, y1, x2, y2 = (columns.values[i] / self.divisor for i in _ORDERS[self.order])
        if not (x1 < x2 and y1 < y2):
            return f"patch {_shown(columns.values)} read as {self.order} has no area"
        if min(x1, y1) < -_SLACK or max(x2, y2) > 1 + _SLACK:
            return f"patch {_shown(columns.values)} read as {self.order} leaves the picture"
        for x, y in columns.centres_xyn:
            inside = x1 - _SLACK <= x <= x2 + _SLACK and y1 - _SLACK <= y <= y2 + _SLACK
            if not inside:
                return (
                    f"cell centre ({x:.4f}, {y:.4f}) outside the patch "
                    f"{_shown(columns.values)} read as {self.order}"
                )
        return None


def detect_layout(
    pictures: Sequence[PatchColumns], *, frame_px: int, order: PatchOrder | None = None
) -> PatchLayout:
    """The one meaning of the patch columns that fits every picture of a data set.

    Args:
        pictures: at least one.
        frame_px: side of the square picture that pixel values refer to; values that are all
            at most 1 are fractions.
        order: takes the place of the choice, not of the check.

    Raises:
        PatchLayoutError: no order fits all pictures, or both do.
    """
    fractions = all(value <= 1 for each in pictures for value in each.values)
    divisor = 1.0 if fractions else float(frame_px)
    candidates = [PatchLayout(each, divisor) for each in (_ORDERS if order is None else [order])]
    misfits = {
        layout.order: tuple(
            f"{each.where}: {why}" for each in pictures if (why := layout.misfit(each)) is not None
        )
        for layout in candidates
    }
    fitting = [layout for layout in candidates if not misfits[layout.order]]
    if len(fitting) == 1:
        return fitting[0]
    unit = "fractions" if fractions else f"pixels of {frame_px}"
    if fitting:
        raise PatchLayoutError(
            f"patch columns ({unit}) are ambiguous: both orders fit all {len(pictures)} "
            f"pictures; say which with --patch-order {' or '.join(_ORDERS)}"
        )
    counts = ", ".join(f"{name} fails in {len(rows)}" for name, rows in misfits.items())
    best = min(misfits.values(), key=len)
    raise PatchLayoutError(
        f"patch columns ({unit}) fit no order: of {len(pictures)} pictures {counts}",
        best if len(best) < len(pictures) else (),
    )


def write_patches(path: Path, images: Iterable[LabelledImage]) -> None:
    """Writes ``patches.csv`` for all pictures that have a patch, as fractions."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(_HEADER)
        for each in images:
            if each.patch_xyxyn is not None:
                values = (f"{value:.6f}" for value in each.patch_xyxyn)
                writer.writerow([each.split, each.image.name, *values])


def read_patches(
    path: Path, known: Container[tuple[str, str]]
) -> tuple[dict[tuple[str, str], Patch], list[str]]:
    """Patches by split and image name, and one ``file:line: why`` for every bad row.

    Args:
        path: the file.
        known: the pictures there are, as split and image name.

    Raises:
        DataError: the file cannot be read or has other columns.
    """
    patches: dict[tuple[str, str], Patch] = {}
    bad: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    reader = csv.reader(lines)
    if tuple(next(reader, ())) != _HEADER:
        raise DataError(f"{path}:1: expected the columns {','.join(_HEADER)}")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        try:
            split, image, *numbers = row
            x1, y1, x2, y2 = (float(text) for text in numbers)
        except ValueError:
            bad.append(f"{where}: expected {','.join(_HEADER)}, got {','.join(row)!r}")
            continue
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
            bad.append(f"{where}: no patch inside the picture: {_shown((x1, y1, x2, y2))}")
        elif (split, image) not in known:
            bad.append(f"{where}: no such picture as {split}/{image}")
        elif (split, image) in patches:
            bad.append(f"{where}: {split}/{image} has a patch already")
        else:
            patches[split, image] = (x1, y1, x2, y2)
    return patches, bad


def _shown(values: tuple[float, float, float, float]) -> str:
    return " ".join(f"{value:g}" for value in values)
