"""Experiments of many trainings: order, taking up, means over seeds, tables."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from benchmarks import method_cost, training_grid
from benchmarks.adaptation import AdaptationPlan
from benchmarks.adaptation import run_name as adapt_name
from benchmarks.adaptation import summarise as summarise_adaptation
from benchmarks.published_adaptation import TABLES, figure
from benchmarks.qat import QatPlan
from benchmarks.qat import summarise as summarise_qat
from benchmarks.site_curve import SitePlan, draw_curve
from benchmarks.site_curve import run_name as site_name
from benchmarks.site_curve import summarise as summarise_site
from benchmarks.sparse_labels import ROWS, SparsePlan
from benchmarks.sparse_labels import run_name as sparse_name
from benchmarks.sparse_labels import summarise as summarise_sparse
from benchmarks.training_grid import GridRun, over_seeds, run_grid
from edge_runtime.errors import DataError

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

MACHINE = {"processor": "a processor", "date": "2026-01-02T03:04:05+00:00"}
SCALE = {"model": "a.yaml", "image_size": 64, "batch": 8, "start": "random weights"}


def detection(ap: float) -> dict[str, Any]:
    row = {"name": "WBC", "cells": 5, "ap": ap, "ap50": ap + 0.1}
    counted = [{"name": "WBC", "score": score, "recall": ap} for score in (0.25, 0.5)]
    detection = {"ap": ap, "ap50": ap + 0.1, "classes": [row]}
    return {"detection": detection, "counted": counted, "attributes": {}}


@pytest.mark.parametrize(("key", "value"), [("image_size", 96), ("batch", 4), ("seed", 7)])
def test_figures_of_another_recipe_are_no_part_of_a_table(
    tmp_path: Path, key: str, value: int
) -> None:
    plan = SparsePlan(["naive"], [0], "data")
    runs = plan.runs(tmp_path)
    for run in runs:
        folder = tmp_path / run.name
        folder.mkdir(parents=True)
        # Elsewhere, and of a version that knew no such key.
        recipe = {**run.arguments["recipe"], "data_root": "/elsewhere"}
        del recipe["channels_last"]
        begun = {"recipe": recipe, "method": run.arguments["method"], "source": None}
        (folder / "recipe.json").write_text(json.dumps(begun))
        (folder / "figures.json").write_text("{}")
    said: list[str] = []
    run_grid(runs, tmp_path, jobs=1, say=said.append)
    assert said == ["2 of 2 runs are there already"]
    file = tmp_path / runs[1].name / "recipe.json"
    document = json.loads(file.read_text())
    document["recipe"][key] = value
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"naive: done with another recipe \({key} differs\)"):
        run_grid(runs, tmp_path, jobs=1, say=said.append)


def test_steps_are_compared_with_the_plain_step_of_their_own_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"source-only": 1.0, "confmix": 3.0, "naive": 2.0, "sla-det": 3.0}
    monkeypatch.setattr(
        method_cost, "_seconds_per_step", lambda settings, name, work: seconds.get(name, 4.0)
    )
    settings = method_cost.CostSettings(tmp_path / "c.pt", "data", 16, 2)
    result = method_cost.measure_cost(settings, tmp_path, lambda line: None)
    rows = result["methods"]
    assert {name: rows[name]["ratio"] for name in seconds} == {
        "source-only": 1.0,
        "confmix": 3.0,
        "naive": 1.0,
        "sla-det": 1.5,
    }
    table = TABLES["method_cost"]({**result, "machine": MACHINE})
    assert "| sla-det | 3.000 | naive | 1.50 |" in table


def store(work: Path, name: str, figures: dict[str, Any]) -> None:
    place = work / name
    place.mkdir(parents=True)
    (place / "figures.json").write_text(json.dumps(figures))


def test_over_seeds_has_the_sample_deviation_and_skips_what_is_missing() -> None:
    assert over_seeds([1.0, 3.0, None]) == {
        "mean": 2.0,
        "deviation": pytest.approx(2**0.5),
        "values": [1.0, 3.0, None],
    }
    assert over_seeds([None])["mean"] is None
    assert over_seeds([0.5])["deviation"] is None


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces trainings by writing their figures; names in the order of their beginning."""
    order: list[str] = []
    lock = threading.Lock()

    def one(run: GridRun, work: Path, threads: int) -> None:
        with lock:
            order.append(run.name)
        if run.kind == "fails":
            raise DataError(f"run {run.name}: failed")
        store(work, run.name, {})

    monkeypatch.setattr(training_grid, "_one", one)
    return order


