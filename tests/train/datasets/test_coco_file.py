"""COCO files, one fault at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import DataError
from tests.train.site_folders import coco_document, drawn_fields, save_pictures
from train.datasets.coco_file import coco_files, read_coco

Change = Callable[[dict[str, Any]], None]


def write(root: Path, change: Change = lambda document: None, *, name: str = "labels.json") -> Path:
    fields = drawn_fields(2)
    save_pictures(root, fields)
    document = coco_document(fields)
    change(document)
    (root / name).write_text(json.dumps(document))
    return root


def first(kind: str, **values: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        document[kind][0].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (first("images", file_name="gone.png"), r"images\[0\]: picture 'gone.png': no such file"),
        (first("images", file_name="../a.png"), r"images\[0\]: picture '../a.png' leaves the"),
        (first("images", file_name="/etc/a.png"), r"images\[0\]: picture '/etc/a.png' leaves"),
        (first("images", file_name="C:\\a.png"), r"images\[0\]: picture .* leaves the folder"),
        (
            first("images", file_name="x" * 300),
            r"images\[0\]: picture 'x{100}\.\.\.': no such file",
        ),
        (first("images", file_name=None), r"images\[0\]: an image without a file_name"),
        (first("images", width=0), r"images\[0\]: field_00.png: width and height are no pos"),
        (first("images", height=float("nan")), r"images\[0\]: field_00.png: width and height"),
        (first("images", id=2), r"images\[1\]: image id 2 is given twice"),
        (first("images", file_name="field_01.png"), r"images\[1\]: .*field_01.png is described tw"),
        (first("annotations", bbox=[1, 2, 3]), r"annotations\[0\]: bbox \[1, 2, 3\]: expected fou"),
        (first("annotations", bbox=[1, 2, "3", 4]), r"annotations\[0\]: bbox .* expected four"),
        (first("annotations", bbox=[90, 2, 30, 4]), r"annotations\[0\]: box leaves the image"),
        (first("annotations", bbox=[9, 2, 0, 4]), r"annotations\[0\]: box without area"),
        (first("annotations", bbox=[9, 2, 10**400, 4]), r"annotations\[0\]: bbox"),
        (first("annotations", category_id=4), r"annotations\[0\]: category_id 4 is none of the"),
        (first("annotations", image_id=77), r"annotations\[0\]: image_id 77 is none of the usabl"),
        (first("annotations", image_id=[1]), r"annotations\[0\]: image_id \[1\] is none"),
        (first("annotations", iscrowd=1), r"annotations\[0\]: iscrowd: a crowd is no cell"),
        (first("annotations", attributes={"rotation": 30.0}), r"annotations\[0\]: turned box"),
        (first("annotations", attributes={"rotation": "a"}), r"annotations\[0\]: turned box"),
    ],
)
def test_a_bad_entry_is_listed_by_its_place(tmp_path: Path, change: Change, line: str) -> None:
    found = read_coco(write(tmp_path, change))
    with pytest.raises(DataError, match=line):
        found.require_clean()


def test_a_box_turned_all_the_way_is_upright(tmp_path: Path) -> None:
    found = read_coco(write(tmp_path, first("annotations", attributes={"rotation": 360.0})))
    assert [len(each) for each in found.require_clean().images] == [2, 2]


def test_bad_categories_end_the_reading(tmp_path: Path) -> None:
    write(tmp_path, first("categories", name=" "))
    with pytest.raises(DataError, match=r"categories\[0\]: needs an id and a name"):
        read_coco(tmp_path)
    write(tmp_path, first("categories", id=11))
    with pytest.raises(DataError, match=r"categories\[1\]: id 11 is given twice"):
        read_coco(tmp_path)


def test_splits_come_from_names_and_classes_of_files_go_together(tmp_path: Path) -> None:
    fields = drawn_fields(4)
    for split, part in (("train", fields[:2]), ("valid", fields[2:])):
        save_pictures(tmp_path / split, part)
        document = coco_document(part)
        if split == "valid":
            # The same names under other numbers, and in another order.
            for entry in document["annotations"]:
                entry["category_id"] = {3: 1, 11: 0}[entry["category_id"]]
            document["categories"] = [{"id": 0, "name": "platelet"}, {"id": 1, "name": "WBC"}]
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(document))
    found = read_coco(tmp_path).require_clean()
    assert found.classes == ("WBC", "platelet")
    assert [(each.split, each.class_ids.tolist()) for each in found.images] == [
        ("train", [0, 1]),
        ("train", [0, 1]),
        ("val", [0, 1]),
        ("val", [0, 1]),
    ]


def test_pictures_of_one_name_in_two_places_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    save_pictures(tmp_path / "images", drawn_fields(1))
    with pytest.raises(DataError, match="several files of that name"):
        read_coco(tmp_path).require_clean()


def test_a_damaged_file_is_named_and_other_json_is_no_label_file(tmp_path: Path) -> None:
    (tmp_path / "info.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert coco_files(tmp_path) == []
    with pytest.raises(DataError, match="no JSON file in COCO form"):
        read_coco(tmp_path)
    (tmp_path / "instances_default.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_default\.json: no JSON"):
        read_coco(tmp_path)
