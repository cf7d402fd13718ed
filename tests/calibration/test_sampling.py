"""The draw is equal over domains and seeded, and refuses what would spoil the ranges."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from calibration.sampling import Pool, check_calibration_set, draw_calibration_set, hash_files
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError
from tests.calibration.conftest import MakePool


def test_every_domain_gives_the_same_number(make_pool: MakePool, spec: InputSpec) -> None:
    pools = [make_pool("a", 9), make_pool("b", 6)]
    drawn = draw_calibration_set(pools, spec, images=8, minimum=1)
    assert drawn.domains == {"a": 4, "b": 4}


def test_the_smallest_domain_decides(make_pool: MakePool, spec: InputSpec) -> None:
    pools = [make_pool("a", 9), make_pool("b", 3)]
    drawn = draw_calibration_set(pools, spec, images=16, minimum=1)
    assert drawn.domains == {"a": 3, "b": 3}


def test_same_seed_same_set_other_seed_another(make_pool: MakePool, spec: InputSpec) -> None:
    pools = [make_pool("a", 20)]
    first, again, other = (
        draw_calibration_set(pools, spec, images=5, minimum=1, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.digest != other.digest


def test_the_draw_is_not_the_first_files(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 30)
    drawn = draw_calibration_set([pool], spec, images=5, minimum=1)
    assert [image.file for image in drawn.images] != [path.name for path in pool.files[:5]]


@pytest.mark.parametrize("pools", [[], [Pool("a", Path(), ())]])
def test_no_pictures_no_ranges(pools: list[Pool], spec: InputSpec) -> None:
    with pytest.raises(DataError, match="no calibration data"):
        draw_calibration_set(pools, spec)


def test_too_few_are_refused_and_the_domain_named(make_pool: MakePool, spec: InputSpec) -> None:
    pools = [make_pool("plenty", 30), make_pool("scarce", 4)]
    with pytest.raises(DataError, match=r"8 pictures.*at least 20.*'scarce' has 4"):
        draw_calibration_set(pools, spec, images=40, minimum=20)


def test_an_empty_domain_beside_a_full_one_is_refused(make_pool: MakePool, spec: InputSpec) -> None:
    with pytest.raises(DataError, match="'empty' has 0"):
        draw_calibration_set([make_pool("a", 9), make_pool("empty", 0)], spec, minimum=1)


def test_a_picture_that_is_also_evaluated_on_is_refused_under_any_name(
    make_pool: MakePool, spec: InputSpec, tmp_path: Path
) -> None:
    pool = make_pool("a", 9)
    copy = tmp_path / "evaluated.png"
    shutil.copy(pool.files[4], copy)
    with pytest.raises(DataError, match=r"also evaluated on.*004\.png"):
        draw_calibration_set([pool], spec, minimum=1, evaluation_hashes=hash_files([copy]))


def test_copies_count_once(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 2)
    copy = pool.folder / "copy.png"
    shutil.copy(pool.files[0], copy)
    drawn = draw_calibration_set(
        [Pool("a", pool.folder, (*pool.files, copy))], spec, images=9, minimum=1
    )
    assert drawn.domains == {"a": 2}


def test_files_the_device_would_skip_are_passed_over(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 3)
    text = pool.folder / "text.png"
    text.write_text("no picture")
    drawn = draw_calibration_set(
        [Pool("a", pool.folder, (*pool.files, text))], spec, images=9, minimum=1
    )
    assert [image.file for image in drawn.images] == ["000.png", "001.png", "002.png"]


def test_one_domain_given_twice_is_refused(make_pool: MakePool, spec: InputSpec) -> None:
    pool = make_pool("a", 3)
    with pytest.raises(DataError, match="given twice"):
        draw_calibration_set([pool, pool], spec, minimum=1)


def test_an_earlier_draw_is_held_to_the_same_rules(make_pool: MakePool, spec: InputSpec) -> None:
    drawn = draw_calibration_set([make_pool("a", 3), make_pool("b", 3)], spec, minimum=1)
    assert check_calibration_set(drawn, minimum=6, evaluation_hashes=()) is drawn
    with pytest.raises(DataError, match="at least 7"):
        check_calibration_set(drawn, minimum=7, evaluation_hashes=())
    with pytest.raises(DataError, match="also evaluated on"):
        check_calibration_set(drawn, minimum=1, evaluation_hashes={drawn.images[0].sha256})
    lopsided = drawn.model_copy(update={"images": drawn.images[1:]})
    with pytest.raises(DataError, match="equally many"):
        check_calibration_set(lopsided, minimum=1, evaluation_hashes=())