def test_grid_waits_for_what_a_run_needs(tmp_path: Path, ran: list[str]) -> None:
    runs = [
        GridRun("second", "adapt", {}, after="first"),
        GridRun("first", "adapt", {}),
        GridRun("third", "adapt", {}, after="elsewhere"),
    ]
    run_grid(runs, tmp_path, jobs=2, say=lambda line: None)
    assert set(ran) == {"first", "second", "third"}
    assert ran.index("first") < ran.index("second")


def test_grid_does_not_repeat_finished_runs(tmp_path: Path, ran: list[str]) -> None:
    store(tmp_path, "first", {})
    runs = [GridRun("first", "adapt", {}), GridRun("second", "adapt", {}, after="first")]
    run_grid(runs, tmp_path, jobs=1, say=lambda line: None)
    assert ran == ["second"]


def test_grid_stops_at_a_failure_and_keeps_the_rest(tmp_path: Path, ran: list[str]) -> None:
    runs = [GridRun("good", "adapt", {}), GridRun("bad", "fails", {}), GridRun("late", "adapt", {})]
    with pytest.raises(DataError, match="run bad"):
        run_grid(runs, tmp_path, jobs=1, say=lambda line: None)
    assert (tmp_path / "good" / "figures.json").is_file()
    assert "late" not in ran


def test_gap_is_closed_seed_by_seed(tmp_path: Path) -> None:
    plan = AdaptationPlan(
        ("hcm-lcm",), ("wbc",), ("source-only", "confmix", "oracle"), (0, 1), ".", {}
    )
    table = {"source-only": (0.4, 0.5), "confmix": (0.5, 0.55), "oracle": (0.8, 0.6)}
    for name, values in table.items():
        for seed, value in enumerate(values):
            figures = {
                "fields": {"target": detection(value), "source": detection(0.9)},
                "minutes": 1.0,
            }
            store(tmp_path, adapt_name("hcm-lcm", "wbc", seed, name), figures)
    (group,) = summarise_adaptation(plan, tmp_path)
    gaps = group["methods"]["confmix"]["gap_closed"]["values"]
    assert gaps == [pytest.approx(0.25), pytest.approx(0.5)]
    assert group["methods"]["oracle"]["gap_closed"]["mean"] == pytest.approx(1.0)
    document = {
        "machine": MACHINE,
        "scale": SCALE,
        "source_epochs": 3,
        "adapt_epochs": 2,
        "groups": [group],
    }
    text = TABLES["adaptation"](document)
    assert "| confmix | 0.525 ± 0.035 |" in text
    assert "38 % ± 18 |" in text


def test_every_method_of_the_plan_begins_with_the_same_source_phase(tmp_path: Path) -> None:
    plan = AdaptationPlan(("hcm-lcm",), ("three",), ("source-only", "daca"), (4,), "data", {})
    first, second = plan.runs(tmp_path)
    assert first.after is None
    assert second.after == first.name
    begun = str(tmp_path / first.name / "phase1" / "weights" / "last.pt")
    assert second.arguments["source_checkpoint"] == begun
    assert second.arguments["recipe"]["seed"] == 4


def test_sparse_rows_are_compared_with_naive_and_the_ceiling(tmp_path: Path) -> None:
    plan = SparsePlan(list(ROWS), (0,), ".")
    for name, value in (("naive", 0.3), ("sla-det-lr", 0.5), ("full", 0.7), ("crops+windows", 0.2)):
        figures = {
            "fields": {"bccd": detection(value), "all": detection(value)},
            "minutes": 1.0,
            "counts": {},
            "options": {},
        }
        store(tmp_path, sparse_name(0, name), figures)
    result = summarise_sparse(plan, tmp_path)
    row = result["rows"]["sla-det-lr"]
    assert row["above_naive"]["mean"] == pytest.approx(0.2)
    assert row["of_ceiling"]["mean"] == pytest.approx(0.6 / 0.8)
    document = {
        "machine": MACHINE,
        "scale": SCALE,
        "patch_share": 0.2,
        "epochs": 3,
        **result,
    }
    text = TABLES["sparse"](document)
    assert "| SLA-Det, LR | 0.500 | 0.600 | 0.200 | 75 % | WBC 0.50 |" in text
    assert "Co-mining" not in text


