"""Tables of single cells: ``pbc-attributes``, ``pbc-extra``, ``wbc-masks``."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from edge_runtime.attributes import MISSING
from edge_runtime.errors import DataError
from tests.support import paint_field, write_image
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledSet
from train.datasets.pbc_cells import files_tested_here, read_together
from train.datasets.schemas import load_spec

ATTRIBUTES = load_spec("pbc-attributes").attribute_names
JUDGED = dict(
    zip(
        ATTRIBUTES,
        ("big", "irregular", "unsegmented-band", "high", "loosely", "yes", "frosted", "blue",
         "small", "pink", "no"),
        strict=True,
    )
)  # fmt: skip
SHARED = ("wbc_domains_file", "wbc_domains_split")
Row = dict[str, str]


def pbc_row(number: int, **changes: str) -> Row:
    row = {
        "file": f"images/c{number}.png", "split": "train", "class": "eosinophil",
        "width": "64", "height": "48", "x1": "16", "y1": "12", "x2": "48", "y2": "36",
    }  # fmt: skip
    return row | JUDGED | dict.fromkeys(SHARED, "") | changes


def write_table(root: Path, rows: list[Row], name: str = "annotations.csv") -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for row in rows:
        write_image(root / "images" / Path(row["file"]).name, paint_field(64, 48, [(32, 24, 20)]))
    with (root / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_a_row_becomes_the_record(tmp_path: Path) -> None:
    empty = dict.fromkeys(ATTRIBUTES, "")
    write_table(tmp_path, [pbc_row(0), pbc_row(1, **{"class": "erythroblast"}, **empty)])
    one, other = read_dataset("pbc-attributes", tmp_path).require_clean().images
    assert one.boxes_xywhn.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert (one.class_ids.tolist(), one.size_px) == ([1], (64, 48))
    assert one.attributes.tolist() == [[1, 1, 3, 1, 1, 1, 1, 1, 1, 3, 0]]
    assert other.attributes.tolist() == [[MISSING] * 11]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"class": "blast"}, "class 'blast': expected one of neutrophil"),
        ({"split": "dev"}, "split 'dev'"),
        ({"x2": "65"}, "leaves 64 x 48 px"),
        ({"x2": "16"}, "has no area"),
        ({"y1": "a"}, "no whole numbers"),
        ({"granule_type": "tiny"}, "granule_type 'tiny': unknown value; known: nil, small"),
        ({"file": "../c1.png"}, "no such file"),
        ({"file": "images/none.png"}, "no such file"),
        ({"file": "images/c0.png"}, "stands in line 2 already"),
        ({"wbc_domains_split": "dev"}, "wbc_domains_split 'dev'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: Row, why: str) -> None:
    write_table(tmp_path, [pbc_row(0), pbc_row(1, **change)])
    if "none" in change.get("file", ""):
        (tmp_path / "images" / "none.png").unlink()
    found = read_dataset("pbc-attributes", tmp_path)
    assert len(found.images) == 1
    with pytest.raises(DataError, match=rf"annotations\.csv:3: .*{why}"):
        found.require_clean()


def test_a_short_row_and_a_missing_column_are_named(tmp_path: Path) -> None:
    write_table(tmp_path, [pbc_row(0)])
    with (tmp_path / "annotations.csv").open("a") as file:
        file.write("images/c0.png,train\n")
    with pytest.raises(DataError, match=r"annotations\.csv:3: not as many columns"):
        read_dataset("pbc-attributes", tmp_path).require_clean()
    (tmp_path / "annotations.csv").write_text("file,split\n")
    with pytest.raises(DataError, match=r"annotations\.csv:1: no column class, width.*right table"):
        read_dataset("pbc-attributes", tmp_path)


def test_a_table_saved_by_a_spreadsheet_and_one_that_no_reader_takes(tmp_path: Path) -> None:
    table = write_table(tmp_path, [pbc_row(0)]) / "annotations.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(read_dataset("pbc-attributes", tmp_path).require_clean().images) == 1
    with table.open("a") as file:
        file.write("x" * 200_000 + "\n")
    with pytest.raises(DataError, match="cannot be read: field larger than"):
        read_dataset("pbc-attributes", tmp_path)


def test_nothing_that_either_set_tests_on_is_trained_on(tmp_path: Path) -> None:
    rows = [
        pbc_row(10 * i + j, split=own, wbc_domains_file=f"d/{own}_{other}.jpg" if other else "",
                wbc_domains_split=other)
        for i, own in enumerate(("train", "val", "test"))
        for j, other in enumerate(("", "train", "val", "test"))
    ]  # fmt: skip
    write_table(tmp_path / "a", rows)
    write_table(tmp_path / "x", [pbc_row(99)])
    both = read_together(tmp_path / "a", tmp_path / "x")
    assert [each.image.stem for each in both.usable("train")] == ["c0", "c1", "c2", "c99"]
    assert [each.image.stem for each in both.usable("val")] == ["c10", "c11", "c12"]
    assert len(both.usable("test")) == 4
    assert files_tested_here(tmp_path / "a") == {
        "d/test_train.jpg",
        "d/test_val.jpg",
        "d/test_test.jpg",
    }


def test_the_extra_crops_are_for_training_only(tmp_path: Path) -> None:
    write_table(tmp_path, [pbc_row(0, split="test")])
    with pytest.raises(DataError, match="pbc-extra is for training only"):
        read_dataset("pbc-extra", tmp_path).require_clean()


def test_masks_come_along_with_their_group(tmp_path: Path) -> None:
    base = {"mask": "images/c0.png", "dataset": "1"}
    rows = [pbc_row(i, group=group, **base) for i, group in enumerate(("g1", "g1", ""))]
    write_table(tmp_path, rows, "labels.csv")
    found = read_dataset("wbc-masks", tmp_path).require_clean().images
    assert [each.group for each in found] == ["g1", "g1", "images/c2.png"]
    assert found[0].mask == tmp_path / "images" / "c0.png"
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"labels\.csv: No such file.*right data set folder"):
        read_dataset("wbc-masks", tmp_path)


def counted(found: LabelledSet) -> dict[str, list[int]]:
    counts = Counter((found.classes[each.class_ids[0]], each.split) for each in found.images)
    return {
        name: [counts[name, split] for split in ("train", "val", "test")]
        for name in sorted(found.classes)
    }


@pytest.mark.realdata
def test_pbc_attributes_counts_as_its_readme_says(shared_data: Path) -> None:
    found = read_dataset("pbc-attributes", shared_data / "pbc-attributes").require_clean()
    assert counted(found) == {
        "basophil": [283, 45, 72],
        "eosinophil": [287, 42, 71],
        "erythroblast": [142, 26, 76],
        "immature_granulocyte": [145, 25, 79],
        "lymphocyte": [281, 49, 70],
        "monocyte": [266, 49, 85],
        "neutrophil": [285, 39, 75],
    }
    by_name = {each.name: each for each in found.attributes.attributes} if found.attributes else {}
    for name, expected in (
        ("nucleus_shape", {"segmented-bilobed": 400, "segmented-multilobed": 236}),
        ("granularity", {"yes": 1204, "no": 795}),
        ("cytoplasm_colour", {"light blue": 1268, "blue": 404, "purple blue": 327}),
    ):
        column = ATTRIBUTES.index(name)
        values = Counter(int(each.attributes[0, column]) for each in found.images)
        assert values[MISSING] == 493
        for value, count in expected.items():
            assert values[by_name[name].values.index(value)] == count


@pytest.mark.realdata
def test_nothing_real_is_tested_and_trained_on(shared_data: Path) -> None:
    root = shared_data / "pbc-attributes"
    both = read_together(root, shared_data / "pbc-extra")
    assert len(both.images) == 2492 + 4023
    with (root / "annotations.csv").open(newline="") as file:
        tested = {
            row["file"]
            for row in csv.DictReader(file)
            if "test" in (row["split"], row["wbc_domains_split"])
        }
    own = [each for each in both.images if each.image.is_relative_to(root)]
    for split in ("train", "val"):
        used = {each.image.relative_to(root).as_posix() for each in own
                if each.split == split and not each.held_out}  # fmt: skip
        assert used
        assert not used & tested
    assert len(both.usable("train")) == 1689 - 29 + 4023
    shown = files_tested_here(root)
    assert len(shown) == 79 + 31 + 18
    assert all((shared_data / "wbc-domains" / name).is_file() for name in shown)


@pytest.mark.realdata
def test_pbc_extra_counts_as_its_readme_says(shared_data: Path) -> None:
    found = read_dataset("pbc-extra", shared_data / "pbc-extra").require_clean()
    assert {name: counts[0] for name, counts in counted(found).items()} == {
        "basophil": 441, "eosinophil": 734, "erythroblast": 564, "immature_granulocyte": 586,
        "lymphocyte": 440, "monocyte": 525, "neutrophil": 733,
    }  # fmt: skip
    assert found.splits == ("train",)


@pytest.mark.realdata
def test_wbc_masks_counts_as_its_readme_says(shared_data: Path) -> None:
    found = read_dataset("wbc-masks", shared_data / "wbc-masks").require_clean()
    assert counted(found) == {
        "basophil": [3, 0, 1],
        "eosinophil": [23, 5, 6],
        "lymphocyte": [62, 9, 19],
        "monocyte": [41, 7, 15],
        "neutrophil": [145, 22, 42],
    }
