"""YOLO-layout data is read strictly: every bad row is listed, none is repaired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.fields import digest_files, load_fields, xywhn_to_xyxy, xyxy_to_xywhn
from edge_runtime.errors import DataError
from tests.support import paint_field, write_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val").mkdir(parents=True)
    for name in ("b", "a"):
        write_image(tmp_path / "images" / "val" / f"{name}.png", paint_field(64, 48))
    return tmp_path


def label(root: Path, name: str, text: str) -> None:
    (root / "labels" / "val" / f"{name}.txt").write_text(text)


def test_fields_come_by_name_with_the_wanted_classes(root: Path) -> None:
    label(root, "a", "0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.1 0.1\n\n")
    fields = load_fields(root, "val", domain="d", keep_classes=(0,), class_count=3)
    assert [item.image.name for item in fields] == ["a.png", "b.png"]
    assert fields[0].boxes_xyxy(64, 48).tolist() == [[16, 12, 48, 36]]
    assert fields[1].boxes_xywhn.shape == (0, 4)
    assert fields[0].domain == "d"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("0 0.5 0.5 0.5", "4 columns"),
        ("0 0.5 0.5 0.5 x", "not numbers"),
        ("3 0.5 0.5 0.5 0.5", "class 3 outside 0..2"),
        ("0 nan 0.5 0.5 0.5", "not finite"),
        ("0 0.5 0.5 0 0.5", "box without area"),
        ("0 0.9 0.5 0.5 0.5", "box leaves the image"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(root: Path, row: str, why: str) -> None:
    label(root, "b", f"0 0.5 0.5 0.5 0.5\n{row}\n")
    with pytest.raises(DataError, match=rf"b\.txt:2: .*{why}"):
        load_fields(root, "val", domain="d", keep_classes=(0,), class_count=3)


def test_all_bad_rows_are_listed_at_once(root: Path) -> None:
    label(root, "a", "oops\n")
    label(root, "b", "0 0.5 0.5 0.5 0.5\noops\noops\n")
    with pytest.raises(DataError, match=r"(?s)3 bad label rows.*a\.txt:1.*b\.txt:2.*b\.txt:3"):
        load_fields(root, "val", domain="d", keep_classes=(0,), class_count=3)


def test_missing_and_empty_folders_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_fields(root, "test", domain="d", keep_classes=(0,), class_count=3)
    (root / "images" / "test").mkdir()
    with pytest.raises(DataError, match="no image in it"):
        load_fields(root, "test", domain="d", keep_classes=(0,), class_count=3)


def test_box_forms_are_inverse() -> None:
    boxes = np.array([[3, 4, 30, 40], [0, 0, 64, 48]], np.float32)
    assert xywhn_to_xyxy(xyxy_to_xywhn(boxes, 64, 48), 64, 48) == pytest.approx(boxes, abs=1e-4)


def test_digest_ignores_names_and_order(root: Path) -> None:
    first, second = sorted((root / "images" / "val").iterdir())
    second.write_bytes(second.read_bytes() + b"x")
    assert digest_files([first, second]) == digest_files([second, first])
    assert digest_files([first]) != digest_files([second])
