"""The self-test passes where the bundle works as it did, and fails where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import backend_row
from edge_runtime.bundle import Bundle, GoldenTolerance, open_bundle, shipped_bundle_path
from edge_runtime.errors import BundleError
from edge_runtime.golden import (
    GoldenCell,
    GoldenOutputs,
    GoldenRun,
    compare,
    golden_outputs,
    run_golden,
)
from edge_runtime.types import UInt8Image
from export.bundle_writer import draft_of, write_bundle
from export.golden import OTHER_RUNTIME, SAME_RUNTIME, drawn_fields, make_golden
from tests.support import MODEL_NAME, paint_field, toy_detector
from tests.toy_heads import classifier_part, head_part, write_toy_bundle

pytest.importorskip("onnx", reason="the toy models are made with onnx; leukoscope[export]")

ROW = backend_row("onnxruntime")
TOLERANCE = GoldenTolerance(box_iou=0.9, score=0.05, probability=0.05)


def fields() -> list[UInt8Image]:
    discs = {"navy": [(40.0, 40.0, 30.0)], "plum": [(110.0, 60.0, 44.0)]}
    return [
        paint_field(160, 120, stained=discs, seed=1),
        paint_field(160, 120, [(80.0, 60.0, 36.0)], seed=2),
        paint_field(160, 120, seed=3),
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("toy") / "bundle"
    return open_bundle(write_toy_bundle(folder, classifier=classifier_part(), head=head_part()))


@pytest.fixture(scope="module")
def golden(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_golden(plain, tmp_path_factory.mktemp("golden") / "made.zip")


def with_golden(bundle: Bundle, out: Path, change: Callable[[Any], None] | None = None) -> Bundle:
    """The bundle with golden data, the kept outputs changed if asked."""
    spec, files = make_golden(bundle, fields(), None)
    if change is not None:
        document = json.loads(files[spec.outputs])
        change(document)
        files[spec.outputs] = json.dumps(document).encode()
    return write_with(bundle, out, golden=spec, contents={**bundle.contents, **files})


def write_with(bundle: Bundle, out: Path, **changes: Any) -> Bundle:
    from dataclasses import replace

    return write_bundle(replace(draft_of(bundle, keep_golden=True), **changes), out)


def test_a_bundle_passes_where_its_outputs_were_made(golden: Bundle) -> None:
    result = run_golden(golden, ROW)
    assert result.passed
    assert result.same_runtime
    assert [each.part for each in result.parts] == ["detector", "attribute_head", "classifier"]
    assert "3 of 3 cells, 0 missing, 0 too many, overlap 1.000" in result.parts[0].said
    assert "3 cells, probabilities off by 0.000" in result.parts[2].said


def test_what_is_kept_is_what_a_film_would_say(golden: Bundle) -> None:
    run = golden_outputs(golden).runs["cpu"]
    assert [len(cells) for cells in run.fields] == [2, 1, 0]
    cells = sorted(run.fields[0], key=lambda cell: cell.box_xyxy[0])
    assert cells[0].box_xyxy == pytest.approx((25, 25, 55, 55), abs=3)
    assert [int(np.argmax(cell.classes or ())) for cell in cells] == [0, 2]
    # Size and redness: small without red, large with much.
    assert [[value for value, _ in cell.attributes or ()] for cell in cells] == [[0, 0], [1, 2]]


@pytest.mark.parametrize(
    ("models", "failing"),
    [
        ({"classifier.onnx": "sharpness"}, ["classifier"]),
        ({MODEL_NAME: "blind"}, ["detector", "attribute_head", "classifier"]),
    ],
)
def test_another_model_fails(
    golden: Bundle, tmp_path: Path, models: dict[str, str], failing: list[str]
) -> None:
    """As an engine that was built wrongly would."""
    from tests.toy_heads import MAPS, toy_classifier

    made = {
        "sharpness": lambda: toy_classifier(sharpness=5.0),
        "blind": lambda: blind(toy_detector(maps=MAPS)),
    }
    changed = {name: made[kind]() for name, kind in models.items()}
    other = write_with(golden, tmp_path / "other.zip", contents={**golden.contents, **changed})
    result = run_golden(other, ROW)
    assert [each.part for each in result.parts if not each.passed] == failing
    assert not result.passed
    assert any("FAILED" in line for line in result.lines())


def blind(model: bytes) -> bytes:
    """The detector with its scores turned down to nothing."""
    import onnx
    from onnx import helper

    graph = onnx.load_from_string(model)
    last = next(node for node in graph.graph.node if "output" in node.output)
    last.output[0] = "loud"
    weights = onnx.numpy_helper.from_array(
        np.array([1, 1, 1, 1, 0], np.float32).reshape(1, 5, 1), "silence"
    )
    graph.graph.initializer.append(weights)
    graph.graph.node.append(helper.make_node("Mul", ["loud", "silence"], ["output"]))
    return bytes(graph.SerializeToString())


def test_another_runtime_has_the_wider_tolerance(plain: Bundle, tmp_path: Path) -> None:
    def elsewhere(document: Any) -> None:
        document["runs"]["cpu"]["version"] = "0.0.1"
        for cells in document["runs"]["cpu"]["fields"]:
            for cell in cells:
                cell["score"] -= 0.08

    made = with_golden(plain, tmp_path / "made.zip", elsewhere)
    result = run_golden(made, ROW)
    assert not result.same_runtime
    assert result.passed
    assert "kept outputs are of onnxruntime 0.0.1" in result.lines()[0]
    # The same difference is too much where nothing should differ.
    spec = made.manifest.golden
    assert spec is not None
    tight = spec.model_copy(update={"other_runtime": spec.same_runtime})
    assert not run_golden(write_with(made, tmp_path / "tight.zip", golden=tight), ROW).passed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["runs"]["cpu"]["fields"].pop(), "2 fields, the manifest 3"),
        (lambda d: d.update(format=2), "format"),
        (lambda d: d["runs"].update(abacus=d["runs"]["cpu"]), "abacus"),
        (lambda d: d["runs"].clear(), "no golden outputs for cpu"),
    ],
)
def test_damaged_outputs_are_one_line(
    plain: Bundle, tmp_path: Path, change: Callable[[Any], None], words: str
) -> None:
    made = with_golden(plain, tmp_path / "made.zip", change)
    with pytest.raises(BundleError) as error:
        run_golden(made, ROW)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bundle_without_golden_data_proves_nothing(plain: Bundle) -> None:
    with pytest.raises(BundleError, match="leukoscope bundle create"):
        run_golden(plain, ROW)


def test_fields_without_a_cell_are_no_test(plain: Bundle) -> None:
    with pytest.raises(BundleError, match="find no cell"):
        make_golden(plain, [paint_field(160, 120)], None)


def test_a_golden_field_that_is_no_picture_is_one_line(golden: Bundle, tmp_path: Path) -> None:
    spec = golden.manifest.golden
    assert spec is not None
    contents = {**golden.contents, spec.fields[0]: b"BM no picture at all, and too short"}
    with pytest.raises(BundleError, match="golden field"):
        run_golden(write_with(golden, tmp_path / "made.zip", contents=contents), ROW)


def test_golden_files_must_be_listed(golden: Bundle, tmp_path: Path) -> None:
    spec = golden.manifest.golden
    assert spec is not None
    contents = {name: raw for name, raw in golden.contents.items() if name != spec.outputs}
    with pytest.raises(BundleError, match="not among"):
        write_with(golden, tmp_path / "made.zip", contents=contents)


def test_a_changed_bundle_leaves_its_golden_data_behind(golden: Bundle) -> None:
    draft = draft_of(golden)
    assert draft.golden is None
    assert not [name for name in draft.contents if name.startswith("golden")]


def cell(x: float, score: float = 0.9, **more: Any) -> GoldenCell:
    return GoldenCell(box_xyxy=(x, 0, x + 10, 10), score=score, **more)


def judged(kept: list[GoldenCell], found: list[GoldenCell], **artifacts: str) -> dict[str, bool]:
    runs = [
        GoldenRun(
            artifacts={"detector": "d", **artifacts},
            backend="b",
            version="1",
            machine="m",
            fields=(tuple(cells),),
        )
        for cells in (kept, found)
    ]
    results = compare(runs[0], runs[1], TOLERANCE, score=0.4)
    return {each.part: each.passed for each in results}


@pytest.mark.parametrize(
    ("kept", "found", "passes"),
    [
        ([cell(0), cell(20)], [cell(20), cell(0)], True),
        ([cell(0), cell(20)], [cell(0)], False),
        ([cell(0)], [cell(0), cell(20)], False),
        # Near the operating point a cell may come and go.
        ([cell(0), cell(20, 0.44)], [cell(0)], True),
        ([cell(0)], [cell(0), cell(20, 0.44)], True),
        ([cell(0)], [cell(0.4)], True),
        ([cell(0)], [cell(0.7)], False),
        ([cell(0)], [cell(0, 0.86)], True),
        ([cell(0)], [cell(0, 0.84)], False),
        # Two for one: the second is one too many.
        ([cell(0)], [cell(0), cell(0.1)], False),
        ([cell(0, 0.41)], [], False),
        ([], [], False),
    ],
)
def test_the_detector_is_judged_by_its_cells(
    kept: list[GoldenCell], found: list[GoldenCell], passes: bool
) -> None:
    assert judged(kept, found) == {"detector": passes}


@pytest.mark.parametrize(
    ("kept", "found", "passes"),
    [
        ((0.7, 0.3), (0.66, 0.34), True),
        ((0.7, 0.3), (0.64, 0.36), False),
        ((0.51, 0.49), (0.48, 0.52), True),
        ((0.6, 0.4), (0.4, 0.6), False),
        ((0.6, 0.4), (0.6, 0.2, 0.2), False),
    ],
)
def test_classes_are_judged_by_their_probabilities(
    kept: tuple[float, ...], found: tuple[float, ...], passes: bool
) -> None:
    result = judged([cell(0, classes=kept)], [cell(0, classes=found)], classifier="c")
    assert result == {"detector": True, "classifier": passes}


@pytest.mark.parametrize(
    ("kept", "found", "passes"),
    [
        ((1, 0.9), (1, 0.86), True),
        ((1, 0.9), (1, 0.8), False),
        # Another value only where both were about as probable.
        ((0, 0.52), (1, 0.52), True),
        ((0, 0.60), (1, 0.60), False),
        ((0, 0.34), (2, 0.36), True),
        ((0, 0.9), (-1, 0.0), True),
    ],
)
def test_attributes_are_judged_by_value_and_probability(
    kept: tuple[int, float], found: tuple[int, float], passes: bool
) -> None:
    result = judged(
        [cell(0, attributes=(kept,))], [cell(0, attributes=(found,))], attribute_head="h"
    )
    assert result == {"detector": True, "attribute_head": passes}


def test_heads_without_a_cell_in_common_fail() -> None:
    result = judged([cell(0)], [cell(50)], classifier="c", attribute_head="h")
    assert result == {"detector": False, "attribute_head": False, "classifier": False}


def test_the_drawn_fields_have_cells_for_the_shipped_bundle() -> None:
    """On the demonstration bundle, with a tenth of the tolerance to spare for other machines."""
    bundle = open_bundle(shipped_bundle_path())
    drawn, size = drawn_fields()
    again, _ = drawn_fields()
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    spec, files = make_golden(bundle, drawn, size)
    outputs = GoldenOutputs.model_validate_json(files[spec.outputs])
    assert set(outputs.runs) == {"cpu", "tensorrt"}
    for run in outputs.runs.values():
        assert sum(map(len, run.fields)) >= 10
    assert sum(map(len, files.values())) < 1_000_000
    assert SAME_RUNTIME.score < OTHER_RUNTIME.score
