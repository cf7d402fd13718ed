"""Ranking, choosing and remembering, with quantiser and judge given in."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from calibration.histograms import BINS, TensorHistogram
from calibration.layer_error import HIGHEST_DB, clipped_share, decibels, rounding_sqnr
from calibration.ledger import Ledger
from calibration.ranges import Range
from calibration.report import (
    CalibrationReport,
    HeadReport,
    TensorReport,
    tensor_reports,
    write_report,
)
from calibration.report_page import HEIGHT, WIDTH, calibration_page, draw_histogram, sweep_page
from calibration.sensitivity import BlockCost, rank_blocks, ranked, worst_loss
from calibration.sweep import (
    CandidateResult,
    SweepResult,
    by_loss,
    by_size,
    choose,
    exclusion_sets,
)

HOSTILE = "</style><script>alert(1)</script>"


def cost(block: str, lost: float | None, db: float = 30.0) -> BlockCost:
    return BlockCost(block=block, nodes=1, lost_points=lost, domain="d", sqnr_db=db, seconds=0)


def result(
    lost: float | None, size: int, *, blocks: int = 0, method: str = "mse", runtime: str = "cpu"
) -> CandidateResult:
    return CandidateResult(
        runtime=runtime,
        method=method,
        exclusion=f"worst {blocks}",
        blocks=tuple(f"b{index}" for index in range(blocks)),
        size=size,
        figures={} if lost is None else {"d": 0.8 - lost / 100},
        lost_points=lost,
        domain=None if lost is None else "d",
        sqnr_db=30.0,
        passed=None if lost is None else lost <= 0.5,
        seconds=1.0,
    )


def test_the_worst_domain_counts_not_the_mean() -> None:
    before, after = {"a": 0.9, "b": 0.8, "c": 0.5}, {"a": 0.95, "b": 0.77, "c": 0.49}
    domain, lost = worst_loss(before, after)
    assert domain == "b"
    assert lost == pytest.approx(3.0)


def test_blocks_are_ranked_by_what_they_lose_or_else_by_noise() -> None:
    labelled = [cost("a", 0.1), cost("b", 2.0), cost("c", -0.3)]
    assert [each.block for each in ranked(labelled)] == ["b", "a", "c"]
    bare = [cost("a", None, 30), cost("b", None, 12), cost("c", None, 50)]
    assert [each.block for each in ranked(bare)] == ["b", "a", "c"]


def test_every_block_is_made_alone_and_remembered(tmp_path: Path) -> None:
    made: list[tuple[str, ...]] = []

    def only(nodes: Collection[str]) -> bytes:
        made.append(tuple(sorted(nodes)))
        return ",".join(sorted(nodes)).encode()

    def rank() -> list[BlockCost]:
        return rank_blocks(
            {"first": {"n1", "n2"}, "second": {"n3"}},
            only,
            lambda model: {"out": 40.0 - len(model), "other": 50.0},
            judge=lambda model: {"d": 0.8 if b"n3" in model else 0.7},
            float_figures={"d": 0.9},
            ledger=Ledger(tmp_path, {"model": "m"}),
        )

    costs = rank()
    assert made == [("n1", "n2"), ("n3",)]
    assert [each.block for each in costs] == ["first", "second"]
    assert [each.lost_points for each in costs] == pytest.approx([20.0, 10.0])
    assert [each.sqnr_db for each in costs] == [35.0, 38.0]
    assert rank() == costs
    assert len(made) == 2


def test_a_ledger_takes_no_result_for_another(tmp_path: Path) -> None:
    def ask(identity: str, name: str = "a/b c", extra: int = 0) -> int:
        ledger = Ledger(tmp_path, {"model": identity})
        found = ledger.remember(name, {"extra": extra}, lambda: {"value": next(numbers)})
        return int(found["value"])

    numbers = iter(range(10))
    assert ask("one") == ask("one") == 0
    assert ask("two") == 1
    assert ask("one", extra=1) == 2
    assert ask("one") == 0
    for file in tmp_path.iterdir():
        document = json.loads(file.read_text())
        file.write_text(json.dumps({**document, "key": {"name": "foreign"}}))
    assert ask("one") == 3


def test_exclusion_sets_grow_from_nothing() -> None:
    costs = [cost(name, 1.0) for name in "abc"]
    sets = exclusion_sets(costs, [2, 0, 1, 7])
    assert [(each.name, each.blocks) for each in sets] == [
        ("none", ()),
        ("worst 1", ("a",)),
        ("worst 2", ("a", "b")),
    ]


def test_rankings_by_loss_and_by_size() -> None:
    results = [result(0.3, 10), result(0.1, 30, blocks=2), result(0.2, 20, method="minmax")]
    assert [each.size for each in by_loss(results)] == [30, 20, 10]
    assert [each.size for each in by_size(results)] == [10, 20, 30]


def test_the_choice_passes_loses_least_and_leaves_no_block_in_float_for_nothing() -> None:
    bought = result(0.10, 30, blocks=4)
    plain = result(0.14, 20)
    lossy = result(0.35, 10)
    assert choose([bought, lossy])["cpu"] is bought
    # Within what chance makes, four blocks in float are too dear.
    assert choose([bought, plain, lossy])["cpu"] is plain
    failing = result(0.7, 5, runtime="tensorrt")
    assert set(choose([plain, failing])) == {"cpu"}
    assert choose([result(None, 10)]) == {}


def bell(seed: int = 0, outlier: float = 0.0) -> tuple[np.ndarray, TensorHistogram]:
    values = np.random.default_rng(seed).normal(0, 1, 200_000)
    if outlier:
        values[0] = outlier
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, BINS, (low, high))
    return values, TensorHistogram(low, high, counts.astype(np.int64))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("reach", [1.5, 3.0, 20.0])
def test_estimated_noise_is_that_of_really_rounding(symmetric: bool, reach: float) -> None:
    values, histogram = bell()
    low, levels = (-reach, 254) if symmetric else (-reach / 2, 255)
    step = (reach - low) / levels
    rounded = np.clip(np.rint(values / step), np.rint(low / step), np.rint(reach / step)) * step
    real = decibels(float((values**2).sum()), float(((values - rounded) ** 2).sum()))
    found = rounding_sqnr(histogram, Range(low, reach), symmetric=symmetric)
    assert found == pytest.approx(real, abs=0.3)


def test_decibels_have_ends() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(1.0, 0.0) == HIGHEST_DB
    assert decibels(0.0, 1.0) == 0
    constant = TensorHistogram(1.0, 1.0, np.zeros(BINS, np.int64))
    assert rounding_sqnr(constant, Range(0, 1), symmetric=False) is None


def test_clipped_share_counts_what_lies_outside() -> None:
    values, histogram = bell()
    share = clipped_share(histogram, Range(-2, 2))
    assert share == pytest.approx(float((np.abs(values) > 2).mean()), abs=0.002)
    assert clipped_share(histogram, Range(histogram.low, histogram.high)) == 0


def test_a_drawing_shows_what_is_clipped() -> None:
    _, histogram = bell(outlier=30.0)
    (found,) = tensor_reports({"t": histogram}, {"t": Range(-4, 5)}, {"t": 21.0}, symmetric=False)
    drawn = draw_histogram(found)
    assert sum(found.counts) == 200_000
    assert [bar.inside for bar in drawn.bars][-1] is False
    assert 0 < drawn.left < drawn.zero < drawn.right < WIDTH
    assert all(bar.y >= 0 and bar.y + bar.height <= HEIGHT + 0.01 for bar in drawn.bars)
    # One value among thousands is still to be seen.
    assert drawn.bars[-1].height >= 1
    assert drawn.bars[-1].x > drawn.right
    assert "minmax" in drawn.ticks[-1][1]


def head(name: str) -> HeadReport:
    _, histogram = bell()
    return HeadReport(
        head="detector",
        runtime="cpu",
        method="mse",
        calibrated_on="3 pictures",
        judged_on="2 fields",
        figure="AP50-95",
        float_size=400,
        int8_size=100,
        quantised_share=0.93,
        float_figures={name: 0.8},
        int8_figures={name: 0.79},
        output_db={name: 20.0},
        tensors=tensor_reports(
            {name: histogram}, {name: Range(-4, 4)}, {name: 20.0}, symmetric=False
        ),
        layers=(),
        blocks=(cost(name, 1.0),),
    )


def test_pages_escape_what_graphs_and_folders_are_called(tmp_path: Path) -> None:
    report = CalibrationReport(
        name=HOSTILE, date="2026-01-01", pictures=None, heads=(head(HOSTILE),)
    )
    page = calibration_page(report)
    swept = sweep_page([sweep(HOSTILE)], name=HOSTILE)
    for text in (page, swept):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "For research use only. Not for use in diagnostic procedures." in text
    document, written = write_report(report, tmp_path / "new")
    assert written.read_text() == page
    assert CalibrationReport.model_validate_json(document.read_text()) == report


def sweep(name: str) -> SweepResult:
    results = [result(0.1, 10), result(0.9, 20, blocks=1)]
    return SweepResult(
        head="detector",
        figure="AP50-95",
        calibrated_on="3 pictures",
        judged_on="2 fields",
        allowed_points=0.5,
        float_size=40,
        float_figures={"d": 0.8},
        blocks=(cost(name, 0.5),),
        blocks_for="cpu, mse",
        by_loss=tuple(results),
        by_size=("cpu mse worst 0", "cpu mse worst 1"),
        chosen={"cpu": "cpu mse worst 0"},
    )


def test_the_sweeps_page_marks_choice_and_failure() -> None:
    page = sweep_page([sweep("b")], name="x")
    assert page.count('class="chosen') == 1
    assert page.count('class=" failed"') == 1
    assert "ship cpu mse worst 0" in page


def test_tensors_without_a_range_in_the_graph_are_left_out() -> None:
    _, histogram = bell()
    found = tensor_reports(
        {"a": histogram, "b": histogram}, {"a": Range(-1, 1)}, {}, symmetric=True
    )
    assert [each.name for each in found] == ["a"]
    assert isinstance(found[0], TensorReport)
    assert set(found[0].by_method) == {"minmax", "percentile", "mse", "entropy"}
