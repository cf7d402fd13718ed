"""The record of a set, and that only unaltered pictures are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calibration.cli import app
from calibration.dataset import CalibrationSet, preprocessing_id
from calibration.ranges import calibration_tensors
from calibration.sampling import draw_calibration_set
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import fit_window, tensor_of
from tests.calibration.conftest import MakePool
from tests.support import MODEL_NAME, toy_detector, write_bundle


def test_record_survives_its_file(make_pool: MakePool, spec: InputSpec) -> None:
    drawn = draw_calibration_set([make_pool("a", 4)], spec, images=3, minimum=1, seed=5)
    assert CalibrationSet.from_json(drawn.to_json()) == drawn


def test_record_names_no_folder_of_this_machine(
    make_pool: MakePool, spec: InputSpec, tmp_path: Path
) -> None:
    drawn = draw_calibration_set([make_pool("a", 4)], spec, images=3, minimum=1)
    assert str(tmp_path) not in drawn.to_json()


def test_a_changed_record_is_refused(make_pool: MakePool, spec: InputSpec) -> None:
    drawn = draw_calibration_set([make_pool("a", 4)], spec, images=3, minimum=1)
    document = json.loads(drawn.to_json())
    document["images"].pop()
    with pytest.raises(DataError, match="its content has digest"):
        CalibrationSet.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 1, "images": []}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not a record"):
        CalibrationSet.from_json(text)


def test_digest_follows_preprocessing(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 4)
    other = spec.model_copy(update={"pad_value": 0})
    first, second = (draw_calibration_set([pool], s, minimum=1) for s in (spec, other))
    assert preprocessing_id(spec) != preprocessing_id(other)
    assert first.digest != second.digest


def test_tensors_are_those_of_the_device(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 3)
    drawn = draw_calibration_set([pool], spec, minimum=1)
    tensors = list(calibration_tensors(drawn, {"a": pool.folder}, spec))
    for path, tensor in zip(pool.files, tensors, strict=True):
        pixels = read_image(path)
        window = fit_window(pixels.shape[1], pixels.shape[0], spec)
        assert (tensor == tensor_of(pixels, window, spec)).all()


def test_tensors_of_another_preprocessing_are_refused(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 3)
    drawn = draw_calibration_set([pool], spec, minimum=1)
    other = spec.model_copy(update={"scale": 1.0})
    with pytest.raises(DataError, match="another input spec"):
        list(calibration_tensors(drawn, {"a": pool.folder}, other))


def test_altered_or_missing_pictures_are_refused(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 2)
    drawn = draw_calibration_set([pool], spec, minimum=1)
    with pytest.raises(DataError, match="no folder given for domain 'a'"):
        list(drawn.pictures({}))
    pool.files[0].write_bytes(pool.files[1].read_bytes())
    with pytest.raises(DataError, match=r"000\.png: altered"):
        list(drawn.pictures({"a": pool.folder}))
    pool.files[0].unlink()
    with pytest.raises(DataError, match=r"000\.png: No such file"):
        list(drawn.pictures({"a": pool.folder}))


def test_command_draws_and_checks(make_pool: MakePool, tmp_path: Path) -> None:
    pools = [make_pool("a", 3), make_pool("b", 3)]
    bundle = write_bundle(tmp_path / "bundle", {MODEL_NAME: toy_detector()})
    folders = [f"--folder={pool.domain}={pool.folder}" for pool in pools]
    record = tmp_path / "set.json"
    common = [f"--bundle={bundle}", *folders]
    made = CliRunner().invoke(app, ["sample", *common, f"--out={record}", "--minimum=6"])
    assert made.exit_code == 0, made.output
    assert "6 pictures (a 3, b 3)" in made.output
    checked = CliRunner().invoke(app, ["check", *common, f"--record={record}"])
    assert checked.exit_code == 0, checked.output
    pools[1].files[2].write_bytes(b"another picture")
    failed = CliRunner().invoke(app, ["check", *common, f"--record={record}"])
    assert isinstance(failed.exception, DataError)


def test_command_refuses_held_out_pictures_and_bad_folders(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool("a", 3)
    bundle = write_bundle(tmp_path / "bundle", {MODEL_NAME: toy_detector()})
    common = ["sample", f"--bundle={bundle}", f"--out={tmp_path / 'set.json'}", "--minimum=1"]
    held_out = CliRunner().invoke(
        app, [*common, f"--folder=a={pool.folder}", f"--held-out={pool.folder}"]
    )
    assert isinstance(held_out.exception, DataError)
    nameless = CliRunner().invoke(app, [*common, f"--folder={pool.folder}"])
    assert isinstance(nameless.exception, SettingsError)
    assert not (tmp_path / "set.json").exists()
