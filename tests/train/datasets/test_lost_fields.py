"""No picture, label or class of a site's folder goes missing without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from tests.train.site_folders import (
    DrawnField,
    coco_document,
    drawn_fields,
    save_pictures,
    write_coco,
    write_cvat,
    write_flat_yolo,
    write_yolo,
)
from train.datasets.site_fields import read_site_fields
from train.datasets.yolo_set import read as read_yolo_set


def subset(root: Path, name: str, fields: list[DrawnField]) -> Path:
    """A subset of CVAT's "YOLO 1.1"."""
    write_flat_yolo(root / name, fields)
    (root / name / "classes.txt").rename(root / "obj.names")
    return root


def test_subsets_of_cvat_are_read_whatever_their_names(tmp_path: Path) -> None:
    fields = drawn_fields(7)
    for name, part in (
        ("obj_Train_data", fields[:3]),
        ("obj_Validation_data", fields[3:4]),
        ("obj_Test_data", fields[4:5]),
        ("obj_night shift_data", fields[5:]),
    ):
        subset(tmp_path, name, part)
    found = read_site_fields(tmp_path).require_clean()
    splits = {each.image.name: each.split for each in found.images}
    assert [splits[each.name] for each in fields] == [*["train"] * 3, "val", "test", "all", "all"]


@pytest.mark.parametrize("place", ["images/film2", "more", "images/train/film2"])
def test_pictures_where_no_labels_are_looked_for_are_refused(tmp_path: Path, place: str) -> None:
    fields = drawn_fields(4)
    root = write_yolo(tmp_path / "own", fields[:2], "train" if "train" in place else "")
    save_pictures(root / place, fields[2:])
    with pytest.raises(DataError, match=rf"1 bad rows.*\n.*{place}: ") as caught:
        read_site_fields(root).require_clean()
    assert ("no known split" in str(caught.value)) == (place == "images/film2")


def test_a_split_whose_labels_are_missing_is_refused(tmp_path: Path) -> None:
    fields = drawn_fields(4)
    for split, part in (("train", fields[:2]), ("valid", fields[2:])):
        write_yolo(tmp_path / split, part)
        shutil.move(tmp_path / split / "classes.txt", tmp_path / "classes.txt")
    assert len(read_site_fields(tmp_path).require_clean().images) == 4
    shutil.rmtree(tmp_path / "valid" / "labels")
    with pytest.raises(DataError, match=r"valid/images: 2 pictures where no labels are looked for"):
        read_site_fields(tmp_path).require_clean()


def test_hidden_pictures_are_nobodys(tmp_path: Path) -> None:
    root = write_flat_yolo(tmp_path, drawn_fields(2))
    save_pictures(root / ".thumbnails", drawn_fields(2))
    save_pictures(root / "more", drawn_fields(1))
    (root / "more" / "field_00.png").rename(root / "more" / "._field_00.png")
    assert len(read_site_fields(root).require_clean().images) == 2


def test_labels_beside_a_lost_picture_are_refused_and_notes_are_not(tmp_path: Path) -> None:
    root = write_flat_yolo(tmp_path, drawn_fields(3))
    (root / "notes.txt").write_text("stained on Monday\n")
    (root / "train.txt").write_text("field_00.png\n")
    assert len(read_site_fields(root).require_clean().images) == 3
    # A camera's format that is none of ours.
    (root / "field_01.png").rename(root / "field_01.heic")
    with pytest.raises(DataError, match=r"1 bad rows.*\n.*field_01\.txt:1: labels without a pict"):
        read_site_fields(root).require_clean()


@pytest.mark.parametrize("names", [("白细胞", "红细胞"), ("CD4+", "CD4-")])
def test_classes_in_other_scripts_or_that_differ_in_a_sign_are_read(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    root = write_yolo(tmp_path, drawn_fields(2), classes=names)
    for found in (read_site_fields(root), read_yolo_set(root)):
        assert found.require_clean().classes == names
        assert found.images[0].class_ids.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_class_lists_of_other_editors(tmp_path: Path, name: str) -> None:
    root = write_yolo(tmp_path, drawn_fields(2))
    (root / "classes.txt").unlink()
    (root / name).write_bytes("\ufeffWBC\r\nplatelet\r\n\r\n".encode())
    assert read_site_fields(root).require_clean().classes == ("WBC", "platelet")
    # Class 1 has no name here; platelet is class 2.
    (root / name).write_text("WBC\n\nplatelet\n")
    with pytest.raises(DataError, match=rf"{name}:2: an empty line"):
        read_site_fields(root)


def test_a_damaged_file_of_labels_beside_a_whole_one_is_refused(tmp_path: Path) -> None:
    fields = drawn_fields(4)
    root = write_coco(tmp_path, fields[:2])
    save_pictures(root / "images", fields[2:])
    more = root / "annotations" / "second_batch.json"
    more.write_text(json.dumps(coco_document(fields[2:]))[:-30])
    with pytest.raises(DataError, match=r"second_batch\.json: no JSON: Unterminated .* mend it"):
        read_site_fields(root)
    (root / "annotations" / "instances_default.json").unlink()
    with pytest.raises(DataError, match=r"no labels in a known format.*second_batch\.json: no JS"):
        read_site_fields(root)


@pytest.mark.parametrize("write", [write_coco, write_cvat])
def test_pictures_that_no_entry_names_are_told(tmp_path: Path, write: object) -> None:
    assert callable(write)
    fields = drawn_fields(5)
    root = write(tmp_path, fields[:3])
    assert read_site_fields(root).notes == ()
    save_pictures(root / "images", fields[3:])
    found = read_site_fields(root).require_clean()
    assert len(found.images) == 3
    assert len(found.notes) == 1
    assert found.notes[0].startswith("2 pictures in ")
    assert found.notes[0].endswith("such as images/field_03.png")


def test_an_export_that_was_not_unpacked_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "export.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"export\.zip: a file; unpack the export"):
        read_site_fields(tmp_path / "export.zip")
    for labels in ("auto", "yolo", "coco", "cvat"):
        with pytest.raises(DataError, match="absent: no such folder"):
            read_site_fields(tmp_path / "absent", labels)


def test_pictures_of_one_name_are_grouped_by_their_paths(tmp_path: Path) -> None:
    fields = drawn_fields(2)
    for film, field in enumerate(fields):
        save_pictures(tmp_path / "images" / f"film{film}", [field])
        picture = tmp_path / "images" / f"film{film}" / field.name
        picture.rename(picture.with_name("001.png"))
    document = coco_document(fields)
    for film, entry in enumerate(document["images"]):
        entry["file_name"] = f"film{film}/001.png"
    (tmp_path / "labels.json").write_text(json.dumps(document))
    table = tmp_path / "groups.csv"
    table.write_text("image,group\nimages/film0/001.png,first\nimages/film1/001.png,second\n")
    found = read_site_fields(tmp_path).require_clean()
    assert [each.group for each in found.images] == ["first", "second"]
    table.write_text("image,group\n001.png,first\n")
    with pytest.raises(DataError, match=r"groups\.csv: 2 pictures are called 001\.png; write the"):
        read_site_fields(tmp_path).require_clean()
