"""What is read out of a run folder, by split and domain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from export.training_run import TrainingRun, open_training_run


def rewrite(run: TrainingRun, **changes: object) -> None:
    file = run.folder / "training.json"
    document = json.loads(file.read_text())
    document["recipe"].update(changes)
    file.write_text(json.dumps(document))


def test_a_run_says_what_was_trained(run: TrainingRun) -> None:
    assert run.name == "squares"
    assert run.architecture == "yolo11n, ReLU"
    assert run.image_size == 64
    assert run.checkpoint == run.folder / "run" / "weights" / "best.pt"


def test_composed_pictures_are_a_domain_of_their_own(run: TrainingRun) -> None:
    assert [pool.domain for pool in run.pools()] == ["one", "two", "composed"]
    assert [len(pool.files) for pool in run.pools()] == [12, 12, 12]
    validation = run.validation_fields()
    assert {name: len(fields) for name, fields in validation.items()} == {
        "one": 10,
        "two": 10,
        "composed": 10,
    }
    assert all(item.image.name.startswith("field_") for item in validation["composed"])
    assert {name: len(fields) for name, fields in run.test_fields().items()} == {"one": 8, "two": 8}


def test_no_picture_serves_two_splits(run: TrainingRun) -> None:
    training = {path for pool in run.pools() for path in pool.files}
    validation = {item.image for group in run.validation_fields().values() for item in group}
    test = {item.image for group in run.test_fields().values() for item in group}
    assert not training & validation
    assert not training & test
    assert not validation & test


def test_a_left_out_domain_stays_out(run: TrainingRun) -> None:
    rewrite(run, leave_out="two")
    again = open_training_run(run.folder)
    assert [pool.domain for pool in again.pools()] == ["one", "composed"]
    assert set(again.validation_fields()) == {"one", "composed"}


def test_data_may_have_moved(run: TrainingRun, tmp_path: Path) -> None:
    shutil.move(run.data_root, tmp_path / "moved")
    with pytest.raises(DataError, match="give --data"):
        open_training_run(run.folder).pools()
    moved = open_training_run(run.folder, data_root=tmp_path / "moved")
    assert len(moved.test_fields()["one"]) == 8


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"recipe": {}}'])
def test_a_damaged_record_is_refused(run: TrainingRun, text: str) -> None:
    (run.folder / "training.json").write_text(text)
    with pytest.raises(DataError, match=r"training\.json"):
        open_training_run(run.folder)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finished training"):
        open_training_run(tmp_path)
