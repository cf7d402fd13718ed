"""Table rows of domain adaptation and of sparse labels: what they say, that they run."""

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
from train import adapt, sparse
from train.cli import app
from train.method_recipe import AdaptRecipe, SparseRecipe
from train.reproduce.method_rows import AdaptRun, SparseRun
from train.reproduce.rows import Row, all_rows, load_row
from train.reproduce.run import reproduce
from train.step_loss import find_row

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

# As the papers print them, typed in here a second time.
PUBLISHED = {
    "lld-t6-source-only": "11 25.5",
    "lld-t6-daca": "12.6 30.2",
    "lld-t6-confmix": "12.6 33.5",
    "lld-t7-sparsedet": "6.1 10.4",
    "lld-t7-co-mining": "8.6 15.3",
    "lld-t7-sla-det": "27.2 45.1",
    "lld-t8-lr": "24.9 40.8",
    "lld-t8-lr-pl": "25.1 41.5",
    "lld-t8-lr-pl-tri": "27.2 45.1",
    "lld-t9-lr": "71.2 98 50.9 87.8 84.4 14 27.6",
    "lld-t9-lr-pl": "71.3 97.7 51.3 87.7 84.3 10.8 28.1",
    "lld-t9-lr-pl-tri": "70.9 97.7 51.3 87.9 84.3 12.1 29",
    "lld-text-crops": "37.7",
    "lld-text-masked": "37.6",
}
TINY = {
    "model": "yolo11n.yaml",
    "image_size": 64,
    "batch": 4,
    "hyp": {"warmup_epochs": 0, "mixup": 0.0},
}


def both_runs(row: Row) -> list[AdaptRun | SparseRun]:
    assert isinstance(row.run, AdaptRun | SparseRun), row.id
    assert isinstance(row.smoke, AdaptRun | SparseRun), row.id
    return [row.run, row.smoke]


def method_rows() -> list[Row]:
    return [row for row in all_rows() if isinstance(row.run, AdaptRun | SparseRun)]


def test_rows_hold_the_published_numbers() -> None:
    found = {
        row.id: " ".join(f"{v:g}" for each in row.columns for v in each.published.values())
        for row in method_rows()
    }
    assert found == PUBLISHED


def test_options_of_every_row_are_the_methods_own() -> None:
    for row in method_rows():
        paper, smoke = both_runs(row)
        assert (paper.method, paper.options) == (smoke.method, smoke.options), row.id
        table = adapt.METHODS if isinstance(paper, AdaptRun) else sparse.METHODS
        read = find_row(table, paper.method).options(paper.options)
        assert set(paper.options) == read.model_fields_set


def test_smoke_runs_are_small_and_on_the_data_at_hand() -> None:
    for row in method_rows():
        _, smoke = both_runs(row)
        recipe = smoke.made(row.id, ".")
        assert recipe.image_size <= 96
        phases = (
            [recipe.source_phase, recipe.adapt_phase]
            if isinstance(recipe, AdaptRecipe)
            else [recipe.phase, recipe.crops_phase]
        )
        assert all(phase is not None and phase.epochs <= 2 for phase in phases)
        for each in smoke.data():
            assert each.path.startswith(("wbc-domains/", "pbc-attributes"))
            assert each.most["train"] <= 32


def test_adaptation_is_the_papers_at_full_scale() -> None:
    for name, method in (("source-only", "source-only"), ("daca", "daca"), ("confmix", "confmix")):
        row = load_row(f"lld-t6-{name}")
        paper = both_runs(row)[0]
        recipe = paper.made(row.id, "/data", row.columns[0].path)
        assert isinstance(recipe, AdaptRecipe)
        assert paper.method == method
        assert (recipe.source_phase.epochs, recipe.adapt_phase.epochs) == (20, 50)
        assert (recipe.source.path, recipe.target.path) == (
            "leukemia-attri/H_100x_C2",
            "leukemia-attri/L_100x_C2",
        )
        assert (recipe.model, recipe.image_size) == ("yolov5x.yaml", 640)
        # The two published figures of a detector with the target's labels.
        assert any("38.1" in note and "29.7" in note for note in row.notes)


