"""AttriDet from a recipe: folder, phases, resuming, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
import yaml
from ultralytics.nn.tasks import DetectionModel

from edge_runtime.errors import DataError, SettingsError, StoreError
from tests.train.leukemia_fields import write_leukemia_fields
from train.attributed_dataset import read_attributes
from train.attridet_folder import link_picture, read_fields, write_folder
from train.attridet_recipe import AttriDetRecipe, load_attridet_recipe
from train.attridet_run import train_attridet
from train.cli import app
from train.models.attridet import AttriDetModel, AttriDetSettings
from train.own_checkpoint import load_own_checkpoint

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


def recipe(root: Path, **changes: Any) -> AttriDetRecipe:
    document: dict[str, Any] = {
        "name": "tiny",
        "purpose": "a test",
        "data_root": str(root),
        "fields": {"dataset": "leukemia-attri", "path": "fields", "validation": "group"},
        "model": "yolo11n.yaml",
        "image_size": 64,
        "batch": 4,
        "hyp": {"warmup_epochs": 0},
        "phases": [{"epochs": 1}],
    }
    return AttriDetRecipe.model_validate({**document, **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_leukemia_fields(folder / "fields", {"train": 8, "test": 4})
    return folder


def test_folder_holds_five_columns_and_attributes_in_the_same_order(
    root: Path, tmp_path: Path
) -> None:
    fields = read_fields(recipe(root).fields, root)
    assert fields.attributes is not None
    record = write_folder(recipe(root), fields, tmp_path / "data")
    seen = 0
    for split in ("train", "val"):
        assert record["splits"][split]["pictures"] == len(fields.of_split(split)) > 0
        for each, label in zip(
            fields.of_split(split),
            sorted((tmp_path / "data" / "labels" / split).iterdir()),
            strict=True,
        ):
            picture = tmp_path / "data" / "images" / split / f"{label.stem}.png"
            assert picture.read_bytes() == each.image.read_bytes()
            rows = [line.split() for line in label.read_text().splitlines()]
            assert {len(row) for row in rows} == {5}
            assert [int(row[0]) for row in rows] == each.class_ids.tolist()
            boxes = np.array([[float(v) for v in row[1:]] for row in rows])
            assert boxes == pytest.approx(each.boxes_xywhn, abs=1e-5)
            assert read_attributes(picture, fields.attributes).tolist() == each.attributes.tolist()
            seen += len(rows)
    assert seen == sum(sum(each["cells"].values()) for each in record["splits"].values())


def test_a_row_that_stands_twice_is_written_once_with_its_attributes(tmp_path: Path) -> None:
    write_leukemia_fields(tmp_path / "fields", {"train": 4})
    label = next((tmp_path / "fields" / "labels" / "train").iterdir())
    rows = label.read_text().splitlines()
    label.write_text("\n".join([*rows, rows[0]]) + "\n")
    fields = read_fields(recipe(tmp_path).fields, tmp_path)
    record = write_folder(recipe(tmp_path), fields, tmp_path / "data")
    assert sum(each["rows_written_once"] for each in record["splits"].values()) == 1


def test_slides_stay_on_one_side_and_a_real_validation_split_is_kept(
    root: Path, tmp_path: Path
) -> None:
    fields = read_fields(recipe(root).fields, root)
    sides = [{each.group for each in fields.of_split(split)} for split in ("train", "val")]
    assert all(sides)
    assert not sides[0] & sides[1]
    write_leukemia_fields(tmp_path / "fields", {"train": 4, "val": 2})
    own = read_fields(recipe(tmp_path).fields, tmp_path)
    assert {each.image.parent.name for each in own.of_split("val")} == {"val"}


def test_fewer_pictures_are_drawn_by_seed(root: Path) -> None:
    spec = recipe(root).fields.model_copy(update={"most": {"train": 3}, "validation": "random"})
    drawn = [read_fields(spec, root, seed=seed) for seed in (1, 1, 2)]
    files = [[each.image.name for each in one.of_split("train")] for one in drawn]
    assert files[0] == files[1] != files[2]
    assert len(files[0]) == 3
    assert len(drawn[0].of_split("test")) == 4


def test_chosen_classes_get_new_numbers_and_mixed_pictures_are_left_out(root: Path) -> None:
    whole = read_fields(recipe(root).fields, root)
    spec = recipe(root).fields.model_copy(
        update={"classes": ("Lymphoblast", "Myeloblast"), "validation": "random"}
    )
    chosen = read_fields(spec, root)
    assert chosen.classes == ("Lymphoblast", "Myeloblast")
    named = {
        each.image.name: sorted(whole.classes[i] for i in each.class_ids) for each in whole.images
    }
    for each in chosen.images:
        assert sorted(chosen.classes[i] for i in each.class_ids) == named[each.image.name]
    with pytest.raises(SettingsError, match="has no 'Blast'; it has None, Myeloblast"):
        read_fields(spec.model_copy(update={"classes": ("Blast",)}), root)


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases, trained once for several tests."""
    out = tmp_path_factory.mktemp("run") / "out"
    phases = [{"epochs": 1}, {"epochs": 1, "fresh_head": True, "hyp": {"lr0": 0.001}}]
    train_attridet(recipe(root, phases=phases), out, device="cpu")
    return out


