"""Figures of heads on painted discs whose classes and sizes are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks.heads import measure_heads
from benchmarks.published import fill_readme
from calibration.labelled_cells import CellPicture, CellRow
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import DataError
from tests.support import paint_field
from tests.toy_heads import CLASSES, classifier_part, head_part, write_toy_bundle

SIDE = 128
SMALL, LARGE = 26.0, 48.0


def picture(root: Path, number: int, kind: str, diameter: float, said: str) -> CellPicture:
    """A field with one disc; ``said`` is what its label calls it."""
    pixels = paint_field(SIDE, SIDE, stained={kind: [(64, 64, diameter)]})
    name = f"f{number}.png"
    cv2.imwrite(str(root / name), pixels[:, :, ::-1])
    share = diameter / SIDE
    row = CellRow(
        box_xywhn=(0.5, 0.5, share, share),
        class_id=CLASSES.index(said),
        attributes=(0 if diameter == SMALL else 1, -1),
    )
    return CellPicture(file=name, split="test", domain="discs", cells=(row,))


def measured(tmp_path: Path, kinds: list[tuple[str, float, str]], **parts: Any) -> dict[str, Any]:
    bundle = open_bundle(write_toy_bundle(tmp_path / "bundle", **parts))
    pictures = [picture(tmp_path, number, *kind) for number, kind in enumerate(kinds)]
    return measure_heads(bundle, pictures, tmp_path, CLASSES, backend="onnxruntime", threads=1)


def test_right_labels_are_right_and_a_wrong_one_is_wrong(tmp_path: Path) -> None:
    first, second = CLASSES[0], CLASSES[1]
    kinds = [(first, SMALL, first), (first, LARGE, first), (second, LARGE, second)]
    kinds.append((second, SMALL, first))
    result = measured(tmp_path, kinds, classifier=classifier_part(), head=head_part())
    row = result["sets"]["discs"]
    for crops in ("labelled_crops", "found_crops", "as_reported"):
        assert row["classes"][crops]["accuracy"] == pytest.approx(3 / 4)
    assert row["classes"]["found_crops"]["confusion"][0][1] == 1
    size = row["attributes"]["oracle"]["attributes"][0]
    assert size["macro_f1"] == 1
    assert row["attributes"]["one_to_one"]["attributes"][0]["missed"] == 0
    assert row["attributes"]["oracle"]["attributes"][1]["cells"] == 0
    assert row["stages"]["fields_with_one_cell"] == 4
    assert set(row["stages"]["median_ms"]) == {"detect", "attributes", "classify"}


def test_a_cell_that_is_not_found_is_named_wrong_and_not_described(tmp_path: Path) -> None:
    first = CLASSES[0]
    bundle = open_bundle(
        write_toy_bundle(tmp_path / "bundle", classifier=classifier_part(), head=head_part())
    )
    shown = picture(tmp_path, 0, first, LARGE, first)
    cv2.imwrite(str(tmp_path / "empty.png"), paint_field(SIDE, SIDE)[:, :, ::-1])
    hidden = shown.model_copy(update={"file": "empty.png"})
    result = measure_heads(
        bundle, [shown, hidden], tmp_path, CLASSES, backend="onnxruntime", threads=1
    )
    row = result["sets"]["discs"]
    assert row["classes"]["found_crops"]["unanswered"] == 1
    assert row["classes"]["found_crops"]["accuracy"] == 0.5
    assert row["attributes"]["one_to_one"]["attributes"][0]["missed"] == 1


def test_a_bundle_without_heads_has_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no head"):
        measured(tmp_path, [(CLASSES[0], LARGE, CLASSES[0])])
    bundle = open_bundle(write_toy_bundle(tmp_path / "other"))
    with pytest.raises(DataError, match="no labelled picture"):
        measure_heads(bundle, [], tmp_path, CLASSES)


def test_the_table_shows_what_was_measured(tmp_path: Path) -> None:
    kinds = [(name, size, name) for name in CLASSES for size in (SMALL, LARGE)]
    result = measured(tmp_path, kinds, classifier=classifier_part(), head=head_part())
    machine = {"processor": "a processor", "cores": 2, "date": "2026-11-21T00:00:00"}
    document = {"split": "test", "machine": machine, **result}
    (tmp_path / "heads.json").write_text(json.dumps(document))
    page = fill_readme("<!-- heads -->\n<!-- /heads -->\n", tmp_path)
    assert "| discs | 6 | labelled boxes | 1.000 | 1.000 |" in page
    # Rule (a) leaves out cells with an attribute that nobody judged: here, all.
    assert "| size | 1.000 | 1.000 | – |" in page
    assert "a processor, 2 cores, 2026-11-21" in page