@pytest.mark.parametrize(
    ("name", "epochs", "parts"),
    [
        ("lld-t7-sla-det", 50, (True, True)),
        ("lld-t8-lr", 50, (False, False)),
        ("lld-t8-lr-pl", 50, (True, False)),
        ("lld-t8-lr-pl-tri", 50, (True, True)),
        ("lld-t9-lr", 30, (False, False)),
        ("lld-t9-lr-pl", 30, (True, False)),
        ("lld-t9-lr-pl-tri", 30, (True, True)),
    ],
)
def test_sla_det_is_the_papers_at_full_scale(
    name: str, epochs: int, parts: tuple[bool, bool]
) -> None:
    paper = both_runs(load_row(name))[0]
    recipe = paper.made(name, "/data")
    assert isinstance(recipe, SparseRecipe)
    assert (recipe.crops_phase.epochs if recipe.crops_phase else 0, recipe.phase.epochs) == (
        100,
        epochs,
    )
    assert (recipe.batch, recipe.patch_share, recipe.model) == (4, None, "yolov5x.yaml")
    assert (recipe.attributes is not False) == name.startswith("lld-t9")
    hyp = recipe.hyperparameters(recipe.phase)
    assert (hyp.lr0, hyp.lrf, hyp.mosaic, hyp.mixup, hyp.scale) == (0.01, 0.1, 0, 0, 0)
    options: Any = find_row(sparse.METHODS, "sla-det").options(paper.options)
    assert (options.pseudo_labels, options.similarity) == parts
    assert (options.t0, options.t1, options.t2) == (0.70, 0.95, 0.26)
    assert (options.pseudo_gain, options.triplet_gain) == (0.1, 0.1)


def row_file(tmp_path: Path, run: dict[str, Any], **more: Any) -> Path:
    file = tmp_path / "tiny-row.yaml"
    document = {
        "paper": "A paper",
        "table": "Table 1",
        "method": "Tiny",
        "needs": ["leukemia-attri"],
        "columns": [{"name": "one", "published": {"map50_95": 11.0, "map50": 25.5}}],
        "run": run,
        "smoke": run,
        **more,
    }
    file.write_text(yaml.safe_dump(document))
    return file


def adapt_run(method: str) -> dict[str, Any]:
    fields = {"dataset": "leukemia-attri", "validation": "group"}
    return {
        "kind": "adapt",
        "method": method,
        "recipe": {
            **TINY,
            "source": {**fields, "path": "expensive"},
            "target": {**fields, "path": "elsewhere"},
            "source_phase": {"epochs": 1},
            "adapt_phase": {"epochs": 1},
        },
    }


def sparse_run(method: str, **more: Any) -> dict[str, Any]:
    fields = {"dataset": "sparse-leukemia-attri", "path": "sparse", "validation": "group"}
    return {
        "kind": "sparse",
        "method": method,
        "recipe": {
            **TINY,
            "fields": [fields],
            "attributes": {},
            "crops_phase": {"epochs": 1},
            "phase": {"epochs": 1},
        },
        **more,
    }


def test_adaptation_is_measured_on_the_columns_target(tmp_path: Path) -> None:
    for seed, name in enumerate(("expensive", "cheap")):
        write_leukemia_fields(tmp_path / "data" / name, {"train": 6, "test": 2}, seed=seed)
    columns = [{"name": "to cheap", "path": "cheap", "published": {"map50": 25.5}}]
    file = row_file(tmp_path, adapt_run("confmix"), columns=columns)
    out = tmp_path / "out"
    document = reproduce(
        load_row(str(file)), out, scale="paper", data_root=tmp_path / "data", device="cpu"
    )
    (column,) = document["columns"]
    judged = json.loads((out / "to_cheap" / "figures.json").read_text())
    assert judged["method"] == "confmix"
    target = judged["fields"]["target"]["detection"]
    assert column["measured"]["map50"] == round(100 * target["ap50"], 2)
    source = judged["fields"]["source"]["detection"]
    assert column["measured"]["source_map50_95"] == round(100 * source["ap"], 2)

    # The other rows of the table begin with the same first phase.
    first = out / "to_cheap" / "phase1" / "weights" / "last.pt"
    other = row_file(tmp_path, adapt_run("source-only"), columns=columns)
    shown = CliRunner().invoke(
        app,
        [
            *("reproduce", str(other), "--device", "cpu", "--weights", str(first)),
            *("--data", str(tmp_path / "data"), "--out", str(tmp_path / "other")),
        ],
        env={"COLUMNS": "200"},
    )
    assert shown.exit_code == 0, shown.output
    assert "source_map50" in shown.output
    assert (tmp_path / "other" / "to_cheap" / "phase2").is_dir()
    assert not (tmp_path / "other" / "to_cheap" / "phase1").exists()


