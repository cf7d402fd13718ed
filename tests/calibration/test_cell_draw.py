"""Cells are drawn class by class, by seed, and never from what is judged on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from calibration.cell_draw import draw_cells
from calibration.labelled_cells import CellPicture, CellRow, CellSplit, LabelledCells, OpenedCells
from edge_runtime.errors import DataError
from tests.support import write_image


@pytest.fixture
def source(tmp_path: Path) -> OpenedCells:
    """Ten training pictures with three cells each, most of class 0, and one validation picture."""
    pictures = []
    splits: list[CellSplit] = ["train"] * 10 + ["val"]
    for index, split in enumerate(splits):
        pixels = np.full((32, 40, 3), 20 * index, np.uint8)
        write_image(tmp_path / f"{index}.png", pixels)
        cells = tuple(
            CellRow(box_xywhn=(0.25 * (row + 1), 0.5, 0.2, 0.5), class_id=class_id)
            for row, class_id in enumerate((0, 0, 1 if index < 3 else 0))
        )
        pictures.append(CellPicture(file=f"{index}.png", split=split, domain="a", cells=cells))
    record = LabelledCells(
        name="toy", classes=("many", "few"), attributes=None, pictures=tuple(pictures)
    )
    return OpenedCells(record, tmp_path)


def classes_of(source: OpenedCells, cells: int, seed: int = 0) -> Counter[int]:
    drawn = draw_cells(source, cells=cells, minimum=1, seed=seed)
    return Counter(int(p.class_ids[row]) for p, rows in drawn.rows for row in rows)


def test_classes_take_turns_until_one_is_used_up(source: OpenedCells) -> None:
    assert classes_of(source, 4) == {0: 2, 1: 2}
    assert classes_of(source, 9) == {0: 6, 1: 3}
    assert classes_of(source, 1000) == {0: 27, 1: 3}


def test_same_seed_same_cells(source: OpenedCells) -> None:
    draws = [draw_cells(source, cells=8, minimum=1, seed=seed).digest for seed in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]


def test_fields_give_the_drawn_cells_only(source: OpenedCells) -> None:
    drawn = draw_cells(source, cells=5, minimum=1)
    boxes = [corners for _, corners in drawn.fields()]
    assert sum(len(each) for each in boxes) == drawn.count == 5
    assert all(pixels.shape == (32, 40, 3) for pixels, _ in drawn.fields())
    picture, rows = drawn.rows[0]
    assert (boxes[0] == picture.boxes_xyxy(40, 32)[rows]).all()


def test_too_few_cells_and_judged_pictures_are_refused(source: OpenedCells) -> None:
    with pytest.raises(DataError, match="30 labelled training cells in 'toy', at least 31"):
        draw_cells(source, cells=400, minimum=31)
    (source.root / "4.png").write_bytes((source.root / "10.png").read_bytes())
    with pytest.raises(DataError, match="is also evaluated on"):
        draw_cells(source, cells=400, minimum=1)