def test_two_phases_end_in_a_checkpoint_with_both(finished: Path) -> None:
    record = json.loads((finished / "training.json").read_text())
    assert record["checkpoint"] == "phase2/weights/best.pt"
    model = load_own_checkpoint(finished / record["checkpoint"])
    assert isinstance(model, AttriDetModel)
    assert model.schema.attributes[0].name == "nuclear_chromatin"
    assert list(model.names.values()) == record["classes"]
    arguments = [yaml.safe_load((finished / f"phase{n}" / "args.yaml").read_text()) for n in (1, 2)]
    assert [each["lr0"] for each in arguments] == [0.01, 0.001]
    assert arguments[0]["pretrained"] is False
    assert arguments[1]["pretrained"].endswith("phase1/weights/last.pt")
    fresh = [
        yaml.safe_load((finished / f"phase{n}-data.yaml").read_text())["attridet"]["fresh_head"]
        for n in (1, 2)
    ]
    assert fresh == [False, True]


def test_a_run_interrupted_between_phases_goes_on_with_the_second(
    root: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out, symlinks=True)
    first = (out / "phase1" / "weights" / "last.pt").stat().st_mtime_ns
    shutil.rmtree(out / "phase2")
    again = load_recipe_of(out)
    with pytest.raises(SettingsError, match="begun with another recipe"):
        train_attridet(again.model_copy(update={"seed": 7}), out, device="cpu", resume=True)
    said: list[str] = []
    best = train_attridet(again, out, device="cpu", resume=True, say=said.append)
    assert best == out / "phase2" / "weights" / "best.pt"
    assert best.is_file()
    assert said == ["phase 2 of 2: 1 epochs"]
    assert (out / "phase1" / "weights" / "last.pt").stat().st_mtime_ns == first


def load_recipe_of(out: Path) -> AttriDetRecipe:
    return AttriDetRecipe.model_validate_json((out / "recipe.json").read_text())


def test_without_attributes_the_detector_is_the_plain_one(root: Path, tmp_path: Path) -> None:
    best = train_attridet(recipe(root, attributes=False), tmp_path / "out", device="cpu")
    assert type(load_own_checkpoint(best)) is DetectionModel
    header = (tmp_path / "out" / "phase1" / "results.csv").read_text().splitlines()[0]
    assert "attr_loss" not in header


def test_nothing_to_resume(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run to resume"):
        train_attridet(recipe(root), tmp_path, device="cpu", resume=True)


def test_mixed_widths_and_unknown_values_end_the_command_with_file_and_line(
    tmp_path: Path,
) -> None:
    folder = write_leukemia_fields(tmp_path / "fields", {"train": 4})
    labels = sorted((folder / "labels" / "train").iterdir())
    rows = labels[0].read_text().splitlines()
    labels[0].write_text("\n".join([*rows, " ".join(rows[0].split()[:5])]) + "\n")
    with pytest.raises(DataError, match=rf"{labels[0].name}:{len(rows) + 1}: "):
        train_attridet(recipe(tmp_path), tmp_path / "out", device="cpu")
    parts = rows[0].split()
    labels[0].write_text(" ".join([*parts[:-1], "7"]) + "\n")
    with pytest.raises(DataError, match=rf"{labels[0].name}:1: cytoplasmic_vacuoles '7': unknown"):
        train_attridet(recipe(tmp_path), tmp_path / "out", device="cpu")


def test_a_checkpoint_of_another_architecture_is_refused(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"model": DetectionModel("yolov5n.yaml", verbose=False)}, other)
    with pytest.raises(SettingsError, match=r"another architecture than yolo11n\.yaml: model\.0"):
        train_attridet(recipe(root, start_from=str(other)), tmp_path / "out", device="cpu")


