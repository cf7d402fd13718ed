"""Sparse fields: every training picture has a patch, also the one whose patch holds no cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import DataError, SettingsError
from tests.train.datasets.conftest import WriteField
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledSet
from train.datasets.patches import write_patches

BOX = "2 0.3 0.3 0.05 0.1"
ATTRIBUTES = "1 0 2 1 0 1"
CORNERS = f"{BOX} 64 128 320 256 {ATTRIBUTES}"
AXES = f"{BOX} 64 320 128 256 {ATTRIBUTES}"
FRACTIONS = f"{BOX} 0.1 0.5 0.2 0.4 0 {ATTRIBUTES}"
BOTH = f"2 0.2 0.5 0.05 0.1 0.1 0.3 0.4 0.9 {ATTRIBUTES}"
WHOLE = f"2 0.9 0.9 0.05 0.1 {ATTRIBUTES}"


def read(root: Path) -> LabelledSet:
    return read_dataset("sparse-leukemia-attri", root)


@pytest.mark.parametrize("row", [CORNERS, AXES, FRACTIONS], ids=["15", "15 axes", "16 fractions"])
def test_both_orders_and_units_give_one_patch_per_picture(
    tmp_path: Path, write_field: WriteField, row: str
) -> None:
    second = row.replace("0.3 0.3", "0.4 0.25", 1)
    write_field(tmp_path, "train", "1_1_400_ALL", f"{row}\n{second}\n")
    write_field(tmp_path, "test", "2_1_400_ALL", WHOLE)
    train, test = read(tmp_path).require_clean().images
    assert train.patch_xyxyn == pytest.approx((0.1, 0.2, 0.5, 0.4))
    assert (len(train), train.group) == (2, "1")
    assert test.patch_xyxyn is None


def test_a_patch_without_a_cell_survives_through_the_patch_file(
    tmp_path: Path, write_field: WriteField
) -> None:
    write_field(tmp_path, "train", "1_1_400_ALL", CORNERS)
    write_field(tmp_path, "train", "1_2_400_ALL", "")
    before = read(tmp_path)
    assert [each.image.stem for each in before.images] == ["1_1_400_ALL"]
    assert before.bad == ()
    assert "1 pictures have no row and no patch in patches.csv" in before.warnings[0]

    write_patches(tmp_path / "patches.csv", before.images)
    with (tmp_path / "patches.csv").open("a") as file:
        file.write("train,1_2_400_ALL.png,0.5,0.5,0.9,0.9\n")
    after = read(tmp_path).require_clean()
    assert after.warnings == ()
    assert [(each.patch_xyxyn, len(each)) for each in after.images] == [
        ((0.1, 0.2, 0.5, 0.4), 1),
        ((0.5, 0.5, 0.9, 0.9), 0),
    ]
    assert any(note.startswith("1 patches with no label in them: valid") for note in after.notes)


def test_labels_without_patch_columns_take_it_from_the_file(
    tmp_path: Path, write_field: WriteField
) -> None:
    write_field(tmp_path, "train", "1_1_400_ALL", f"{BOX} {ATTRIBUTES}")
    (found,) = read(tmp_path).bad
    assert "1_1_400_ALL.txt:1: no patch, neither here nor in patches.csv" in found
    (tmp_path / "patches.csv").write_text(
        "split,image,x1,y1,x2,y2\ntrain,1_1_400_ALL.png,0.1,0.2,0.5,0.4\n"
    )
    assert read(tmp_path).require_clean().images[0].patch_xyxyn == (0.1, 0.2, 0.5, 0.4)


def test_the_patch_file_and_the_rows_must_agree(tmp_path: Path, write_field: WriteField) -> None:
    write_field(tmp_path, "train", "1_1_400_ALL", CORNERS)
    (tmp_path / "patches.csv").write_text(
        "split,image,x1,y1,x2,y2\ntrain,1_1_400_ALL.png,0.1,0.2,0.6,0.4\ntrain,x.png,0,0,1,1\n"
    )
    bad = read(tmp_path).bad
    assert "patches.csv:3: no such picture as train/x.png" in bad[0]
    assert "1_1_400_ALL.txt:1: its patch is not the one in patches.csv" in bad[1]
    assert len(bad) == 2


def test_two_patches_in_one_picture_are_refused(tmp_path: Path, write_field: WriteField) -> None:
    write_field(tmp_path, "train", "1_1_400_ALL", f"{CORNERS}\n{CORNERS.replace('320', '330')}\n")
    with pytest.raises(DataError, match=r"ALL\.txt:2: another patch than line 1"):
        read(tmp_path).require_clean()


def test_an_ambiguous_order_is_refused_until_it_is_named(
    tmp_path: Path, write_field: WriteField
) -> None:
    write_field(tmp_path, "train", "1_1_400_ALL", BOTH)
    with pytest.raises(DataError, match="ambiguous: both orders fit all 1 pictures; say which"):
        read(tmp_path).require_clean()
    named = read_dataset("sparse-leukemia-attri", tmp_path, patch_order="x1,y1,x2,y2")
    assert named.require_clean().images[0].patch_xyxyn == (0.1, 0.3, 0.4, 0.9)


def test_when_no_order_fits_the_odd_row_is_named(tmp_path: Path, write_field: WriteField) -> None:
    for number in range(4):
        write_field(tmp_path, "train", f"1_{number}_400_ALL", CORNERS)
    write_field(tmp_path, "train", "1_9_400_ALL", CORNERS.replace("0.3 0.3", "0.7 0.3"))
    bad = read(tmp_path).bad
    assert "fit no order: of 5 pictures x1,y1,x2,y2 fails in 1, x1,x2,y1,y2 fails in 5" in bad[0]
    assert "1_9_400_ALL.txt:1: cell centre (0.7000, 0.3000) outside the patch" in bad[1]
    assert len(bad) == 2


def test_an_order_where_there_are_no_patches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="wbc-masks has no patch columns"):
        read_dataset("wbc-masks", tmp_path, patch_order="x1,y1,x2,y2")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a Sparse-LeukemiaAttri folder"):
        read(tmp_path)
