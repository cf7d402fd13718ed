"""``leukoscope data``: what a person reads, and the exit code a script reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_runtime.errors import DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE
from tests.support import paint_field, write_image
from train.data_cli import app
from train.datasets.schemas import load_specs

ROW = "2 0.5 0.5 0.25 0.5 1 0 2 1 0 1"


def call(*arguments: str | Path) -> Result:
    answer = CliRunner().invoke(app, [str(each) for each in arguments])
    # Clear-cut errors pass through here: the command line turns them into one line.
    if isinstance(answer.exception, (DataError, SettingsError)):
        raise answer.exception
    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training pictures of one slide and a test picture of another."""
    for number, (split, name) in enumerate(
        [("train", "1_1_1000_ALL"), ("train", "1_2_1000_ALL"), ("test", "2_1_1000_AML")]
    ):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
        discs = [(20.0 + 30 * number, 20.0 + 20 * i, 12.0 + 4 * i) for i in range(3)]
        red = [(100.0 - 20 * number * i, 70.0 - 9 * i, 14.0) for i in range(4)]
        picture = paint_field(128, 96, discs[: number + 1], red_cells=red, seed=number)
        write_image(tmp_path / "images" / split / f"{name}.png", picture)
        (tmp_path / "labels" / split / f"{name}.txt").write_text(f"{ROW}\n")
    return tmp_path


def test_a_clean_set_is_told_in_full(folder: Path) -> None:
    answer = call("check", "leukemia-attri", folder)
    assert answer.exit_code == 0, answer.output
    told = answer.output.splitlines()
    assert told[0] == f"LeukemiaAttri: 3 pictures, 3 labelled cells in {folder}"
    assert re.fullmatch(r"pictures +2 +1", next(line for line in told if "pictures  " in line))
    assert re.fullmatch(r"Lymphoblast +2 +1", next(x for x in told if x.startswith("Lymphoblast")))
    assert "nuclear_chromatin: open 0 (0.0%), coarse 3 (100.0%); not judged 0" in told
    assert "nucleolus: inconspicuous 0 (0.0%), prominent 0 (0.0%); not judged 3" in told
    for title in ("bad rows", "pictures that cannot be used", "near-duplicates across splits"):
        assert f"{title}: 0" in told
    assert told[-2:] == ["clean", RESEARCH_USE]


def test_a_copy_in_another_split_is_exit_code_1(folder: Path) -> None:
    copy = folder / "images" / "test" / "2_1_1000_AML.png"
    copy.write_bytes((folder / "images" / "train" / "1_1_1000_ALL.png").read_bytes())
    answer = call("check", "leukemia-attri", folder)
    assert answer.exit_code == 1
    assert "near-duplicates across splits: 1\n" in answer.output
    assert re.search(r"1_1_1000_ALL\.png \(train\) and .*AML\.png \(test\): 0 of", answer.output)
    assert call("check", "leukemia-attri", folder, "--labels-only").exit_code == 0


def test_bad_rows_are_listed_twenty_at_a_time_or_all(folder: Path) -> None:
    (folder / "labels" / "train" / "1_1_1000_ALL.txt").write_text("oops\n" * 25)
    answer = call("check", "leukemia-attri", folder, "--labels-only")
    assert answer.exit_code == 2
    assert "bad rows: 25\n" in answer.output
    assert "ALL.txt:20: 1 columns, expected 11 or 12\n" in answer.output
    assert "ALL.txt:21:" not in answer.output
    assert "  and 5 more; --all lists them\n" in answer.output
    full = call("check", "leukemia-attri", folder, "--labels-only", "--all")
    assert "ALL.txt:25:" in full.output
    assert "--all" not in full.output


def test_an_unreadable_picture_is_exit_code_2(folder: Path) -> None:
    (folder / "images" / "test" / "2_1_1000_AML.png").write_bytes(b"")
    answer = call("check", "leukemia-attri", folder)
    assert answer.exit_code == 2
    assert "2_1_1000_AML.png: empty file (0 bytes)" in answer.output


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (f"{ROW[:-1]}5", "ALL.txt:2: cytoplasmic_vacuoles '5': unknown value; known: 0 (absent)"),
        (f"{ROW} 1", "ALL.txt:2: 12 columns, but 11 in line 1"),
    ],
)
def test_bad_input_is_one_line_with_file_and_line(folder: Path, row: str, why: str) -> None:
    (folder / "labels" / "train" / "1_1_1000_ALL.txt").write_text(f"{ROW}\n{row}\n")
    answer = call("check", "leukemia-attri", folder, "--labels-only")
    assert answer.exit_code == 2
    assert "bad rows: 1\n" in answer.output
    assert why in answer.output


def test_patches_empty_and_ambiguous(folder: Path) -> None:
    labels = folder / "labels" / "train"
    cell, attributes = ROW[:-12], ROW[-11:]
    (labels / "1_1_1000_ALL.txt").write_text(f"{cell} 0.1 0.3 0.6 0.8 {attributes}\n")
    (labels / "1_2_1000_ALL.txt").write_text("")
    (folder / "patches.csv").write_text(
        "split,image,x1,y1,x2,y2\ntrain,1_2_1000_ALL.png,0,0,0.5,0.5\n"
    )
    arguments = ("check", "sparse-leukemia-attri", folder, "--labels-only")
    answer = call(*arguments)
    assert answer.exit_code == 0, answer.output
    assert "note: patch columns: x1,y1,x2,y2, fractions" in answer.output
    assert "note: 1 patches with no label in them: valid" in answer.output
    (labels / "1_1_1000_ALL.txt").write_text(f"2 0.2 0.5 0.05 0.1 0.1 0.3 0.4 0.9 {attributes}\n")
    answer = call(*arguments)
    assert answer.exit_code == 2
    assert (
        "ambiguous: both orders fit all 1 pictures; say which with --patch-order" in answer.output
    )
    assert call(*arguments, "--patch-order", "x1,x2,y1,y2").exit_code == 0


def test_validation_by_group_shows_in_the_counts(folder: Path) -> None:
    for number in (3, 4):
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            source = folder / kind / "test" / f"2_1_1000_AML.{suffix}"
            target = folder / kind / "train" / f"{number}_1_1000_AML.{suffix}"
            target.write_bytes(source.read_bytes())
    arguments = ("check", "leukemia-attri", folder, "--labels-only")
    answer = call(*arguments, "--validation", "group")
    assert re.search(r"\n +train +val +test\n", answer.output)
    assert "groups in several splits: 0\n" in answer.output
    assert answer.exit_code == 0


def test_another_folder_and_unknown_names_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv: No such file") as told:
        call("check", "wbc-masks", folder)
    assert "\n" not in str(told.value)
    with pytest.raises(SettingsError, match="data set 'x': unknown; choose one of leukemia-attri"):
        call("check", "x", folder)
    with pytest.raises(SettingsError, match="mapping 'A'"):
        call("check", "leukemia-attri", folder, "--mapping", "A")


def test_the_list_names_every_data_set() -> None:
    answer = call("list")
    assert answer.exit_code == 0
    for name in load_specs():
        assert f"{name}: " in answer.output
    assert "mappings: A, B" in answer.output
    assert RESEARCH_USE in answer.output


@pytest.mark.realdata
def test_the_real_masks_are_clean(shared_data: Path) -> None:
    answer = call("check", "wbc-masks", shared_data / "wbc-masks")
    assert answer.exit_code == 0, answer.output
    assert re.search(r"pictures +274 +43 +83\n", answer.output)
