"""Table rows: what is shipped, what runs, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from edge_runtime.errors import DataError, SettingsError
from tests.train.leukemia_fields import write_leukemia_fields
from train.attridet_recipe import load_attridet_recipe
from train.cli import app
from train.reproduce.method_rows import AdaptRun, SparseRun
from train.reproduce.rows import (
    ROWS,
    ClassifyRun,
    DetectorRun,
    Target,
    all_rows,
    load_row,
)
from train.reproduce.run import reproduce, target_set

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

# As the papers print them, typed in here a second time; methods have a file of their own.
PUBLISHED = {
    "lld-t4-yolov5x": "38.8 44.2 36.1 37.3 39.5 29.7 38.1 34.9",
    "miccai-t2-yolov5x": "20.9 38.8 26.3 44.2 20.7 39.5 20.1 38.1",
    "lld-t5-attridet": "73.9 95.9 54.3 89.7 83.6 29.1 28.2",
    "lld-t5-cbm": "21.9 96.2 41.8 77.2 70.2 3.33 27.6",
    "lld-t5-yolov5x": "26.3",
    "pcm-t4-yolo11m": "80.8 52.4",
    "pcm-t5-yolo11m": "74.6 58.1",
    "pcm-fig2-binary": "87.6 63.8 82.1 55.1",
    "pcm-t6-resnet50": "82.95 87.94 56.08 66.62",
    "pcm-t6-dinobloom-direct": "87.96 91.29",
    "pcm-t6-dinobloom-lpft": "92.11 92.59 74.27 88.02",
    "pcm-t7-zero-shot": "40.63 39.67",
    "pcm-t7-adapted": "67.94 81.94",
}


def test_rows_hold_the_published_numbers() -> None:
    found = {
        row.id: " ".join(f"{v:g}" for each in row.columns for v in each.published.values())
        for row in all_rows()
        if not isinstance(row.run, AdaptRun | SparseRun)
    }
    assert found == PUBLISHED


def test_only_the_row_without_a_method_is_not_built() -> None:
    assert [row.id for row in all_rows() if row.run is None] == ["lld-t5-cbm"]


def test_smoke_runs_are_small_and_on_the_data_at_hand() -> None:
    for row in all_rows():
        if isinstance(row.smoke, DetectorRun):
            recipe = row.smoke.made(row.id, ".")
            assert recipe.image_size <= 192
            assert sum(phase.epochs for phase in recipe.phases) <= 3
            assert recipe.fields.dataset == "pbc-attributes"
            assert recipe.fields.most["train"] <= 128
        elif isinstance(row.smoke, ClassifyRun):
            assert row.smoke.weights is None
            assert row.smoke.fields.most["train"] <= 128


def test_attridet_runs_the_papers_two_phases() -> None:
    row = load_row("lld-t5-attridet")
    assert isinstance(row.run, DetectorRun)
    recipe = row.run.made(row.id, "/data", "leukemia-attri/L_100x_C1")
    assert [(phase.epochs, phase.fresh_head) for phase in recipe.phases] == [
        (100, False),
        (200, True),
    ]
    assert recipe.fields.path == "leukemia-attri/L_100x_C1"
    assert recipe.attributes is not False
    assert (recipe.attributes.dropout, recipe.model) == (0.2, "yolov5x.yaml")
    assert load_attridet_recipe("attridet-leukemia").phases == recipe.phases


def tiny_row(tmp_path: Path) -> Path:
    """A detector's row in miniature, with two columns."""
    recipe = {
        "fields": {"dataset": "leukemia-attri", "path": "one"},
        "model": "yolo11n.yaml",
        "image_size": 64,
        "batch": 4,
        "phases": [{"epochs": 1}],
    }
    file = tmp_path / "tiny-row.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "paper": "A paper",
                "table": "Table 1",
                "method": "Tiny",
                "needs": ["leukemia-attri"],
                "columns": [
                    {"name": "one", "path": "one", "published": {"map50": 12.5}},
                    {"name": "two (x)", "path": "two", "published": {"map50": 50.0}},
                    {"name": "gone", "published": {"map50": 1.0}, "not_run": "unpublished"},
                ],
                "run": {"kind": "attridet", "recipe": recipe},
                "smoke": {"kind": "attridet", "recipe": recipe},
            }
        )
    )
    return file


