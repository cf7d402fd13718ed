"""Rows of 5, 11, 12, 15 and 16 columns, taken as they stand or refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.attributes import MISSING
from train.datasets.label_rows import LabelRow, cell_arrays, parse_label_rows
from train.datasets.schemas import load_spec

SPARSE = load_spec("sparse-leukemia-attri")
ORDER = tuple(range(14))
BOX = "4 0.5 0.25 0.125 0.0625"
PATCH = "10 20 300 400"
ATTRIBUTES = "0 1 2 1 0 1"
INDICES = (0, 1, MISSING, 1, 0, 1)


def parse(tmp_path: Path, text: str) -> tuple[list[LabelRow], list[str], int | None]:
    file = tmp_path / "a.txt"
    file.write_text(text, encoding="utf-8")
    return parse_label_rows(file, SPARSE, ORDER)


@pytest.mark.parametrize(
    ("row", "width", "patch"),
    [
        (f"{BOX} {ATTRIBUTES}", 11, None),
        (f"{BOX} 1 {ATTRIBUTES}", 12, None),
        (f"{BOX} {PATCH} {ATTRIBUTES}", 15, (10, 20, 300, 400)),
        (f"{BOX} {PATCH} 1 {ATTRIBUTES}", 16, (10, 20, 300, 400)),
    ],
)
def test_every_width_gives_the_same_cell(
    tmp_path: Path, row: str, width: int, patch: tuple[float, ...] | None
) -> None:
    (found,), bad, seen = parse(tmp_path, f"\n{row}\n")
    assert (bad, seen, found.line) == ([], width, 2)
    assert (found.class_id, found.box_xywhn) == (4, (0.5, 0.25, 0.125, 0.0625))
    assert (found.attributes, found.patch) == (INDICES, patch)


def test_boxes_alone_where_the_data_set_has_no_attributes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("8 0.5 0.5 0.1 0.1\n")
    (row,), bad, width = parse_label_rows(file, load_spec("pcm-leukemia"), tuple(range(9)))
    assert (row.class_id, row.attributes, bad, width) == (8, (), [], 5)


def test_classes_follow_the_folders_own_order(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1 0.5 0.5 0.1 0.1\n")
    (row,), _, _ = parse_label_rows(file, load_spec("pcm-leukemia"), (8, 7, 6, 5, 4, 3, 2, 1, 0))
    assert row.class_id == 7


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (BOX, "5 columns, expected 11 or 12 or 15 or 16"),
        (f"{BOX} 1 {ATTRIBUTES} 0", "13 columns"),
        (f"{BOX} 0 1 3 1 0 1", r"nucleolus '3': unknown value; known: 0 \(inconspicuous\)"),
        (f"{BOX} 0 1 0 1 0 x", "cytoplasmic_vacuoles 'x': unknown value"),
        (f"14 0.5 0.5 0.1 0.1 {ATTRIBUTES}", r"class 14 outside 0\.\.13"),
        (f"1 0.5 0.5 nan 0.1 {ATTRIBUTES}", "not finite"),
        (f"1 0.9 0.5 0.5 0.1 {ATTRIBUTES}", "box leaves the image"),
        (f"one 0.5 0.5 0.1 0.1 {ATTRIBUTES}", "not numbers"),
    ],
)
def test_a_bad_row_is_named_and_the_others_stay(tmp_path: Path, row: str, why: str) -> None:
    rows, bad, _ = parse(tmp_path, f"{BOX} {ATTRIBUTES}\n{row}\n{BOX} {ATTRIBUTES}\n")
    assert [each.line for each in rows] == [1, 3]
    assert len(bad) == 1
    with pytest.raises(AssertionError, match=rf"a\.txt:2: .*{why}"):
        raise AssertionError(bad[0])


@pytest.mark.parametrize("patch", ["10 20 300 x", "10 20 300 inf"])
def test_a_patch_that_is_no_four_numbers(tmp_path: Path, patch: str) -> None:
    rows, bad, _ = parse(tmp_path, f"{BOX} {patch} {ATTRIBUTES}\n")
    assert rows == []
    assert "a.txt:1: patch is no four numbers" in bad[0]


def test_mixed_widths_in_one_file_are_refused(tmp_path: Path) -> None:
    rows, bad, width = parse(tmp_path, f"{BOX} {ATTRIBUTES}\n\n{BOX} 1 {ATTRIBUTES}\n")
    assert (len(rows), width) == (1, 11)
    assert bad == [f"{tmp_path / 'a.txt'}:3: 12 columns, but 11 in line 1; one file has one width"]


def test_text_in_another_encoding_and_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0")
    assert "not UTF-8" in parse_label_rows(tmp_path / "a.txt", SPARSE, ORDER)[1][0]
    assert "cannot be read" in parse_label_rows(tmp_path, SPARSE, ORDER)[1][0]


CELL = st.tuples(
    st.integers(0, 13),
    st.tuples(*[st.floats(0.3, 0.6)] * 2, *[st.floats(0.01, 0.5)] * 2),
    st.tuples(*[st.sampled_from([0, 1, MISSING])] * 6),
)


@given(st.lists(CELL, max_size=5), st.booleans())
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[int, tuple[float, ...], tuple[int, ...]]],
    with_size: bool,
) -> None:
    lines = []
    for class_id, box, attributes in cells:
        codes = [2 if value == MISSING else value for value in attributes]
        lines.append(" ".join(map(repr, (class_id, *box, *([0] if with_size else []), *codes))))
    file = tmp_path_factory.getbasetemp() / "round_trip.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    rows, bad, _ = parse_label_rows(file, SPARSE, ORDER)
    assert bad == []
    assert [(row.class_id, row.box_xywhn, row.attributes) for row in rows] == cells
    boxes, class_ids, attributes_read = cell_arrays(rows, 6)
    assert (boxes.shape, class_ids.shape, attributes_read.shape) == (
        (len(cells), 4),
        (len(cells),),
        (len(cells), 6),
    )
