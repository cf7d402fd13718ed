"""Cells of several data sets under one class list."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import DataError, SettingsError
from tests.support import paint_field, write_image
from tests.train.drawn_cells import CLASSES, NAMES, write_cells_folder
from train.datasets.cell_sources import CellSourceSpec, read_sources

PBC = CellSourceSpec(dataset="pbc-attributes", path="pbc-attributes")


def test_a_picture_tested_elsewhere_is_never_trained_on(tmp_path: Path) -> None:
    write_cells_folder(tmp_path, train=6, held_out=2)
    cells = read_sources((PBC,), tmp_path, CLASSES, name="n", with_attributes=False)
    files = [each.file for each in cells.of_split("train")]
    assert files == [f"pbc-attributes/images/train{i}.png" for i in (2, 3, 4, 5)]
    assert len(cells.of_split("test")) == 4
    assert not {each.file for each in cells.of_split("val")} & set(files)


def test_repeat_counts_training_cells_only(tmp_path: Path) -> None:
    write_cells_folder(tmp_path)
    thrice = PBC.model_copy(update={"repeat": 3})
    cells = read_sources((thrice,), tmp_path, CLASSES, name="n", with_attributes=False)
    assert [len(cells.of_split(s)) for s in ("train", "val", "test")] == [24, 4, 4]


def test_a_source_that_is_not_judged_gives_training_cells_only(tmp_path: Path) -> None:
    write_cells_folder(tmp_path)
    source = PBC.model_copy(update={"judged": False})
    cells = read_sources((source,), tmp_path, CLASSES, name="n", with_attributes=False)
    assert {each.split for each in cells.pictures} == {"train"}


def test_cells_of_other_classes_are_left_out_and_ids_are_the_lists(tmp_path: Path) -> None:
    write_cells_folder(tmp_path)
    order = ("lymphocyte", "monocyte")
    cells = read_sources((PBC,), tmp_path, order, name="n", with_attributes=False)
    assert {cell.class_id for each in cells.pictures for cell in each.cells} == {0}
    assert len(cells.of_split("train")) == 4


def test_a_mapping_names_the_classes(tmp_path: Path) -> None:
    for code in ("NGS", "MOB"):
        (tmp_path / "lmu" / code).mkdir(parents=True)
        write_image(tmp_path / "lmu" / code / "1.png", paint_field(40, 40, [(20, 20, 18)]))
    source = CellSourceSpec(dataset="lmu", path="lmu", mapping="B")
    with pytest.raises(DataError, match="no cell of the recipe's classes to train on"):
        # It has no splits of its own, so nothing of it is for training.
        read_sources((source,), tmp_path, ("Neutrophil",), name="n", with_attributes=False)
    bare = source.model_copy(update={"mapping": None})
    with pytest.raises(SettingsError, match=r"none of its classes \(NGS.*give a mapping"):
        read_sources((bare,), tmp_path, ("Neutrophil",), name="n", with_attributes=False)
    wrong = source.model_copy(update={"mapping": "C"})
    with pytest.raises(SettingsError, match="mapping 'C'"):
        read_sources((wrong,), tmp_path, ("Neutrophil",), name="n", with_attributes=False)


def test_attributes_come_with_the_cells_of_the_set_that_has_them(tmp_path: Path) -> None:
    write_cells_folder(tmp_path)
    cells = read_sources((PBC,), tmp_path, CLASSES, name="n", with_attributes=True)
    first = cells.of_split("train")[0].cells[0]
    assert first.attributes == (1, 1) + (0,) * (len(NAMES) - 2)


def test_sources_without_any_or_with_two_schemas_are_refused(tmp_path: Path) -> None:
    for code in ("NGS",):
        (tmp_path / "lmu" / code).mkdir(parents=True)
        write_image(tmp_path / "lmu" / code / "1.png", paint_field(40, 40, [(20, 20, 18)]))
    bare = CellSourceSpec(dataset="lmu", path="lmu")
    with pytest.raises(SettingsError, match="have 0 schemas, one is needed"):
        read_sources((bare,), tmp_path, ("NGS",), name="n", with_attributes=True)


def test_a_folder_outside_the_data_root_is_refused(tmp_path: Path) -> None:
    write_cells_folder(tmp_path)
    away = PBC.model_copy(update={"path": str(tmp_path / "pbc-attributes")})
    with pytest.raises(SettingsError, match="must be relative to the data root"):
        read_sources((away,), tmp_path, CLASSES, name="n", with_attributes=False)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pbc-attributes.annotations\.csv: No such file"):
        read_sources((PBC,), tmp_path, CLASSES, name="n", with_attributes=False)