class Caller:
    def __reduce__(self) -> Any:
        return (print, ("this must never be run",))


def test_a_checkpoint_that_calls_programs_is_not_loaded(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": Caller()}, foreign)
    with pytest.raises(DataError, match=r"would run .*print.*not loaded"):
        train_attridet(recipe(root, model=str(foreign)), tmp_path / "out", device="cpu")
    assert "never be run" not in capsys.readouterr().out
    foreign.write_bytes(b"no zip")
    with pytest.raises(DataError, match="damaged, or not one of ultralytics"):
        load_own_checkpoint(foreign)
    torch.save({"weights": torch.zeros(2)}, foreign)
    with pytest.raises(DataError, match="not one of ultralytics"):
        load_own_checkpoint(foreign)
    with pytest.raises(DataError, match="no such file"):
        load_own_checkpoint(tmp_path / "absent.pt")


def test_an_unknown_model_is_named_and_not_downloaded(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'yolo99n\.yaml': ultralytics has no such model"):
        train_attridet(recipe(root, model="yolo99n.yaml"), tmp_path / "out", device="cpu")
    with pytest.raises(DataError, match=r"yolo11n\.pt: no such file"):
        train_attridet(recipe(root, model="yolo11n.pt"), tmp_path / "out", device="cpu")


def test_a_folder_with_other_things_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds other files"):
        write_folder(recipe(root), read_fields(recipe(root).fields, root), tmp_path)
    assert (tmp_path / "thesis.tex").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": []}, "phases"),
        ({"phases": [{"epochs": 1, "hyp": {"lr": 0.1}}]}, "lr"),
        ({"image_size": 100}, "image_size"),
        ({"attributes": {"wieght": 2}}, "wieght"),
        ({"model": "a.pt", "start_from": "b.pt"}, "give one of the two"),
        ({"hyp": {"optimizer": "auto"}}, r"hyp\.optimizer"),
    ],
)
def test_bad_recipes_name_file_and_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    document = {**recipe(tmp_path).model_dump(mode="json"), **changes}
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(SettingsError, match=rf"bad\.yaml: .*{message}"):
        load_attridet_recipe(file)


def test_help_says_what_a_checkpoint_is() -> None:
    shown = CliRunner().invoke(app, ["attridet", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "pickle" in shown.output


def test_settings_of_the_head_reach_the_data_file(finished: Path) -> None:
    document = yaml.safe_load((finished / "phase1-data.yaml").read_text())
    settings = AttriDetSettings.from_data(document)
    assert (settings.weight, settings.dropout, settings.outputs) == (1.0, 0.2, "per_value")


def test_a_run_is_never_overwritten(root: Path, finished: Path, tmp_path: Path) -> None:
    before = (finished / "phase1" / "weights" / "last.pt").stat().st_mtime_ns
    with pytest.raises(SettingsError, match="holds a finished run already"):
        train_attridet(load_recipe_of(finished), finished, device="cpu")
    assert (finished / "phase1" / "weights" / "last.pt").stat().st_mtime_ns == before
    (tmp_path / "last.pt").write_bytes(b"of another training")
    with pytest.raises(SettingsError, match="choose another --out"):
        train_attridet(recipe(root), tmp_path, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        train_attridet(recipe(root), tmp_path / "file", device="cpu")


@pytest.mark.parametrize(("behind", "linked"), [(b"", True), (b"of the phone", False)])
def test_pictures_that_ultralytics_would_rewrite_are_copied(
    tmp_path: Path, behind: bytes, linked: bool
) -> None:
    picture = tmp_path / "own.jpg"
    picture.write_bytes(b"\xff\xd8 pixels \xff\xd9" + behind)
    link_picture(picture, tmp_path / "placed.jpg")
    assert (tmp_path / "placed.jpg").is_symlink() == linked
    assert (tmp_path / "placed.jpg").read_bytes() == picture.read_bytes()
