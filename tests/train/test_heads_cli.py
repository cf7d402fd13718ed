"""``leukoscope train classify | attributes``: what a person reads, and refusals of one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_runtime.errors import DataError, LeukoscopeError, SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE
from tests.train.drawn_cells import write_cells_folder
from train.cli import app
from train.recipe_file import RECIPES

pytest.importorskip("torch")
pytest.importorskip("timm")

pytestmark = pytest.mark.train


def call(*arguments: str | Path) -> Result:
    answer = CliRunner().invoke(app, [str(each) for each in arguments])
    # Clear-cut errors pass through here: the command line turns them into one line.
    if isinstance(answer.exception, LeukoscopeError):
        assert "\n" not in str(answer.exception)
        raise answer.exception
    return answer


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    write_cells_folder(root)
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    document = yaml.safe_load((RECIPES / "wbc-classifier.yaml").read_text())
    document["sources"] = document["sources"][:1]
    document["network"]["args"] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    document |= {"phases": [{"epochs": 1, "lr": 0.01}], "batch": 4}
    document["input"] |= {"width": 32, "height": 32}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "tiny.yaml"


def test_a_run_its_seed_and_its_resumption(cells: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--recipe", recipe, "--out", out, "--data", cells, "--device", "cpu")
    answer = call("classify", *flags, "--seed", "7")
    assert answer.exit_code == 0, answer.output
    told = answer.output.splitlines()
    assert told[0].startswith("epoch 1  phase 1  loss ")
    assert told[-2:] == [f"checkpoint: {out / 'classifier.pt'}", RESEARCH_USE]
    with pytest.raises(SettingsError, match="holds a run already"):
        call("classify", *flags, "--seed", "7")
    with pytest.raises(SettingsError, match="begun with another recipe"):
        call("classify", *flags, "--seed", "8", "--resume")
    again = call("classify", *flags, "--seed", "7", "--resume")
    assert again.exit_code == 0, again.output
    start = call(
        "classify", "--recipe", recipe, "--out", tmp_path / "b", "--data", cells, "--device",
        "cpu", "--start-from", out / "classifier.pt",
    )  # fmt: skip
    assert start.output.startswith(f"started from {out / 'classifier.pt'}; random: nothing")


def test_bad_input_to_classify(cells: Path, recipe: Path, tmp_path: Path) -> None:
    flags = ("--out", tmp_path / "run", "--device", "cpu")
    with pytest.raises(DataError, match="No such file"):
        call("classify", "--recipe", recipe, "--data", tmp_path / "empty", *flags)
    with pytest.raises(SettingsError, match="not a classifier's recipe"):
        call("classify", "--recipe", "wbc-attributes", *flags)
    with pytest.raises(SettingsError, match=r"give a YAML file or one of: .*wbc-classifier"):
        call("classify", "--recipe", "nowhere", *flags)
    with pytest.raises(DataError, match="to resume from"):
        call("classify", "--recipe", recipe, "--data", cells, "--resume", *flags)
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(DataError, match="never run"):
        call("classify", "--recipe", recipe, *flags, "--start-from", tmp_path / "pickle.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        call("classify", "--recipe", recipe, "--data", cells, "--out", tmp_path / "file" / "x")


def test_bad_input_to_attributes(tmp_path: Path, cells: Path) -> None:
    flags = ("--out", tmp_path / "run")
    with pytest.raises(SettingsError, match="not an attribute head's recipe"):
        call("attributes", "--recipe", "wbc-detector", *flags)
    with pytest.raises(DataError, match="No such file"):
        call("attributes", "--recipe", "wbc-attributes", "--data", tmp_path, *flags)
    document = yaml.safe_load((RECIPES / "wbc-attributes.yaml").read_text())
    document["sources"] = document["sources"][:1]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(DataError, match=r"none\.pt: no such file"):
        call(
            "attributes", "--recipe", tmp_path / "r.yaml", "--data", cells, *flags,
            "--detector", tmp_path / "none.pt",
        )  # fmt: skip


def changed(recipe: Path, name: str, **keys: object) -> Path:
    document = yaml.safe_load(recipe.read_text()) | keys
    file = recipe.with_name(name)
    file.write_text(yaml.safe_dump(document))
    return file


def test_classes_that_no_data_set_has_and_rates_that_are_no_numbers(
    cells: Path, recipe: Path, tmp_path: Path
) -> None:
    flags = ("--out", tmp_path / "run", "--data", cells)
    classes = yaml.safe_load(recipe.read_text())["classes"]
    odd = changed(recipe, "odd.yaml", classes=[*classes, "zebra"])
    with pytest.raises(SettingsError, match="class zebra is in none of its data sets"):
        call("classify", "--recipe", odd, *flags)
    twice = changed(recipe, "twice.yaml", classes=[*classes, classes[0]])
    with pytest.raises(SettingsError, match="is named twice"):
        call("classify", "--recipe", twice, *flags)
    endless = changed(recipe, "inf.yaml", phases=[{"epochs": 1, "lr": float("inf")}])
    with pytest.raises(SettingsError, match="finite"):
        call("classify", "--recipe", endless, *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["²", "0,²"])
def test_a_device_that_is_no_index(recipe: Path, tmp_path: Path, device: str) -> None:
    import torch

    from train.trainer import chosen_device

    with pytest.raises(SettingsError, match="--device"):
        call("classify", "--recipe", recipe, "--out", tmp_path / "run", "--device", device)
    with pytest.raises(SettingsError, match="--device"):
        chosen_device(device, torch)


def test_weights_are_refused_without_warnings_and_when_not_finite(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    import pickle

    import torch

    from train.models.cell_classifier import load_weights, put_weights

    (tmp_path / "code.pt").write_bytes(pickle.dumps(print, protocol=4))
    with pytest.raises(DataError, match="never run"):
        load_weights(tmp_path / "code.pt")
    assert not recwarn.list
    network = torch.nn.Linear(2, 1)
    state = {"weight": torch.full((1, 2), float("nan")), "bias": torch.zeros(1)}
    with pytest.raises(DataError, match="not finite"):
        put_weights(network, state, tmp_path / "nan.pt")