def test_sparse_labels_are_read_with_their_patches_and_tested_whole(tmp_path: Path) -> None:
    fields = write_leukemia_fields(
        tmp_path / "data" / "sparse", {"train": 6, "test": 2}, sparse=True
    )
    row = load_row(str(row_file(tmp_path, sparse_run("sla-det"))))
    out = tmp_path / "out"
    told: dict[str, Any] = {"scale": "paper", "data_root": tmp_path / "data", "device": "cpu"}
    document = reproduce(row, out, **told)
    measured = document["columns"][0]["measured"]
    judged = json.loads((out / "one" / "figures.json").read_text())
    detection = judged["fields"]["sparse"]["detection"]
    assert measured["map50_95"] == round(100 * detection["ap"], 2)
    cells = sum(len(each.read_text().splitlines()) for each in (fields / "labels/test").iterdir())
    assert (detection["images"], detection["cells"]) == (2, cells)
    assert "f1_nucleolus" in measured
    patches = (out / "one" / "data" / "patches.csv").read_text().splitlines()[1:]
    assert patches
    assert all(line.endswith("0.000000,0.000000,0.500000,1.000000") for line in patches)
    # A finished one is not trained again.
    weights = out / "one" / "phase2" / "weights" / "last.pt"
    before = weights.stat().st_mtime_ns
    again = reproduce(row, out, resume=True, **told)
    assert again["columns"] == document["columns"]
    assert weights.stat().st_mtime_ns == before


def test_missing_data_names_the_set_and_where_it_comes_from(tmp_path: Path) -> None:
    for name, words in (
        ("lld-t6-daca", "data set leukemia-attri is not in .*H_100x_C2; get it from: https"),
        ("lld-t9-lr", "data set sparse-leukemia-attri is not in .*; get it from: its authors"),
    ):
        with pytest.raises(DataError, match=words):
            reproduce(load_row(name), tmp_path, scale="paper", data_root=tmp_path)
    (tmp_path / "leukemia-attri" / "H_100x_C2").mkdir(parents=True)
    with pytest.raises(DataError, match=r"is not in .*L_100x_C2"):
        reproduce(load_row("lld-t6-daca"), tmp_path, scale="paper", data_root=tmp_path)


def test_a_bad_row_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(run: dict[str, Any], words: str) -> None:
        with pytest.raises(SettingsError, match=words) as told:
            load_row(str(row_file(tmp_path, run)))
        assert "\n" not in str(told.value)

    refused(adapt_run("sla-det"), r"tiny-row\.yaml: .*method 'sla-det': unknown; choose one of")
    refused(sparse_run("naive", base="sparse-moon"), "tiny-row.yaml: recipe sparse-moon")
    bad = sparse_run("naive")
    bad["recipe"]["phase"] = {"epochs": 0}
    refused(bad, r"epochs.* greater than 0")

    write_leukemia_fields(tmp_path / "data" / "sparse", {"train": 4, "test": 1}, sparse=True)
    typo = row_file(tmp_path, sparse_run("sla-det", options={"pseudolabels": False}))
    with pytest.raises(SettingsError, match=r"method sla-det, option pseudolabels: .*; options: "):
        reproduce(
            load_row(str(typo)),
            tmp_path / "out",
            scale="paper",
            data_root=tmp_path / "data",
            device="cpu",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["lld-t6-daca", "lld-t8-lr-pl-tri", "lld-t9-lr", "lld-text-crops"])
def test_smoke_rows_run_on_the_data_at_hand(shared_data: Path, tmp_path: Path, name: str) -> None:
    row = load_row(name)
    document = reproduce(row, tmp_path, scale="smoke", data_root=shared_data, device="cpu")
    (column,) = document["columns"]
    # The other set's attributes have other names.
    wanted = {each for each in column["published"] if not each.startswith("f1_")}
    assert wanted <= set(column["measured"])
    assert any(each.startswith("f1_") for each in column["measured"]) == ("t9" in name)
    assert all(value is None or 0 <= value <= 100 for value in column["measured"].values())
    assert document["minutes"] < 5
