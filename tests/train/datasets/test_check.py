"""What a check counts and finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.attributes import Attribute, AttributeSchema
from tests.support import paint_field, write_image
from train.datasets.check import AttributeCounts, check_set
from train.datasets.labelled import LabelledImage, LabelledSet, one_cell

SCHEMA = AttributeSchema(
    name="s",
    attributes=(
        Attribute(name="shape", values=("round", "odd")),
        Attribute(name="colour", values=("red", "pink", "nil")),
    ),
)


@pytest.fixture
def cells(tmp_path: Path) -> LabelledSet:
    rng = np.random.default_rng(0)
    images = []
    for i, (split, judged) in enumerate(
        [("train", (0, 2)), ("train", (1, -1)), ("val", (1, 0)), ("test", (-1, -1))]
    ):
        discs = rng.uniform((0, 0, 10), (128, 96, 30), (9, 3)).tolist()
        file = write_image(tmp_path / f"{i}.png", paint_field(128, 96, discs[:2], red_cells=discs))
        record = one_cell((0.5, 0.5, 0.1, 0.1), i % 2, judged)
        images.append(LabelledImage(file, split, "d", *record, group=f"g{i}"))
    return LabelledSet("s", tmp_path, ("a", "b"), SCHEMA, tuple(images))


def test_a_clean_set(cells: LabelledSet) -> None:
    seen: list[tuple[int, int]] = []
    report = check_set(cells, workers=2, progress=lambda done, wanted: seen.append((done, wanted)))
    assert report.exit_code == 0
    assert [report.cells_of(c, s) for c in (0, 1) for s in cells.splits] == [1, 1, 0, 1, 0, 1]
    assert report.attributes == (
        AttributeCounts("shape", (("round", 1), ("odd", 2)), 1),
        AttributeCounts("colour", (("red", 1), ("pink", 0), ("nil", 1)), 2),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_near_duplicates_and_groups_across_splits_are_warnings(cells: LabelledSet) -> None:
    first, second, third, fourth = cells.images
    fourth.image.write_bytes(first.image.read_bytes())
    second.image.write_bytes(first.image.read_bytes())
    crossing = replace(third, group="g1")
    report = check_set(cells.with_images((first, second, crossing, fourth)))
    assert [(pair.first.image, pair.second.image, pair.distance) for pair in report.near] == [
        (first.image, fourth.image, 0)
    ]
    assert report.crossing == {"g1": ("train", "val")}
    assert report.exit_code == 1
    assert check_set(cells, open_pictures=False).exit_code == 0
    assert check_set(replace(cells, warnings=("hm",)), open_pictures=False).exit_code == 1


def test_pictures_and_masks_that_cannot_be_used(cells: LabelledSet, tmp_path: Path) -> None:
    masks = []
    for i, (height, width, grey) in enumerate([(96, 128, 0), (50, 50, 255), (96, 128, 255)]):
        masks.append(
            write_image(tmp_path / f"m{i}.png", np.full((height, width, 3), grey, np.uint8))
        )
    (tmp_path / "m3.png").write_text("no mask")
    masks.append(tmp_path / "m3.png")
    images = [replace(each, mask=mask) for each, mask in zip(cells.images, masks, strict=True)]
    images[2] = replace(images[2], size_px=(96, 128))
    images[3].image.write_bytes(images[3].image.read_bytes()[:200])
    why = check_set(cells.with_images(tuple(images))).unusable
    assert [line.removeprefix(f"{tmp_path}/") for line in why] == [
        "m0.png: no cell in it",
        "m1.png: 50 x 50 px, its picture has 128 x 96",
        "2.png: 128 x 96 px, its labels say 96 x 128",
        "3.png: truncated PNG: its end is missing",
    ]
    images[3] = replace(images[3], image=cells.images[0].image)
    report = check_set(cells.with_images(tuple(images)))
    assert report.unusable[-1].endswith("m3.png: not a readable mask")
    assert report.exit_code == 2


def test_a_bad_row_makes_the_set_bad(cells: LabelledSet) -> None:
    assert check_set(replace(cells, bad=("a:1: b",)), open_pictures=False).exit_code == 2


def test_records_whose_parts_disagree_are_refused(cells: LabelledSet) -> None:
    with pytest.raises(ValueError, match="disagree"):
        replace(cells.images[0], class_ids=np.zeros((2,), np.int64))
