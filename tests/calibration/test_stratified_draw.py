"""A draw reaches every look a domain has, and passes over what repeats or leaks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration.cli import app
from calibration.dataset import CalibrationSet
from calibration.field_traits import FieldTraits, field_traits, label_counter
from calibration.sampling import Pool, draw_calibration_set
from calibration.stratified_draw import (
    NEAR_DRAWN,
    NEAR_EVALUATED,
    CellSource,
    draw_stratified,
    in_turn,
    strata_of,
)
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError
from edge_runtime.types import UInt8Image
from tests.support import MODEL_NAME, paint_field, toy_detector, write_bundle, write_image


def field(seed: int, *, cells: int = 3, width: int = 200, height: int = 160) -> UInt8Image:
    """Discs at places of their own, so that no two seeds look the same."""
    rng = np.random.default_rng(seed)
    discs = rng.uniform((10, 10, 20), (width - 10, height - 10, 50), (cells, 3)).tolist()
    red = rng.uniform((0, 0, 10), (width, height, 24), (14, 3)).tolist()
    return paint_field(width, height, discs, red_cells=red, seed=seed)


def pool(root: Path, domain: str, pictures: list[UInt8Image]) -> Pool:
    folder = root / domain
    folder.mkdir(parents=True)
    files = [write_image(folder / f"{i:03d}.png", pixels) for i, pixels in enumerate(pictures)]
    return Pool(domain, folder, tuple(files))


def test_focus_falls_with_blur_and_not_with_a_paler_stain() -> None:
    sharp = field(1)
    blurred = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 2), np.uint8)
    pale = np.asarray(255 - (255 - sharp.astype(np.float32)) * 0.6, np.uint8)
    assert field_traits(blurred).focus < field_traits(sharp).focus - 0.5
    assert field_traits(pale).focus == pytest.approx(field_traits(sharp).focus, abs=0.1)


def test_stain_is_told_by_density_and_hue() -> None:
    plain = field(2)
    dark = np.asarray(plain * 0.7, np.uint8)
    eosin = plain.copy()
    eosin[:, :, 1] = (eosin[:, :, 1] * 0.7).astype(np.uint8)
    assert field_traits(dark).density > field_traits(plain).density + 0.1
    assert field_traits(eosin).hue < field_traits(plain).hue - 0.05


def test_strata_are_even_parts_and_equal_values_stay_together() -> None:
    traits = [FieldTraits(focus=i, density=1.0, hue=float(i % 2), cells=i // 6) for i in range(12)]
    keys = strata_of(traits)
    assert Counter(key[0] for key in keys) == {0: 4, 1: 4, 2: 4}
    assert {key[1] for key in keys} == {0}
    assert [key[2] for key in keys] == [0, 1] * 6
    assert [key[3] for key in keys] == [0] * 6 + [2] * 6


def test_every_stratum_gives_one_before_any_gives_two() -> None:
    keys = [(0, 0, 0, 0)] * 50 + [(1, 0, 0, 0)] * 2 + [(2, 1, 1, 2)]
    order = in_turn(keys, np.random.default_rng(0))
    assert sorted(order) == list(range(53))
    assert {keys[place] for place in order[:3]} == set(keys)
    assert Counter(keys[place] for place in order[:5])[(0, 0, 0, 0)] == 2


def test_rare_looks_are_drawn_though_chance_would_miss_them(
    tmp_path: Path, spec: InputSpec
) -> None:
    pictures = [field(i, cells=1) for i in range(40)]
    rare = {3, 17}
    for place in rare:
        pictures[place] = np.asarray(field(place, cells=12) * 0.6, np.uint8)
    given = pool(tmp_path, "a", pictures)
    dark = {given.files[place].name for place in rare}

    def reached(seed: int, *, plain: bool) -> bool:
        draw = draw_calibration_set if plain else draw_stratified
        drawn = draw([given], spec, images=16, minimum=1, seed=seed)
        return bool(dark & {image.file for image in drawn.images})

    counter = CellSource("by name", lambda path, _: 12 if path.name in dark else 1)
    stratified = [
        draw_stratified([given], spec, images=16, minimum=1, seed=seed, cells=counter)
        for seed in range(5)
    ]
    assert all(dark & {image.file for image in each.images} for each in stratified)
    assert not all(reached(seed, plain=True) for seed in range(12))


def test_the_record_counts_strata_and_keeps_the_minimum(tmp_path: Path, spec: InputSpec) -> None:
    pools = [
        pool(tmp_path, name, [field(s + 100 * k) for s in range(12)])
        for k, name in enumerate(("a", "b"))
    ]
    drawn = draw_stratified(pools, spec, images=14, minimum=9, seed=4)
    assert drawn.domains == {"a": 7, "b": 7}
    assert drawn.minimum == 9
    assert sum(each.pool for each in drawn.strata) == 24
    assert sum(each.drawn for each in drawn.strata) == 14
    assert CalibrationSet.from_json(drawn.to_json()) == drawn
    assert drawn == draw_stratified(pools, spec, images=14, minimum=9, seed=4)
    assert drawn.digest != draw_stratified(pools, spec, images=14, minimum=9, seed=5).digest


def test_near_duplicates_count_once_in_and_between_domains(tmp_path: Path, spec: InputSpec) -> None:
    one = field(1)
    bigger = np.asarray(cv2.resize(one, (260, 208), interpolation=cv2.INTER_LINEAR), np.uint8)
    pools = [pool(tmp_path, "a", [one, field(2), bigger]), pool(tmp_path, "b", [bigger, field(3)])]
    drawn = draw_stratified(pools, spec, images=20, minimum=1)
    assert len(drawn.images) == 2
    assert drawn.passed_over == {NEAR_DRAWN: 2}


def test_what_is_near_an_evaluated_picture_is_not_drawn(tmp_path: Path, spec: InputSpec) -> None:
    given = pool(tmp_path, "a", [field(i) for i in range(5)])
    judged = write_image(
        tmp_path / "judged.jpg", np.asarray(cv2.resize(field(2), (240, 192)), np.uint8)
    )
    drawn = draw_stratified([given], spec, minimum=1, evaluated=[judged])
    assert [image.file for image in drawn.images] == ["000.png", "001.png", "003.png", "004.png"]
    assert drawn.passed_over == {NEAR_EVALUATED: 1}
    same = write_image(tmp_path / "same.png", field(2))
    with pytest.raises(DataError, match=r"also evaluated on.*002\.png"):
        draw_stratified([given], spec, minimum=1, evaluated=[same])


def test_a_search_for_duplicates_that_did_not_end_is_no_answer(
    tmp_path: Path, spec: InputSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = field(1)
    alike = [np.asarray(cv2.resize(one, (side, side)), np.uint8) for side in (200, 220, 240)]
    given = pool(tmp_path, "a", [*alike, field(2)])
    monkeypatch.setattr("calibration.stratified_draw._MOST_PAIRS", 2)
    with pytest.raises(DataError, match=r"2 pairs of pictures are nearly the same.*thin"):
        draw_stratified([given], spec, minimum=1)


def test_too_few_say_what_was_passed_over(tmp_path: Path, spec: InputSpec) -> None:
    one = field(1)
    bigger = np.asarray(cv2.resize(one, (260, 208)), np.uint8)
    given = pool(tmp_path, "a", [one, bigger, field(2)])
    with pytest.raises(DataError, match=r"2 pictures.*at least 3.*passed over: 1 nearly the same"):
        draw_stratified([given], spec, minimum=3)
    with pytest.raises(DataError, match=r"at least 500 are needed"):
        draw_stratified([given], spec)


def test_labels_are_found_beside_images(tmp_path: Path) -> None:
    picture = tmp_path / "images" / "train" / "f.png"
    label = tmp_path / "labels" / "train" / "f.txt"
    label.parent.mkdir(parents=True)
    label.write_text("0 .5 .5 .1 .1\n2 .3 .3 .1 .1\n0 .7 .7 .1 .1\n")
    assert label_counter()(picture, field(0)) == 3
    assert label_counter((0,))(picture, field(0)) == 2
    assert label_counter()(picture.with_name("none.png"), field(0)) == 0
    label.write_text("0 .5 .5\n")
    with pytest.raises(DataError, match=r"f\.txt:1: 3 columns"):
        label_counter()(picture, field(0))


def test_a_held_out_folder_without_pictures_is_a_slip(tmp_path: Path) -> None:
    given = pool(tmp_path, "a", [field(1)])
    (tmp_path / "judged").mkdir()
    out = tmp_path / "set.json"
    answer = CliRunner().invoke(
        app,
        ["sample", f"--folder=a={given.folder}", f"--held-out={tmp_path / 'judged'}",
         f"--out={out}", "--minimum=1", "--cells-from=none"],
    )  # fmt: skip
    assert isinstance(answer.exception, DataError)
    assert "no picture in it" in str(answer.exception)
    assert not out.exists()


@pytest.mark.parametrize(("who", "said"), [("detector", "detector of"), ("none", None)])
def test_the_command_asks_whom_it_is_told_to(tmp_path: Path, who: str, said: str | None) -> None:
    bundle = write_bundle(tmp_path / "bundle", {MODEL_NAME: toy_detector()})
    given = pool(tmp_path, "a", [field(i, cells=i % 3) for i in range(6)])
    arguments = ["sample", f"--folder=a={given.folder}", f"--bundle={bundle}", "--minimum=4"]
    out = tmp_path / "new" / "set.json"
    answer = CliRunner().invoke(app, [*arguments, f"--cells-from={who}", f"--out={out}"])
    assert answer.exit_code == 0, answer.output
    assert "minimum of 4 instead of 500" in answer.output
    document = json.loads(out.read_text())
    assert (document["cells_from"] or "none").startswith(said or "none")
    parts = {row["cells"] for row in document["strata"]}
    assert len(parts) == (1 if said is None else 3)


def test_the_shipped_record_is_of_schema_1_and_still_read(repository: Path) -> None:
    text = (repository / "edge_runtime" / "demo_bundle" / "calibration.json").read_text()
    shipped = CalibrationSet.from_json(text)
    assert shipped.schema_version == 1
    assert shipped.minimum == 200
    assert len(shipped.images) >= 500
