"""PCM-Leukemia: nine classes, two, or eight; validation by patient or as the paper does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from tests.train.datasets.conftest import WriteField
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledSet
from train.datasets.splits import groups_in_several_splits, with_validation

ROWS = "0 0.2 0.2 0.1 0.1\n8 0.5 0.5 0.1 0.1\n6 0.8 0.8 0.1 0.1\n"


def read(root: Path, mapping: str | None = None) -> LabelledSet:
    return read_dataset("pcm-leukemia", root, mapping=mapping)


@pytest.fixture
def folder(tmp_path: Path, write_field: WriteField) -> Path:
    for number in range(20):
        write_field(tmp_path, "train", f"f{number}", ROWS if number else "8 0.5 0.5 0.1 0.1")
    write_field(tmp_path, "test", "t", ROWS)
    lines = [f"f{number}.png,p{number // 4}" for number in range(20)]
    (tmp_path / "groups.csv").write_text("\n".join(["image,group", *lines, "t.png,q"]) + "\n")
    return tmp_path


def test_nine_classes_become_two_with_every_cell_kept(folder: Path) -> None:
    nine, two = read(folder).require_clean(), read(folder, "binary")
    assert nine.images[1].class_ids.tolist() == [0, 8, 6]
    assert two.classes == ("WBC", "Other")
    assert two.images[1].class_ids.tolist() == [0, 1, 0]
    assert two.images[1].boxes_xywhn.tolist() == nine.images[1].boxes_xywhn.tolist()


def test_the_second_stage_leaves_other_out_and_keeps_its_picture(folder: Path) -> None:
    cells = read(folder, "cells")
    assert "Other" not in cells.classes
    assert cells.images[1].class_ids.tolist() == [0, 6]
    assert cells.images[1].boxes_xywhn[:, 0].tolist() == pytest.approx([0.2, 0.8])
    assert (len(cells.images), len(cells.images[0])) == (21, 0)


def test_validation_by_patient_and_the_papers_random_fifth(folder: Path) -> None:
    cells = read(folder).require_clean()
    by_patient = with_validation(cells, "group", seed=0)
    assert groups_in_several_splits(by_patient.images) == {}
    assert len(by_patient.of_split("val")) == 4
    random = with_validation(cells, "random", seed=0)
    assert len(random.of_split("val")) == 4
    assert groups_in_several_splits(random.images) != {}
    for split in (by_patient, random):
        assert [each.image for each in split.of_split("test")] == [folder / "images/test/t.png"]


def test_without_patients_there_is_no_split_by_patient(folder: Path) -> None:
    (folder / "groups.csv").unlink()
    cells = read(folder)
    assert any("21 pictures without a patient" in note for note in cells.notes)
    with pytest.raises(DataError, match=r"add groups\.csv"):
        with_validation(cells, "group")


def test_bad_rows_of_the_patient_file_are_named(folder: Path) -> None:
    with (folder / "groups.csv").open("a") as file:
        file.write("f0.png\nf0.png,p9\nx.png,p1\n")
    bad = read(folder).bad
    assert "groups.csv:23: expected image,group" in bad[0]
    assert "groups.csv:24: f0.png is of p0 already" in bad[1]
    assert "groups.csv:25: no such picture as x.png" in bad[2]
    (folder / "groups.csv").write_text("name,patient\n")
    with pytest.raises(DataError, match=r"groups\.csv:1: expected the columns image,group"):
        read(folder)


def test_attribute_rows_are_not_taken_for_boxes(tmp_path: Path, write_field: WriteField) -> None:
    write_field(tmp_path, "train", "a", "0 0.5 0.5 0.1 0.1 0 1 0 1 0 1\n")
    with pytest.raises(DataError, match=r"a\.txt:1: 11 columns, expected 5"):
        read(tmp_path).require_clean()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a PCM-Leukemia folder"):
        read(tmp_path)
