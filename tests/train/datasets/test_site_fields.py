"""One set of labels in every format reads the same; formats are told apart or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DataError, SettingsError
from tests.train.site_folders import (
    CLASSES,
    DrawnField,
    drawn_fields,
    save_pictures,
    write_coco,
    write_cvat,
    write_flat_yolo,
    write_yolo,
    yolo_rows,
)
from train.datasets.class_names import NameRules, with_model_classes
from train.datasets.labelled import LabelledSet
from train.datasets.site_fields import formats_in, read_site_fields


def write_obj_yolo(root: Path, fields: list[DrawnField]) -> Path:
    """As CVAT exports "YOLO 1.1"."""
    write_flat_yolo(root / "obj_train_data", fields)
    (root / "obj_train_data" / "classes.txt").rename(root / "obj.names")
    return root


def write_roboflow(root: Path, fields: list[DrawnField]) -> Path:
    """As Roboflow exports YOLO."""
    save_pictures(root / "train" / "images", fields)
    (root / "train" / "labels").mkdir()
    for each in fields:
        label = root / "train" / "labels" / f"{Path(each.name).stem}.txt"
        label.write_text(yolo_rows(each))
    (root / "data.yaml").write_text(f"names: {list(CLASSES)}\nnc: 2\n")
    return root


WRITERS: dict[str, Callable[[Path, list[DrawnField]], Path]] = {
    "yolo": write_yolo,
    "yolo-flat": write_flat_yolo,
    "yolo-obj": write_obj_yolo,
    "yolo-roboflow": write_roboflow,
    "coco": write_coco,
    "cvat": write_cvat,
}


@pytest.mark.parametrize("form", WRITERS)
def test_the_same_boxes_are_read_from_every_format(tmp_path: Path, form: str) -> None:
    fields = drawn_fields(3)
    root = WRITERS[form](tmp_path, fields)
    assert formats_in(root) == (form.split("-", maxsplit=1)[0],)
    found = read_site_fields(root).require_clean()
    assert found.classes == CLASSES
    assert found.attributes is None
    images = sorted(found.images, key=lambda each: each.image.name)
    assert [each.image.name for each in images] == [each.name for each in fields]
    for read, drawn in zip(images, fields, strict=True):
        assert read.class_ids.tolist() == [cell[0] for cell in drawn.cells]
        truth = [
            ((x + w / 2) / 96, (y + h / 2) / 80, w / 96, h / 80) for _, x, y, w, h in drawn.cells
        ]
        assert np.allclose(read.boxes_xywhn, truth, atol=1e-6)


def test_two_formats_in_one_folder_are_refused_until_one_is_named(tmp_path: Path) -> None:
    fields = drawn_fields(2)
    write_yolo(tmp_path, fields)
    write_cvat(tmp_path, fields)
    with pytest.raises(DataError, match="several formats, yolo and cvat; say which with --format"):
        read_site_fields(tmp_path)
    assert len(read_site_fields(tmp_path, "cvat").images) == 2
    with pytest.raises(SettingsError, match="'voc': unknown; choose one of yolo, coco, cvat"):
        read_site_fields(tmp_path, "voc")  # type: ignore[arg-type]


def test_a_folder_without_labels_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    save_pictures(tmp_path, drawn_fields(2))
    (tmp_path / "notes.json").write_text('{"contributor": "a tool"}')
    with pytest.raises(DataError, match="no labels in a known format; export YOLO"):
        read_site_fields(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_site_fields(tmp_path / "absent")


def test_a_picture_without_labels_is_not_taken_as_one_without_cells(tmp_path: Path) -> None:
    fields = drawn_fields(3)
    for root in (write_yolo(tmp_path / "a", fields), write_flat_yolo(tmp_path / "b", fields)):
        next(root.rglob("field_01.txt")).unlink()
        with pytest.raises(DataError, match=r"1 bad rows.*\n.*field_01\.png: no label file"):
            read_site_fields(root).require_clean()
    (tmp_path / "b" / "field_01.txt").write_text("")
    found = read_site_fields(tmp_path / "b").require_clean()
    assert [len(each) for each in found.images] == [2, 0, 2]


def test_bad_yolo_rows_are_listed_with_file_and_line(tmp_path: Path) -> None:
    root = write_flat_yolo(tmp_path, drawn_fields(2))
    (root / "field_00.txt").write_text("0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n0 0.5 0.5 0 0.2\n")
    found = read_site_fields(root)
    assert len(found.bad) == 2
    assert "field_00.txt:2: class 7 outside 0..1" in found.bad[0]
    assert "field_00.txt:3: box without area" in found.bad[1]
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"nothing names its classes; add classes\.txt"):
        read_site_fields(root)


def as_set(root: Path, classes: tuple[str, ...]) -> LabelledSet:
    write_yolo(root, drawn_fields(2), classes=classes)
    return read_site_fields(root).require_clean()


def test_classes_go_by_name_whatever_their_case_and_dashes(tmp_path: Path) -> None:
    found = as_set(tmp_path, ("white-blood_cell", "PLATELET"))
    rules = NameRules(("Platelet", "White blood cell"), {})
    mapped, strange = with_model_classes(found, rules)
    assert mapped.classes == ("Platelet", "White blood cell")
    assert mapped.images[0].class_ids.tolist() == [1, 0]
    assert strange == {}


def test_an_unknown_class_is_named_with_the_remedy(tmp_path: Path) -> None:
    found = as_set(tmp_path, ("Leukozyt", "platelet"))
    with pytest.raises(DataError, match=r"no class 'Leukozyt' \(2 cells\), 'platelet' \(2 cells\)"):
        with_model_classes(found, NameRules(("WBC",), {}))
    for name in ("leukozyt", "Leukozyt", "LEUKOZYT"):
        rules = NameRules(("WBC",), {name: "wbc"}, "background")
        mapped, strange = with_model_classes(found, rules)
        assert [each.class_ids.tolist() for each in mapped.images] == [[0], [0]]
        assert strange == {"platelet": 2}


def test_a_rename_that_means_nothing_is_refused(tmp_path: Path) -> None:
    found = as_set(tmp_path, CLASSES)
    with pytest.raises(SettingsError, match=r"--map x=Blast: the model has no class 'Blast'"):
        NameRules(("WBC",), {"x": "Blast"}).check(found)
    with pytest.raises(SettingsError, match=r"--map x=WBC: no set has a class 'x', only WBC, plat"):
        NameRules(("WBC",), {"x": "WBC"}).check(found)


def test_names_in_other_scripts_stay_apart() -> None:
    rules = NameRules(("白细胞", "红细胞"), {})
    assert rules.target("红细胞") == "红细胞"
    assert rules.target("血小板") is None