def test_sparse_rows_begin_with_the_same_detector(tmp_path: Path) -> None:
    runs = SparsePlan(["naive", "sla-det-lr"], (2, 3), ".").runs(tmp_path)
    assert [run.after for run in runs] == [None, "start", "start", "start", "start"]
    assert runs[0].arguments["recipe"]["fields"][0]["path"] == "wbc-domains/hcm_pbc"
    begun = runs[1].arguments["recipe"]["start_from"]
    assert begun == str(tmp_path / "start/phase2/weights/last.pt")
    options = runs[2].arguments["recipe"]["options"]["sla-det"]
    assert options == {"pseudo_labels": False, "similarity": False}


def test_site_curve_begins_with_the_detector_as_it_came(tmp_path: Path) -> None:
    plan = SitePlan((10, 25), (0, 1), 2, ".")
    for seed in (0, 1):
        for count in (10, 25):
            change = {
                "before": {"ap": 0.2, "ap50": 0.4},
                "after": {"ap": 0.2 + count / 100, "ap50": 0.5},
            }
            kept = {"before": {"ap": 0.8, "ap50": 0.9}, "after": {"ap": 0.7, "ap50": 0.9}}
            figures = {
                "passed": seed == 0,
                "site_test": change,
                "source": {"a": kept, "b": change},
                "minutes": 1.0,
                "settings": {"limit_drop": 2.0},
            }
            store(tmp_path, site_name(seed, count, "replay"), figures)
    result = summarise_site(plan, tmp_path)
    assert [(row["fields"], row["kind"]) for row in result["rows"]] == [
        (0, "as it came"),
        (10, "replay"),
        (25, "replay"),
    ]
    last = result["rows"][-1]
    assert last["target_ap"]["mean"] == pytest.approx(0.45)
    assert last["source_ap"]["mean"] == pytest.approx((0.7 + 0.45) / 2)
    assert last["would_fail"] == 0.5
    draw_curve(result, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    text = TABLES["site"]({"machine": MACHINE, **result})
    assert "| 25 | replay 4:1 | 0.450 ± 0.000 |" in text


def test_figure_shows_a_dash_for_what_is_not_there() -> None:
    assert figure(None) == "–"
    assert figure(over_seeds([0.5])) == "0.500"
    assert figure(over_seeds([0.4, 0.6, None])) == "0.500 ± 0.141 (n = 2)"


def test_rounding_is_compared_with_a_detector_that_trained_as_long(tmp_path: Path) -> None:
    plan = QatPlan(["n", "s"], (0, 1), ".")
    runs = {run.name: run for run in plan.runs(tmp_path)}
    assert list(runs)[:4] == ["n/seed0/float", "n/seed1/float", "s/seed0/float", "s/seed1/float"]
    more, rounded = runs["s/seed1/more"], runs["s/seed1/rounded"]
    assert more.after == rounded.after == "s/seed1/float"
    assert more.arguments["start_from"] == rounded.arguments["start_from"]
    assert more.arguments["start_from"].startswith(str(tmp_path / "s/seed1/float"))
    spec = [run.arguments["recipe"]["train"] for run in (more, rounded)]
    assert [each.pop("qat") for each in spec] == [False, True]
    assert spec[0] == spec[1]
    assert rounded.arguments["recipe"]["model"] == "yolo11s.yaml"
    ap = {"float32": {"a": 0.8, "b": 0.6}, "minmax": {"a": 0.7, "b": 0.6}}
    store(tmp_path, "s/seed0/more", {"ap": ap})
    store(tmp_path, "s/seed0/rounded", {"ap": {"float32": {"a": 0.8}, "trained": {"a": 0.69}}})
    result = summarise_qat(plan, tmp_path)
    assert list(result["rows"]) == ["s"]
    row = result["rows"]["s"]
    assert row["lost_after_training"]["minmax"]["mean"] == pytest.approx(5)
    assert row["lost_while_training"]["mean"] == pytest.approx(1)
    scale = {"images": 8, "image_size": 64, "activation": "silu", "epochs": [4, 1]}
    text = TABLES["qat"]({"machine": MACHINE, "scale": scale, **result})
    assert "| YOLO11s | 0.700 | 5.00 | – | – | – | 1.00 |" in text
