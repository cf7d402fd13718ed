"""Adapting to a site from end to end: what is left behind, the verdict, resuming, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
from ultralytics.nn.tasks import DetectionModel

import train.evaluate_attridet as evaluation
from edge_runtime.errors import DataError, LeukoscopeError, SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.image_file import read_image
from export.training_run import open_training_run
from tests.train.site_folders import (
    CLASSES,
    GROUND,
    drawn_fields,
    write_coco,
    write_cvat,
    write_yolo,
)
from train.cli import app
from train.datasets.site_fields import read_site_fields
from train.own_checkpoint import load_own_checkpoint
from train.site import training
from train.site.folder import is_written, write_folder
from train.site.page import write_page
from train.site.prepare import prepare
from train.site.run import _counts, _say_what_was_found, adapt_to_site
from train.site.settings import SiteHyperparameters, SiteSettings
from train.site.verdict import SiteResult

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site in COCO form, a source in YOLO folders, and a detector of its classes."""
    folder = tmp_path_factory.mktemp("root")
    write_coco(folder / "own", drawn_fields(6))
    fields = drawn_fields(7, seed=9, ground=GROUND)
    for split, part in (("train", fields[:3]), ("val", fields[3:5]), ("test", fields[5:])):
        write_yolo(folder / "source", part, split)
    torch.manual_seed(0)
    model = DetectionModel("yolo11n.yaml", nc=2, verbose=False)
    model.names = dict(enumerate(CLASSES))
    torch.save({"model": model, "train_args": {"imgsz": 64}}, folder / "start.pt")
    return folder


def settings(root: Path, **changes: Any) -> SiteSettings:
    document: dict[str, Any] = {
        "fields": str(root / "own"),
        "replay": [str(root / "source")],
        "start_from": str(root / "start.pt"),
        "epochs": 1,
        "batch": 5,
        "pictures_per_epoch": 5,
        "hyp": SiteHyperparameters(warmup_epochs=0, close_mosaic=0),
    }
    return SiteSettings.model_validate({**document, **changes})