def test_every_column_is_trained_and_set_beside_its_figure(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_leukemia_fields(tmp_path / "data" / name, {"train": 5, "test": 2}, seed=len(name))
    document = reproduce(
        load_row(str(tiny_row(tmp_path))),
        tmp_path / "out",
        scale="paper",
        data_root=tmp_path / "data",
        device="cpu",
    )
    assert document == json.loads((tmp_path / "out" / "result.json").read_text())
    assert [each["name"] for each in document["columns"]] == ["one", "two (x)"]
    assert document["comparable"] is True
    assert document["not_run"] == {"gone": "unpublished"}
    for each, folder in zip(document["columns"], ("one", "two_x"), strict=True):
        measured = json.loads((tmp_path / "out" / folder / "figures.json").read_text())
        assert each["measured"]["map50"] == round(100 * measured["detection"]["ap50"], 2)
        assert "f1_nucleolus" in each["measured"]


def test_smoke_scale_says_that_nothing_can_be_compared(tmp_path: Path) -> None:
    write_leukemia_fields(tmp_path / "data" / "one", {"train": 5, "test": 2})
    shown = CliRunner().invoke(
        app,
        [
            *("reproduce", str(tiny_row(tmp_path)), "--scale", "smoke", "--device", "cpu"),
            *("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")),
        ],
        env={"COLUMNS": "200"},
    )
    assert shown.exit_code == 0, shown.output
    assert "they cannot be compared with the published ones" in shown.output
    assert "12.5" in shown.output
    assert "gone not run: unpublished" in shown.output
    assert json.loads((tmp_path / "out" / "result.json").read_text())["comparable"] is False


def test_missing_data_names_the_set_and_where_it_comes_from(tmp_path: Path) -> None:
    for name, words in (
        ("lld-t5-attridet", "data set leukemia-attri is not in .*H_100x_C2; get it from: https"),
        ("pcm-t7-adapted", "data set pcm-leukemia is not in"),
    ):
        with pytest.raises(DataError, match=words):
            reproduce(load_row(name), tmp_path, scale="paper", data_root=tmp_path)
    (tmp_path / "pcm-leukemia").mkdir()
    with pytest.raises(DataError, match=r"data set lmu is not in .*Cancer Imaging Archive"):
        reproduce(load_row("pcm-t7-adapted"), tmp_path, scale="paper", data_root=tmp_path)
    with pytest.raises(SettingsError, match="DinoBloom-B; give the file with --weights"):
        reproduce(load_row("pcm-t6-dinobloom-lpft"), tmp_path, scale="paper", data_root=tmp_path)


def test_what_cannot_be_run_is_refused_in_one_line(tmp_path: Path) -> None:
    def run(name: str, **more: Any) -> None:
        reproduce(load_row(name), tmp_path, scale="paper", data_root=tmp_path, **more)

    with pytest.raises(SettingsError, match="lld-t5-cbm: published figures only: the papers"):
        run("lld-t5-cbm")
    with pytest.raises(SettingsError, match=r"'H_10x': row lld-t5-attridet has H_100x_C2"):
        run("lld-t5-attridet", only="H_10x")
    with pytest.raises(SettingsError, match="not run here: its 701 re-annotated boxes"):
        run("pcm-t4-yolo11m", only="ALL-IDB1")
    with pytest.raises(SettingsError, match=r"'t9': unknown; .*--list"):
        run("t9")
    bad = tmp_path / "bad.yaml"
    bad.write_text((ROWS / "lld-t5-cbm.yaml").read_text().replace("method:", "methode:"))
    with pytest.raises(SettingsError, match=r"bad\.yaml: methode?: "):
        load_row(str(bad))


def test_the_list_shows_every_row() -> None:
    shown = CliRunner().invoke(app, ["reproduce", "--list"], env={"COLUMNS": "250"})
    assert shown.exit_code == 0
    for name in PUBLISHED:
        assert name in shown.output
    assert "CBM, not built" in shown.output


@pytest.mark.realdata
def test_a_tenth_of_the_target_is_learned_from_and_never_tested_on(shared_data: Path) -> None:
    row = load_row("pcm-t7-adapted")
    assert isinstance(row.smoke, ClassifyRun)
    assert row.smoke.target is not None
    target = row.smoke.target
    first, again, other = (target_set(target, shared_data, seed) for seed in (0, 0, 1))
    total = len(first.images)
    parts = {split: {x.image for x in first.of_split(split)} for split in ("train", "val", "test")}
    assert len(parts["train"]) + len(parts["val"]) == round(0.1 * total)
    assert not (parts["train"] | parts["val"]) & parts["test"]
    assert sum(map(len, parts.values())) == total
    assert parts["train"] == {x.image for x in again.of_split("train")}
    assert parts["train"] != {x.image for x in other.of_split("train")}
    whole = target_set(Target(fields=target.fields), shared_data, 0)
    assert len(whole.of_split("test")) == total


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["lld-t5-attridet", "pcm-t5-yolo11m", "pcm-t7-adapted"])
def test_smoke_rows_run_on_the_data_at_hand(shared_data: Path, tmp_path: Path, name: str) -> None:
    row = load_row(name)
    document = reproduce(row, tmp_path, scale="smoke", data_root=shared_data, device="cpu")
    measured = document["columns"][0]["measured"]
    assert all(value is None or 0 <= value <= 2500 for value in measured.values())
    assert document["minutes"] < 10
