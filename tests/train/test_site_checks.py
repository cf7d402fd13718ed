"""What is refused of a site's fields and its source, and how fields are held out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DataError
from tests.train.site_folders import GROUND, DrawnField, drawn_fields, write_yolo, yolo_rows
from train.datasets.labelled import LabelledSet
from train.datasets.site_fields import read_site_fields
from train.site.fields import (
    SiteFields,
    divide_site,
    divide_sources,
    read_source,
    refuse_shared,
    typical_cell_px,
)


def read(root: Path, fields: Sequence[DrawnField], split: str = "") -> LabelledSet:
    return read_site_fields(write_yolo(root, list(fields), split)).require_clean()


def divide(
    found: LabelledSet,
    *,
    minimum: int = 5,
    share: float = 0.2,
    most: int | None = None,
    seed: int = 0,
) -> SiteFields:
    return divide_site(found, minimum=minimum, share=share, least_held_out=2, most=most, seed=seed)


def names(images: Sequence[object]) -> set[str]:
    return {each.image.name for each in images}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("count", "held"), [(5, 2), (10, 2), (12, 2), (13, 3), (25, 5)])
def test_a_fifth_is_held_out_and_two_at_least(tmp_path: Path, count: int, held: int) -> None:
    site = divide(read(tmp_path, drawn_fields(count)))
    assert (len(site.train), len(site.held_out)) == (count - held, held)
    assert not names(site.train) & names(site.held_out)
    assert {each.split for each in site.train} == {"train"}
    assert {each.split for each in site.held_out} == {"val"}
    assert site.different == count


def test_the_draw_follows_the_seed(tmp_path: Path) -> None:
    found = read(tmp_path, drawn_fields(20))
    held = [names(divide(found, seed=seed).held_out) for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]


def test_ten_identical_frames_are_one_field(tmp_path: Path) -> None:
    one = drawn_fields(1)[0]
    found = read(tmp_path, [replace(one, name=f"frame_{i}.png") for i in range(10)])
    with pytest.raises(
        DataError, match=r"10 pictures show 1 different fields \(9 are copies or nearly so\); an "
    ) as caught:
        divide(found)
    assert "\n" not in str(caught.value)


def test_ten_frames_that_differ_by_noise_are_one_field(tmp_path: Path) -> None:
    one = drawn_fields(1)[0]
    noisy = []
    for number in range(10):
        rng = np.random.default_rng(number)
        pixels = one.pixels.astype(int) + rng.integers(-3, 4, one.pixels.shape)
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        noisy.append(DrawnField(f"frame_{number}.png", pixels, one.cells))
    with pytest.raises(DataError, match=r"10 pictures show 1 different fields"):
        divide(read(tmp_path, noisy))


def test_copies_are_left_out_and_near_copies_stay_on_one_side(tmp_path: Path) -> None:
    fields = drawn_fields(8)
    brighter = np.clip(fields[3].pixels.astype(int) + 6, 0, 255).astype(np.uint8)
    extra = [
        replace(fields[0], name="copy.png"),
        DrawnField("near.png", brighter, fields[3].cells),
    ]
    found = read(tmp_path, [*fields, *extra])
    for seed in range(6):
        site = divide(found, seed=seed)
        assert site.different == 8
        kept = names(site.train) | names(site.held_out)
        # The first by name is kept of a file that is there twice.
        assert "copy.png" in kept
        assert "field_00.png" not in kept
        pair = {"near.png", "field_03.png"}
        assert pair <= names(site.train) or pair <= names(site.held_out)
        assert "1 copies of files left out" in site.notes


def test_a_copy_with_other_labels_is_refused(tmp_path: Path) -> None:
    fields = drawn_fields(6)
    found = read(tmp_path, [*fields, replace(fields[2], name="z.png", cells=fields[2].cells[:1])])
    with pytest.raises(DataError, match=r"z\.png: the same picture as .*field_02\.png with other"):
        divide(found)


def test_fields_that_a_folder_calls_test_or_val_are_spoken_of(tmp_path: Path) -> None:
    fields = drawn_fields(12)
    with pytest.raises(DataError, match="0 pictures show 0 different fields beside 6 of the split"):
        divide(read(tmp_path / "test", fields[:6], "test"))
    write_yolo(tmp_path / "own", fields[:9], "train")
    site = divide(read(tmp_path / "own", fields[9:], "val"))
    assert site.notes == (
        "the folder's own val split is not kept: held-out fields are drawn from all",
    )
    assert len(site.train) + len(site.held_out) == 12


def test_few_fields_are_refused_unless_fewer_will_do(tmp_path: Path) -> None:
    found = read(tmp_path, drawn_fields(4))
    with pytest.raises(
        DataError, match="4 pictures show 4 different fields; an adaptation needs 5"
    ):
        divide(found)
    assert len(divide(found, minimum=3).train) == 2


def test_fewer_fields_are_among_more_of_the_same_seed(tmp_path: Path) -> None:
    found = read(tmp_path, drawn_fields(20))
    drawn = [divide(found, most=most, seed=4) for most in (5, 10, 20)]
    sets = [names(each.train) | names(each.held_out) for each in drawn]
    assert [len(each) for each in sets] == [5, 10, 20]
    assert sets[0] < sets[1] < sets[2]


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, drawn_fields(6))
    file = found.images[2].image
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"1 pictures cannot be used: .*field_02\.png: truncated"):
        divide(found)


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    found = read(tmp_path, drawn_fields(6))
    wrong = replace(found.images[0], size_px=(192, 160))
    with pytest.raises(DataError, match=r"field_00\.png: 96 x 80 px, its labels say 192 x 160"):
        divide(found.with_images((wrong, *found.images[1:])))


def test_fields_without_any_cell_are_refused_and_one_with_a_cell_is_held_out(
    tmp_path: Path,
) -> None:
    bare = [replace(each, cells=()) for each in drawn_fields(9)]
    with pytest.raises(DataError, match="no labelled cell of the model's classes in any field"):
        divide(read(tmp_path / "bare", bare))
    found = read(tmp_path / "few", [*bare[:8], drawn_fields(10)[9]])
    for seed in range(4):
        site = divide(found, seed=seed)
        assert sum(len(each) for each in site.held_out) == 2
        assert "8 fields without any cell" in site.notes


def test_the_folders_own_test_split_is_never_learnt_from(tmp_path: Path) -> None:
    fields = drawn_fields(9)
    write_yolo(tmp_path, fields[:7], "train")
    # The first test picture shows a training field again, a little brighter.
    again = np.clip(fields[1].pixels.astype(int) + 6, 0, 255).astype(np.uint8)
    test = [DrawnField("again.png", again, fields[1].cells), *fields[7:]]
    site = divide(read(tmp_path, test, "test"))
    assert names(site.test) == {"again.png", "field_07.png", "field_08.png"}
    assert "field_01.png" not in names(site.train) | names(site.held_out)
    assert site.different == 6


def test_no_film_of_the_test_split_is_learnt_from(tmp_path: Path) -> None:
    fields = drawn_fields(9)
    write_yolo(tmp_path, fields[:7], "train")
    write_yolo(tmp_path, fields[7:], "test")
    rows = [(fields[7].name, "film 1"), (fields[0].name, "film 1"), (fields[1].name, "film 2")]
    (tmp_path / "groups.csv").write_text(
        "image,group\n" + "".join(f"{name},{film}\n" for name, film in rows)
    )
    site = divide(read_site_fields(tmp_path).require_clean())
    assert names(site.train) | names(site.held_out) == {each.name for each in fields[1:7]}
    assert "1 fields left out: near-copies or films of test fields" in site.notes


def source(root: Path, counts: dict[str, int]) -> Path:
    fields = drawn_fields(sum(counts.values()), seed=9, ground=GROUND)
    for split, count in counts.items():
        write_yolo(root, fields[:count], split)
        del fields[:count]
    return root


def test_a_source_needs_train_and_the_checks_split(tmp_path: Path) -> None:
    only = source(tmp_path / "a", {"train": 3, "test": 2})
    with pytest.raises(DataError, match=r"no val pictures, only train, test; the source is replay"):
        read_source(only, "val")
    sets = divide_sources([read_source(only, "test")], "test")
    assert (len(sets[0].train), len(sets[0].check), sets[0].name) == (3, 2, "a")
    with pytest.raises(DataError, match="no train pictures"):
        read_source(source(tmp_path / "b", {"val": 2}), "val")
    with pytest.raises(DataError, match="no such folder"):
        read_source(tmp_path / "absent", "val")


def test_a_check_picture_that_is_also_replayed_is_refused(tmp_path: Path) -> None:
    one = source(tmp_path / "a", {"train": 3, "val": 2})
    two = source(tmp_path / "b", {"train": 3, "val": 2})
    # The same drawings again: b checks on none of a's training pictures, until now.
    shutil.copy(one / "images/train/field_00.png", two / "images/val/field_03.png")
    for root in (one, two):
        for file in (root / "images" / "val").iterdir():
            (root / "labels" / "val" / f"{file.stem}.txt").write_text("")
    with pytest.raises(DataError, match=r"field_03\.png: the same file as .*field_00\.png, which"):
        divide_sources([read_source(root, "val") for root in (one, two)], "val")


def test_a_check_without_a_cell_is_refused_by_the_name_of_its_set(tmp_path: Path) -> None:
    root = source(tmp_path / "bare", {"train": 3, "val": 2})
    for file in (root / "labels" / "val").iterdir():
        file.write_text("")
    with pytest.raises(DataError, match=r"bare: no labelled cell of the model's classes in its va"):
        divide_sources([read_source(root, "val")], "val")


def test_fields_of_the_site_in_the_source_are_refused_by_content(tmp_path: Path) -> None:
    root = source(tmp_path / "source", {"train": 3, "val": 2, "test": 1})
    fields = drawn_fields(6)
    found = read(tmp_path / "site", fields)
    sources = divide_sources([read_source(root, "val")], "val")
    refuse_shared(divide(found), sources)
    # Under another name, and in the split that is neither replayed nor checked on.
    shared = next((root / "images" / "test").iterdir())
    shutil.copy(shared, tmp_path / "site" / "images" / "own.png")
    (tmp_path / "site" / "labels" / "own.txt").write_text(yolo_rows(fields[0]))
    again = read_site_fields(tmp_path / "site").require_clean()
    with pytest.raises(DataError, match=r"own\.png: the same file as .*field_05\.png of the repl"):
        refuse_shared(divide(again), sources)


def test_a_film_stays_on_one_side(tmp_path: Path) -> None:
    fields = drawn_fields(12)
    write_yolo(tmp_path, fields)
    rows = [f"{each.name},film {number % 4}\n" for number, each in enumerate(fields)]
    (tmp_path / "groups.csv").write_text("image,group\n" + "".join(rows))
    found = read_site_fields(tmp_path).require_clean()
    for seed in range(4):
        site = divide(found, seed=seed)
        films = [{each.group for each in part} for part in (site.train, site.held_out)]
        assert not films[0] & films[1]
        assert (len(site.train), len(site.held_out), site.different) == (9, 3, 12)
    (tmp_path / "groups.csv").write_text("image,group\nfield_99.png,film 1\n")
    with pytest.raises(DataError, match=r"groups\.csv:2: no such picture as field_99\.png"):
        read_site_fields(tmp_path).require_clean()
    one = "".join(f"{each.name},film\n" for each in fields)
    (tmp_path / "groups.csv").write_text("image,group\n" + one)
    with pytest.raises(DataError, match="leave nothing to train on beside the held-out fields"):
        divide(read_site_fields(tmp_path).require_clean())


def test_the_typical_width_of_a_cell_is_told_in_input_pixels(tmp_path: Path) -> None:
    whole = read(
        tmp_path, [replace(each, cells=((0, 10, 20, 24, 12),)) for each in drawn_fields(3)]
    )
    # 96 x 80 px pictures in an input of 192: twice as wide.
    assert typical_cell_px(whole.images, 192) == pytest.approx(48, abs=0.01)
    assert typical_cell_px([], 192) is None