def adapt(chosen: SiteSettings, out: Path, **more: Any) -> SiteResult:
    return adapt_to_site(chosen, out, device="cpu", workers=0, **more)


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SiteResult]:
    """One run for several tests."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, adapt(settings(root), out)


def test_a_run_leaves_what_the_documentation_says(
    root: Path, finished: tuple[Path, SiteResult]
) -> None:
    out, result = finished
    assert result.passed
    assert result.checkpoint == out / "run" / "weights" / "best.pt"
    model: Any = load_own_checkpoint(result.checkpoint)
    assert tuple(model.names.values()) == CLASSES
    record = json.loads((out / "training.json").read_text())
    assert record == json.loads(json.dumps(result.record))
    assert record["research_use"] == RESEARCH_USE
    assert record["pictures"]["site"] | {"notes": []} == {
        "different_fields": 6,
        "train": 4,
        "held_out": 2,
        "test": 0,
        "train_cells": 8,
        "held_out_cells": 4,
        "notes": [],
    }
    assert record["pictures"]["source"] == {
        "source": {"replayed_from": 3, "checked_on": 2, "notes": []}
    }
    assert record["pictures"]["epoch"] == {"site": 4, "replay": 1}
    assert len(record["held_out_ap_by_epoch"]) == 1
    assert [each["name"] for each in record["site"]["after"]["classes"]] == list(CLASSES)
    assert record["size"] == 64
    page = (out / "site.md").read_text()
    assert RESEARCH_USE in page
    assert "**PASSED**" in page
    for name in ("curve.png", "fields.png"):
        assert f"({name})" in page
    assert read_image(out / "curve.png").size
    # Two held-out fields, each before and after.
    assert read_image(out / "fields.png").shape == (2 * 324, 2 * 324, 3)
    # Half the cells are 6 px wide drawn platelets, shrunk by 64 / 96; the others 22 to 32.
    assert set(record["cell_px"]) == {"site", "source source"}
    assert all(4 <= value <= 22 for value in record["cell_px"].values())


def test_the_run_folder_can_be_read_by_the_export(
    root: Path, finished: tuple[Path, SiteResult]
) -> None:
    out, result = finished
    run = open_training_run(out)
    assert run.checkpoint == result.checkpoint
    assert (run.image_size, run.architecture) == (64, "yolo11n, SiLU")
    assert {pool.domain: len(pool.files) for pool in run.pools()} == {"source": 3, "composed": 7}
    assert {name: len(each) for name, each in run.test_fields().items()} == {"source": 2}


def test_a_finished_run_is_never_overwritten(
    root: Path, finished: tuple[Path, SiteResult], tmp_path: Path
) -> None:
    out, result = finished
    before = result.checkpoint.read_bytes()
    for resume in (False, True):
        with pytest.raises(SettingsError, match="holds a finished run already"):
            adapt(settings(root), out, resume=resume)
    assert result.checkpoint.read_bytes() == before
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    with pytest.raises(SettingsError, match="holds other files"):
        adapt(settings(root), tmp_path)
    assert (tmp_path / "data" / "thesis.tex").is_file()
    with pytest.raises(DataError, match="no run to resume"):
        adapt(settings(root), tmp_path / "new", resume=True)


def falling(by: float) -> Callable[..., Any]:
    """A judge whose figures of the source fall when it is asked again."""
    real, asked = evaluation.judge_pictures, []

    def judge(model: Any, fields: Any, images: Any, **more: Any) -> Any:
        judged = real(model, fields, images, **more)
        seen = fields.root.name in asked
        asked.append(fields.root.name)
        ap = 0.9 - (by / 100 if seen and fields.root.name == "source" else 0.0)
        return replace(judged, detection=replace(judged.detection, ap=ap))

    return judge


def test_a_source_that_loses_too_much_fails_the_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "judge_pictures", falling(2.1))
    out = tmp_path / "out"
    arguments: list[object] = [
        "site", "--fields", root / "own", "--replay", root / "source", "--ratio", 4,
        "--start-from", root / "start.pt", "--out", out, "--epochs", 1, "--pictures", 5,
        "--batch", 5, "--device", "cpu", "--workers", 0,
    ]  # fmt: skip
    answer = CliRunner().invoke(app, [str(each) for each in arguments])
    # The command line turns it into one line and exit code 2, as every error of this class.
    assert isinstance(answer.exception, LeukoscopeError)
    line = str(answer.exception)
    assert "AP50-95 of source from 0.9000 to 0.8790, by 2.1 points; 2 may be lost" in line
    assert "smaller --ratio" in line
    assert "\n" not in line
    weights = out / "run" / "weights"
    assert line.endswith(f"kept as {weights / 'rejected.pt'}")
    assert (weights / "rejected.pt").is_file()
    assert not (weights / "best.pt").exists()
    record = json.loads((out / "training.json").read_text())
    assert (record["passed"], record["checkpoint"]) == (False, None)
    assert record["rejected"] == "run/weights/rejected.pt"
    assert "**FAILED**" in (out / "site.md").read_text()
    with pytest.raises(DataError, match="rejected"):
        open_training_run(out)


def test_an_interrupted_run_goes_on_and_shows_each_epoch_its_own_pictures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    real = training._show

    def show(running: Any) -> None:
        if running.epoch == 1 and len(shown) == 1:
            raise KeyboardInterrupt
        real(running)
        shown.append([Path(file).name for file in running.train_loader.dataset.im_files])

    monkeypatch.setattr(training, "_show", show)
    chosen, out = settings(root, epochs=2, ratio=1.5), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        adapt(chosen, out)
    with pytest.raises(SettingsError, match="holds a run already; choose another --out, or --resu"):
        adapt(chosen, out)
    with pytest.raises(SettingsError, match="begun with other settings"):
        adapt(settings(root, epochs=3, ratio=1.5), out, resume=True)
    shown.append([])
    result = adapt(chosen, out, resume=True)
    assert len(result.curve) == 2
    assert [len(each) for each in shown] == [7, 0, 7]
    for names in (shown[0], shown[2]):
        assert sum("_site_" in name for name in names) == 5
        assert sum("_replay_" in name for name in names) == 2
    # Three source pictures, two an epoch: all were shown after two.
    replayed = [name for names in shown for name in names if "_replay_" in name]
    assert len(set(replayed)) == 3


def test_without_replay_only_the_site_is_shown(root: Path) -> None:
    prepared = prepare(settings(root, mix_replay=False), CLASSES)
    assert (prepared.plan.shown_site, prepared.plan.shown_replay) == (5, 0)
    assert prepared.replay == ()
    # The check stays.
    assert [len(each.check) for each in prepared.sources] == [2]
    assert prepared.identity != prepare(settings(root), CLASSES).identity


def test_a_jpeg_that_ultralytics_would_mend_is_copied_not_linked(tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_yolo(own, drawn_fields(2))
    for number, field in enumerate(drawn_fields(2)):
        (own / "images" / field.name).unlink()
        jpeg = (own / "images" / field.name).with_suffix(".jpg")
        cv2.imwrite(str(jpeg), field.pixels)
        # Phones write a motion picture behind the photograph's end.
        jpeg.write_bytes(jpeg.read_bytes() + b"motion" * number)
    images = read_site_fields(own).require_clean().images
    write_folder(images, (), (), CLASSES, tmp_path / "data", "identity")
    written = sorted((tmp_path / "data" / "images" / "train").iterdir())
    assert [each.is_symlink() for each in written] == [True, False]
    assert [each.read_bytes() for each in written] == [each.image.read_bytes() for each in images]
    assert is_written(tmp_path / "data", "identity")
    assert not is_written(tmp_path / "data", "another")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--map", "WBC"], "expected 'name in the set=name in the model'"),
        (["--map", "a=WBC", "--map", "a=WBC"], "'a' is mapped twice"),
        (["--map", "a=Blast"], "the model has no class 'Blast'; it has WBC, platelet"),
        (["--size", "100"], "size: Input should be a multiple of 32"),
        (["--lr0", "0"], r"hyp\.lr0: Input should be greater than 0"),
        (["--lr0", "2"], r"hyp\.lr0: Input should be less than or equal to 1"),
        (["--seed", str(2**32)], "seed: Input should be less than 4294967296"),
        (["--freeze", "24"], "--freeze 24: the detector has 24 layers, .* give 23 at most"),
        (["--minimum-fields", "7"], "6 pictures show 6 different fields; an adaptation needs 7"),
        (["--device", "0,1"], "--device 0,1: "),
        (["--format", "cvat"], "one XML file is wanted"),
    ],
)
def test_bad_input_is_one_line(root: Path, tmp_path: Path, options: list[str], line: str) -> None:
    arguments: list[object] = [
        "site", "--fields", root / "own", "--replay", root / "source", "--start-from",
        root / "start.pt", "--out", tmp_path / "out", "--device", "cpu", *options,
    ]  # fmt: skip
    answer = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(answer.exception, LeukoscopeError), answer.output
    with pytest.raises(LeukoscopeError, match=line):
        raise answer.exception
    assert "\n" not in str(answer.exception)
    assert not (tmp_path / "out").exists()


def test_no_run_is_written_among_the_fields(root: Path) -> None:
    for out in (root / "own", root / "own" / "runs" / "site"):
        with pytest.raises(SettingsError, match="lies in the folder of the fields"):
            adapt(settings(root), out)
    assert not (root / "own" / "runs").exists()


def test_what_is_measured_was_not_trained_on_and_is_measured_of_both_detectors(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A test split of the site as well.
    own = tmp_path / "own"
    write_yolo(own, drawn_fields(6), "train")
    write_yolo(own, drawn_fields(8)[6:], "test")
    chosen = settings(root, fields=str(own))
    real, asked = evaluation.judge_pictures, list[tuple[float, set[Path]]]()

    def judge(model: Any, fields: Any, images: Any, **more: Any) -> Any:
        weight = float(next(model.parameters()).double().sum())
        asked.append((weight, {each.image for each in images}))
        return real(model, fields, images, **more)

    monkeypatch.setattr(evaluation, "judge_pictures", judge)
    adapt(chosen, tmp_path / "out")
    prepared = prepare(chosen, CLASSES)
    source = root / "source" / "images"
    sets = [
        {each.image for each in prepared.site.held_out},
        set((own / "images" / "test").iterdir()),
        set((source / "val").iterdir()),
    ]
    assert [images for _, images in asked] == [*sets, *sets]
    start = float(next(load_own_checkpoint(root / "start.pt").parameters()).double().sum())
    end = next(load_own_checkpoint(tmp_path / "out/run/weights/best.pt").parameters())
    weights = [weight for weight, _ in asked]
    assert weights == [start] * 3 + [float(end.double().sum())] * 3
    assert weights[0] != weights[3]
    # Links show where each picture comes from, wherever ultralytics looks.
    data = tmp_path / "out" / "data" / "images"
    trained, stopped = (
        {each.resolve() for each in (data / split).iterdir()} for split in ("train", "val")
    )
    assert stopped == {each.resolve() for each in sets[0]}
    assert trained == {
        *(each.image.resolve() for each in prepared.site.train),
        *(each.resolve() for each in (source / "train").iterdir()),
    }
    assert not trained & {each.resolve() for images in sets for each in images}


def test_what_was_found_in_the_folders_is_told_and_recorded(root: Path, tmp_path: Path) -> None:
    own, source, said = tmp_path / "own", tmp_path / "source", list[str]()
    write_cvat(own, drawn_fields(6))
    file = own / "annotations.xml"
    outline = '<polygon label="WBC" points="60,50;80,52;70,70"/></image>'
    file.write_text(file.read_text().replace("</image>", outline, 1))
    shutil.copytree(root / "source", source)
    next((source / "labels" / "train").iterdir()).unlink()
    chosen = settings(root, fields=str(own), replay=[str(source)])
    prepared = prepare(chosen, CLASSES)
    _say_what_was_found(prepared, said.append)
    outlines = "1 shapes of the kind 'polygon' taken as the box around them"
    bare = "source: 1 pictures without a label file: without cells"
    assert said == [outlines, bare]
    assert _counts(prepared)["site"]["notes"] == [outlines]
    assert _counts(prepared)["source"]["source"]["notes"] == [bare]


def test_a_source_picture_that_cannot_be_trained_on_is_named(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(root / "source", source)
    picture = source / "images" / "train" / "field_01.png"
    picture.write_bytes(picture.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"1 of 7 pictures cannot be read .*train/field_01\.png"):
        adapt(settings(root, replay=[str(source)]), tmp_path / "out")


def test_a_disk_that_is_full_is_one_line(
    root: Path, finished: tuple[Path, SiteResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(trainer: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.SiteTrainer, "train", fill)
    out = tmp_path / "out"
    with pytest.raises(StoreError, match="cannot be written: No space left on device; free space"):
        adapt(settings(root), out)
    # What such a disk leaves of a checkpoint.
    weights = out / "run" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "last.pt").write_bytes((root / "start.pt").read_bytes()[:9000])
    with pytest.raises(DataError, match=r"last\.pt: damaged"):
        adapt(settings(root), out, resume=True)
    (tmp_path / "page" / "fields.png").mkdir(parents=True)
    model = load_own_checkpoint(root / "start.pt")
    held_out = prepare(settings(root), CLASSES).site.held_out
    with pytest.raises(OSError, match=r"fields\.png"):
        write_page(
            finished[1], model, model, held_out, tmp_path / "page", size=64, score=0.25,
            device="cpu",
        )  # fmt: skip


def test_of_equally_good_epochs_the_last_is_kept() -> None:
    assert training.best_epoch([0.1, 0.5, 0.5, 0.2]) == 3
    assert training.best_epoch([]) is None


def test_two_sources_of_one_name_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two folders are called 'source'"):
        adapt(settings(root, replay=[str(root / "source")] * 2), tmp_path / "out")
