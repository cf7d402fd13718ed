"""Report and sweep on heads without training: what they say of a graph is what the graph is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from calibration.layer_error import HIGHEST_DB, layer_errors, rounded_names
from calibration.ranges import Range
from calibration.sweep import SweepResult
from edge_runtime.errors import DataError, SettingsError
from export.assembly import CPU
from export.blocks import IN_TAIL, LEFT_OUT, all_but, blocks_of, last_layers, layer_states
from export.bundle_writer import DEFAULT_SCALE, detector_spec
from export.calibrate_cli import app
from export.calibration_runs import Quantiser, ranges_of, report_head, sweep_head
from export.calibration_subjects import (
    Limits,
    Subject,
    attribute_subject,
    classifier_subject,
    detector_subject,
)
from export.int8_plan import load_sweep
from export.training_run import TrainingRun
from tests.export.conftest import square_detector
from tests.export.toy_heads import (
    MAPS,
    head_run,
    layered_detector,
    toy_attribute_head,
    toy_classifier,
)
from tests.support import MODEL_NAME, toy_detector, write_bundle

onnx = pytest.importorskip("onnx")


@contextmanager
def quiet(_: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


@pytest.fixture
def subject(run: TrainingRun, float_model: bytes) -> Subject:
    scale = DEFAULT_SCALE.model_copy(update={"cell_px": 16, "min_cell_px": 4})
    limits = Limits(fields=6)
    return detector_subject(run, float_model, minimum=20, working_scale=scale, limits=limits)


def scoped() -> bytes:
    """The square detector with node names as exporters write them."""
    model = onnx.load_from_string(square_detector())
    for node in model.graph.node:
        node.name = f"/model.{len(node.output[0]) % 3}/{node.output[0]}/{node.op_type}"
    return bytes(model.SerializeToString())


def test_layers_are_blocks_where_names_say_nothing(float_model: bytes) -> None:
    blocks = blocks_of(float_model)
    assert list(blocks) == ["n/stem", "n/mix", "n/features"]
    assert {"n/mix", "n/mixed", "n/both", "n/peak"} <= blocks["n/mix"]
    assert not any("last" in node for nodes in blocks.values() for node in nodes)


def test_modules_are_blocks_where_names_have_parts() -> None:
    blocks = blocks_of(scoped())
    # Three layers can be int8; as deep as there are names, each is a module of its own.
    assert [name.split("/")[-1] for name in blocks] == ["stem", "mix", "features"]
    assert blocks["model.0/mix"] == {"/model.0/mix/Conv"}


def test_last_layers_are_those_before_decoding(float_model: bytes) -> None:
    assert last_layers(float_model) == ["score_last", "box_last"]
    assert last_layers(toy_classifier().model) == ["logits"]


@pytest.mark.parametrize("runtime", ["cpu", "tensorrt"])
def test_only_the_block_asked_for_is_int8(subject: Subject, runtime: Any) -> None:
    quantiser = Quantiser(subject)
    blocks = blocks_of(subject.float_model)
    model = quantiser.only(runtime, "minmax", blocks["n/mix"])
    states = layer_states(
        subject.float_model,
        model,
        runtime,
        keep_float=all_but(subject.float_model, blocks["n/mix"]),
    )
    assert {state.name for state in states if state.int8} == {"n/mix"}
    assert {state.why_float for state in states if not state.int8} == {LEFT_OUT}
    whole = layer_states(subject.float_model, quantiser.make(runtime, "minmax"), runtime)
    assert [state.why_float for state in whole if not state.int8] == [IN_TAIL] * 3
    with pytest.raises(DataError, match="'nowhere' is to stay in float"):
        quantiser.make(runtime, "minmax", ["nowhere"])


def test_layer_errors_are_none_for_the_same_graph_and_grow_with_coarser_ranges(
    subject: Subject,
) -> None:
    quantiser = Quantiser(subject)
    names = ["stem", "mixed", "score_last"]
    same = layer_errors(subject.float_model, subject.float_model, names, subject.compared)
    assert same == dict.fromkeys(names, HIGHEST_DB)
    fine = quantiser.output_error(quantiser.make("cpu", "minmax"))
    wide = {n: Range(r.low * 8, r.high * 8) for n, r in quantiser.ranges("minmax").items()}
    from export.qdq import quantise_for_cpu

    coarse = quantiser.output_error(quantise_for_cpu(subject.float_model, wide))
    # Three bits fewer are 18 dB less, on the layer that has nothing but rounding to suffer from.
    assert fine["score_last"] - coarse["score_last"] > 10


def test_a_rounded_tensor_is_compared_as_the_next_layer_reads_it(subject: Subject) -> None:
    model = Quantiser(subject).make("cpu", "minmax")
    assert rounded_names(model, ["images", "score_last"]) == ["images/rounded", "score_last"]
    errors = layer_errors(subject.float_model, model, ["images"], subject.compared)
    # Pictures have 256 levels themselves; darkest and lightest are not 0 and 255 here.
    assert errors["images"] < HIGHEST_DB
    with pytest.raises(DataError, match="no tensor 'elsewhere'"):
        rounded_names(model, ["elsewhere"])


def test_ranges_are_read_off_the_graph(subject: Subject) -> None:
    quantiser = Quantiser(subject)
    measured = quantiser.ranges("minmax")
    cpu = ranges_of(quantiser.make("cpu", "minmax"))
    step = (measured["images"].high - measured["images"].low) / 255
    assert cpu["images"].high == pytest.approx(measured["images"].high, abs=step)
    assert cpu["peak"] == cpu["both"], "pooling takes its input's"
    signed = ranges_of(quantiser.make("tensorrt", "minmax"))
    assert set(signed) == {"images", "dark", "joined"}
    assert all(found.low == pytest.approx(-found.high) for found in signed.values())


def test_a_report_says_what_is_int8_and_what_it_costs(subject: Subject) -> None:
    report = report_head(subject, "cpu", "minmax", show=quiet)
    assert set(report.float_figures) == set(report.int8_figures) == {"one", "two", "composed"}
    assert report.float_figures["one"] > 0.9
    assert {layer.name for layer in report.layers if not layer.int8} == {
        "n/score_last",
        "n/box_last",
        "n/expected",
    }
    assert {cost.block for cost in report.blocks} == {"n/stem", "n/mix", "n/features"}
    assert all(cost.lost_points is not None for cost in report.blocks)
    tensors = {each.name: each for each in report.tensors}
    assert tensors["images"].low >= 0
    assert sum(tensors["images"].counts) == 3 * 64 * 64 * subject.feed_count
    assert all(each.sqnr_db is not None and each.sqnr_db > 5 for each in report.tensors)
    assert set(report.output_db) == {"score_last", "box_last"}


def test_a_sweep_goes_on_where_it_stopped(subject: Subject, tmp_path: Path) -> None:
    def sweep() -> SweepResult:
        return sweep_head(
            subject,
            tmp_path / "sweep",
            runtimes=["cpu", "tensorrt"],
            methods=["minmax", "mse"],
            most_costly=[1],
            show=quiet,
        )

    whole = sweep()
    assert len(whole.by_loss) == 8
    losses = [each.lost_points for each in whole.by_loss]
    assert losses == sorted(losses, key=lambda lost: lost or 0.0)
    sizes = {f"{e.runtime} {e.method} {e.exclusion}": e.size for e in whole.by_loss}
    assert [sizes[name] for name in whole.by_size] == sorted(sizes.values())
    assert sizes["cpu minmax worst 1"] != sizes["cpu minmax none"]
    assert set(whole.chosen) == {"cpu", "tensorrt"}
    # One file each: 8 candidates, 3 blocks, the ranges, the float graph.
    files = sorted((tmp_path / "sweep").iterdir())
    assert len(files) == 13
    one = next(file for file in files if file.name.startswith("cpu-mse-none"))
    one.write_text("{ torn")
    again: list[bytes] = []
    judge = subject.judge
    assert judge is not None

    def counted(model: bytes) -> Mapping[str, float]:
        again.append(model)
        return judge(model)

    def unwanted() -> Iterator[Any]:
        raise AssertionError("calibration pictures are run again")

    subject = replace(subject, judge=counted, feeds=unwanted)
    resumed = sweep()
    assert len(again) == 1
    assert {e.size for e in resumed.by_loss} == {e.size for e in whole.by_loss}
    assert resumed.chosen == whole.chosen


def test_fewer_views_judge_every_field_and_are_no_trial(
    run: TrainingRun, float_model: bytes
) -> None:
    def judged(limits: Limits) -> Subject:
        return detector_subject(run, float_model, minimum=20, limits=limits)

    whole, once, trial = judged(Limits()), judged(Limits(views=1)), judged(Limits(fields=4))
    fields = sum(len(group) for group in run.validation_fields().values())
    assert once.judged_on == f"{fields} validation fields, each in one view"
    assert "views" in whole.judged_on
    assert whole.judged_digest != once.judged_digest
    assert (whole.trial, once.trial, trial.trial) == (False, False, True)


def test_heads_of_cells_are_judged_too(tmp_path: Path) -> None:
    from calibration.labelled_cells import open_cells

    run = head_run(tmp_path / "run", tmp_path, attributes=True)
    cells = open_cells(run / "cells.json", tmp_path)
    limits = Limits(pictures=12, fields=9)
    classifier = classifier_subject(toy_classifier(), cells, minimum=1, limits=limits)
    said = report_head(classifier, "cpu", "minmax", show=quiet)
    assert said.float_figures == {"squares": 1.0}
    assert "Gemm" in {layer.kind for layer in said.layers if not layer.int8}
    detector = detector_spec(architecture="toy", image_size=64, artifacts=[CPU])
    detector = detector.model_copy(update={"feature_maps": MAPS})
    attributes = attribute_subject(
        toy_attribute_head(),
        detector,
        layered_detector(tapped=True),
        cells,
        minimum=1,
        limits=limits,
    )
    found = report_head(attributes, "tensorrt", "minmax", blocks=False, show=quiet)
    assert found.float_figures["squares"] > 0.9
    assert found.blocks == ()
    assert [layer.kind for layer in found.layers if layer.int8] == ["Conv"]


def test_the_commands_write_pages_that_fetch_nothing(
    run: TrainingRun, float_model: bytes, tmp_path: Path
) -> None:
    model = tmp_path / "float.onnx"
    model.write_bytes(float_model)
    given = [
        f"--run={run.folder}",
        f"--model={model}",
        "--minimum=20",
        "--fields=2",
        "--pictures=9",
    ]
    toy = write_bundle(tmp_path / "b", {MODEL_NAME: toy_detector()})
    given.append(f"--bundle={toy}")
    answer = CliRunner().invoke(
        app, ["report", *given, f"--out={tmp_path / 'r'}", "--runtime=cpu", "--runtime=tensorrt"]
    )
    assert answer.exit_code == 0, answer.output
    page = (tmp_path / "r" / "calibration.html").read_text()
    assert page.count("For research use only. Not for use in diagnostic procedures.") >= 2
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert IN_TAIL in page
    document = json.loads((tmp_path / "r" / "calibration_report.json").read_text())
    assert [head["runtime"] for head in document["heads"]] == ["cpu", "tensorrt"]
    assert str(tmp_path) not in json.dumps(document)
    sweep = ["sweep", *given, f"--out={tmp_path / 's'}", "--runtime=cpu", "--method=minmax"]
    answer = CliRunner().invoke(app, [*sweep, "--method=entropy", "--exclude=1"])
    assert answer.exit_code == 0, answer.output
    assert "for a trial cpu" in answer.output
    with pytest.raises(DataError, match="it was a trial"):
        load_sweep(tmp_path / "s" / "sweep.json")
    assert "ship cpu" in (tmp_path / "s" / "sweep.html").read_text()
    heads = json.loads((tmp_path / "s" / "sweep.json").read_text())["heads"]
    assert len(heads[0]["by_loss"]) == 4
    answer = CliRunner().invoke(app, ["ranges", *given[:3], f"--out={tmp_path / 'ranges.json'}"])
    assert answer.exit_code == 0, answer.output
    ranges = json.loads((tmp_path / "ranges.json").read_text())["detector"]["ranges"]
    assert set(ranges) == {"minmax", "percentile", "mse", "entropy"}


def test_without_labels_outputs_are_compared_and_nothing_is_chosen(
    run: TrainingRun, float_model: bytes, tmp_path: Path
) -> None:
    from calibration.sampling import draw_calibration_set
    from export.calibration_subjects import unlabelled_subject

    spec = detector_spec(architecture="toy", image_size=64, artifacts=[CPU]).input
    pools = run.pools()
    drawn = draw_calibration_set(pools, spec, minimum=1)
    subject = unlabelled_subject(
        float_model, drawn, {pool.domain: pool.folder for pool in pools}, spec
    )
    found = sweep_head(
        subject, tmp_path, runtimes=["cpu"], methods=["minmax"], most_costly=[1], show=quiet
    )
    assert found.chosen == {}
    assert [each.lost_points for each in found.by_loss] == [None, None]
    assert found.by_loss[0].sqnr_db >= found.by_loss[1].sqnr_db
    assert [cost.sqnr_db for cost in found.blocks] == sorted(c.sqnr_db for c in found.blocks)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "nothing to calibrate"),
        (["--method=best"], "'best': choose one of minmax"),
        (["--runtime=gpu"], "'gpu': choose one of cpu"),
        # Before hours of measuring, not after them.
        (["--date=yesterday"], "give it as YYYY-MM-DD"),
        (["--classifier=x"], "--data"),
        (["--attribute-head=x", "--data=."], "--detector"),
    ],
)
def test_what_is_missing_is_named(flags: list[str], said: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["report", f"--out={tmp_path}", *flags])
    assert isinstance(answer.exception, SettingsError)
    assert said in str(answer.exception)
