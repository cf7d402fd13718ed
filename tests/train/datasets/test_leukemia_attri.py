"""LeukemiaAttri's folders, in text and in JSON: the same record from both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.attributes import MISSING
from edge_runtime.errors import DataError
from tests.support import paint_field, write_image
from tests.train.datasets.conftest import WriteField
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledSet
from train.datasets.splits import groups_in_several_splits, hold_out_by_group

NAME = "18_33_1000_ALL"
ROW = "2 0.5 0.5 0.25 0.5 1 0 2 1 0 1"
KEYS = (
    "nuclear_chromatio",
    "nuclear_shape",
    "nucleolus",
    "cytoplasm",
    "cytoplasmic_basophilia",
    "cytoplasmic_vacuoles",
)


def read(root: Path) -> LabelledSet:
    return read_dataset("leukemia-attri", root)


def coco(**changes: Any) -> dict[str, Any]:
    """One picture with the cell of ``ROW``."""
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [48, 24, 32, 48]}
    annotation |= dict(zip(KEYS, (1, 0, 2, 1, 0, 1), strict=True))
    return {
        "images": [{"id": 7, "file_name": f"{NAME}.png", "width": 128, "height": 96}],
        "annotations": [annotation],
        "categories": [{"id": 2, "name": "Lymphoblast"}],
    } | changes


def write_coco(root: Path, document: object, split: str = "train") -> Path:
    (root / "Images" / split).mkdir(parents=True, exist_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{split}.json").write_text(json.dumps(document))
    write_image(root / "Images" / split / f"{NAME}.png", paint_field(128, 96, [(64, 48, 30)]))
    return root


@pytest.mark.parametrize("row", [ROW, ROW.replace("0.5 1", "0.5 1 1", 1)], ids=["11", "12"])
def test_rows_become_the_record(tmp_path: Path, write_field: WriteField, row: str) -> None:
    write_field(tmp_path, "train", NAME, row)
    (image,) = read(tmp_path).require_clean().images
    assert (image.split, image.group, image.patch_xyxyn) == ("train", "18", None)
    assert image.boxes_xywhn.tolist() == [[0.5, 0.5, 0.25, 0.5]]
    assert image.class_ids.tolist() == [2]
    assert image.attributes.tolist() == [[1, 0, MISSING, 1, 0, 1]]
    assert image.field.boxes_xyxy(128, 96).tolist() == [[48, 24, 80, 72]]


def test_json_gives_the_same_record_as_text(tmp_path: Path, write_field: WriteField) -> None:
    write_field(tmp_path / "text", "train", NAME, ROW)
    (one,) = read(tmp_path / "text").images
    (other,) = read(write_coco(tmp_path / "json", coco())).require_clean().images
    for name in ("boxes_xywhn", "class_ids", "attributes"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    assert (one.split, one.group) == (other.split, other.group)
    assert other.size_px == (128, 96)


def test_the_right_spelling_is_read_too_and_an_absent_key_is_missing(tmp_path: Path) -> None:
    document = coco()
    (annotation,) = document["annotations"]
    annotation["nuclear_chromatin"] = annotation.pop("nuclear_chromatio")
    del annotation["cytoplasm"]
    (image,) = read(write_coco(tmp_path, document)).require_clean().images
    assert image.attributes.tolist() == [[1, 0, MISSING, MISSING, 0, 1]]


def test_a_picture_without_annotations_has_no_cells(tmp_path: Path) -> None:
    (image,) = read(write_coco(tmp_path, coco(annotations=[]))).require_clean().images
    assert (len(image), image.attributes.shape) == (0, (0, 6))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_id": 8}, "image_id 8 is none of the images"),
        ({"image_id": None}, "image_id None"),
        ({"category_id": 14}, r"class 14 outside 0\.\.13"),
        ({"category_id": None}, "not numbers"),
        ({"bbox": [1, 2, 3]}, "expected four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "expected four numbers"),
        ({"bbox": [1, 2, 0, 5]}, "box without area"),
        ({"bbox": [100, 2, 60, 5]}, "box leaves the image"),
        ({"nuclear_shape": 3}, "nuclear_shape '3': unknown value"),
    ],
)
def test_a_bad_annotation_is_named_by_its_place(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    document = coco()
    document["annotations"].append(document["annotations"][0] | change)
    found = read(write_coco(tmp_path, document))
    assert len(found.images[0]) == 1
    with pytest.raises(DataError, match=rf"train\.json:annotations\[1\]: .*{why}"):
        found.require_clean()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"id": 7, "file_name": f"{NAME}.png", "width": 1, "height": 1}, "id 7 is given twice"),
        ({"id": 8, "file_name": "../x.png", "width": 1, "height": 1}, "leaves the folder"),
        ({"id": 8, "file_name": "/x.png", "width": 1, "height": 1}, "leaves the folder"),
        ({"id": 8, "file_name": "x.png", "width": 1, "height": 1}, "no such picture"),
        ({"id": 8, "file_name": f"{NAME}.png", "width": 0}, "no positive numbers"),
        ({"id": 8}, "without a file_name"),
        ({}, "without an id"),
        (3, "without an id"),
    ],
)
def test_a_bad_picture_entry_is_named_by_its_place(tmp_path: Path, entry: object, why: str) -> None:
    document = coco()
    document["images"].append(entry)
    with pytest.raises(DataError, match=rf"train\.json:images\[1\]: .*{why}"):
        read(write_coco(tmp_path, document)).require_clean()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "not in COCO form"),
        ({"images": []}, "not in COCO form"),
        (coco(categories=[{"id": 2, "name": "Basophil"}]), "category 2 is 'Basophil', expected Ly"),
        (coco(categories=[{"id": 20, "name": "x"}]), "category 20 is 'x', expected no such id"),
        (coco(categories=[3]), "category None"),
    ],
)
def test_json_in_another_form_is_refused(tmp_path: Path, document: object, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read(write_coco(tmp_path, document))


def test_broken_json_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, coco())
    (tmp_path / "Annotations" / "train.json").write_text("{")
    with pytest.raises(DataError, match=r"train\.json: no JSON"):
        read(tmp_path)


def test_subsets_share_their_slides(tmp_path: Path, write_field: WriteField) -> None:
    for subset in ("H_100x_C1", "H_100x_C2", "L_40x_C2"):
        for slide in range(5):
            write_field(tmp_path / subset, "train", f"{slide}_1_1000_AML", ROW, seed=slide)
    write_coco(tmp_path / "L_10x_C1", coco())
    found = read(tmp_path).require_clean()
    assert {each.domain for each in found.images} == {
        "H_100x_C1", "H_100x_C2", "L_40x_C2", "L_10x_C1",
    }  # fmt: skip
    split = hold_out_by_group(found.images, share=0.4, seed=0, source="train", target="test")
    assert groups_in_several_splits(split) == {}
    assert {each.group for each in found.images} == {"0", "1", "2", "3", "4", "18"}


def test_a_name_without_slide_is_a_warning(tmp_path: Path, write_field: WriteField) -> None:
    write_field(tmp_path, "train", "holiday", ROW)
    found = read(tmp_path)
    assert found.images[0].group is None
    assert found.warnings == ("1 file names do not tell the slide: group unknown",)


def test_classes_listed_in_another_order_are_taken_by_name(
    tmp_path: Path, write_field: WriteField
) -> None:
    write_field(tmp_path, "train", NAME, ROW)
    names = list(read(tmp_path).classes)
    (tmp_path / "data.yaml").write_text(json.dumps({"names": names[::-1]}))
    found = read(tmp_path)
    assert [found.classes[i] for i in found.images[0].class_ids] == [names[::-1][2]]
    assert any("another order" in note for note in found.notes)
    numbered = {str(i): name.upper().replace(" ", "_") for i, name in enumerate(names)}
    text = "names:\n" + "".join(f"  {i}: {name}\n" for i, name in numbered.items())
    (tmp_path / "data.yaml").write_text(text)
    assert read(tmp_path).images[0].class_ids.tolist() == [2]


@pytest.mark.parametrize("text", ["names: [a, b]", "names: {1: a}", "names: ["])
def test_another_class_list_is_refused(tmp_path: Path, write_field: WriteField, text: str) -> None:
    write_field(tmp_path, "train", NAME, ROW)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml: "):
        read(tmp_path)


def test_files_that_do_not_belong_together_are_named(
    tmp_path: Path, write_field: WriteField
) -> None:
    image = write_field(tmp_path, "train", NAME, ROW)
    image.with_suffix(".jpg").write_bytes(image.read_bytes())
    (tmp_path / "labels" / "train" / "lonely.txt").write_text(ROW)
    write_field(tmp_path, "holdout", NAME, ROW)
    bad = read(tmp_path).bad
    assert len(bad) == 3
    assert "a second picture of this name" in bad[0]
    assert "lonely.txt:1: labels without a picture" in bad[1]
    assert "holdout: no known split" in bad[2]


def test_splits_may_come_first_and_pictures_without_labels_have_no_cells(
    tmp_path: Path, write_field: WriteField
) -> None:
    for split in ("train", "valid"):
        write_field(tmp_path / "x", split, NAME, None if split == "valid" else ROW)
        (tmp_path / split).mkdir()
        (tmp_path / "x" / "images" / split).rename(tmp_path / split / "images")
        (tmp_path / "x" / "labels" / split).rename(tmp_path / split / "labels")
    found = read(tmp_path).require_clean()
    assert [(each.split, len(each)) for each in found.images] == [("train", 1), ("val", 0)]
    assert any("1 pictures without a label file" in note for note in found.notes)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="not a LeukemiaAttri folder; expected images/<split>"):
            read(folder)
