"""ALL-IDB1's centres and Munich's folders of codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from tests.support import paint_field, write_image
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledSet


@pytest.fixture
def idb(tmp_path: Path) -> Path:
    for name, text in (("Im001_1", "64\t24\r\n32 48\n"), ("Im002_0", "")):
        (tmp_path / "im").mkdir(exist_ok=True)
        (tmp_path / "xyc").mkdir(exist_ok=True)
        write_image(tmp_path / "im" / f"{name}.jpg", paint_field(128, 96, [(64, 48, 20)]))
        (tmp_path / "xyc" / f"{name}.xyc").write_text(text)
    return tmp_path


def read_idb(root: Path) -> LabelledSet:
    return read_dataset("all-idb1", root)


def test_centres_are_boxes_without_extent_and_a_test_set(idb: Path) -> None:
    blasts, healthy = read_idb(idb).require_clean().images
    assert blasts.boxes_xywhn.tolist() == [[0.5, 0.25, 0, 0], [0.25, 0.5, 0, 0]]
    assert not blasts.extents_known
    assert (blasts.class_ids.tolist(), len(healthy)) == ([0, 0], 0)
    assert read_idb(idb).splits == ("test",)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("Im001_1", "64 24\n200 3\n", r"xyc:2: \(200, 3\) outside 128 x 96 px"),
        ("Im001_1", "64\n", "xyc:1: expected x and y"),
        ("Im001_1", "nan 3\n", "xyc:1: .*outside"),
        ("Im001_1", "", "0 blasts, but the name says 1"),
        ("Im002_0", "3 4", "1 blasts, but the name says 0"),
        ("Im009_0", "", "xyc:1: centres without a picture"),
    ],
)
def test_bad_centres_are_named(idb: Path, name: str, text: str, why: str) -> None:
    (idb / "xyc" / f"{name}.xyc").write_text(text)
    with pytest.raises(DataError, match=why):
        read_idb(idb).require_clean()


def test_missing_and_broken_files_are_named(idb: Path) -> None:
    (idb / "xyc" / "Im001_1.xyc").unlink()
    (idb / "im" / "Im002_0.jpg").write_bytes(b"")
    (idb / "im" / "other.jpg").write_bytes(b"")
    bad = read_idb(idb).bad
    assert "Im001_1.xyc: missing" in bad[0]
    assert "Im002_0.jpg: empty file" in bad[1]
    assert "other.jpg: not named like" in bad[2]


def test_munich_has_one_whole_picture_cell_per_file(tmp_path: Path) -> None:
    for code in ("LYT", "MOB", "LYA"):
        (tmp_path / "sub" / code).mkdir(parents=True)
        write_image(tmp_path / "sub" / code / f"{code}_1.png", paint_field(64, 64))
    found = read_dataset("lmu", tmp_path)
    assert found.bad == ()
    assert "NGS" in found.warnings[0]
    assert [found.classes[each.class_ids[0]] for each in found.images] == ["LYA", "LYT", "MOB"]
    assert found.images[0].boxes_xywhn.tolist() == [[0.5, 0.5, 1, 1]]

    def cells(mapping: str) -> list[str]:
        mapped = read_dataset("lmu", tmp_path, mapping=mapping)
        return [mapped.classes[i] for each in mapped.images for i in each.class_ids]

    assert cells("A") == ["Lymphocyte"]
    assert cells("B") == ["Lymphocyte", "Lymphocyte", "Myeloblast_AML"]


def test_a_folder_that_is_no_code_is_named(tmp_path: Path) -> None:
    for code in ("LYT", "XYZ"):
        (tmp_path / code).mkdir()
        write_image(tmp_path / code / "1.png", paint_field(64, 64))
    with pytest.raises(DataError, match="XYZ: no code of lmu; known: NGS, LYT"):
        read_dataset("lmu", tmp_path).require_clean()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not an ALL-IDB1 folder; expected im/ and xyc/"):
        read_idb(tmp_path)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="not the Munich data; expected a folder per code"):
            read_dataset("lmu", folder)
