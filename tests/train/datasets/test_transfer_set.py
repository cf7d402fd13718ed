"""``leukoscope data transfer``: the folder, the review, and what is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from calibration.fields import parse_label_file
from edge_runtime.attributes import MISSING, Attribute, AttributeSchema
from edge_runtime.errors import DataError, LeukoscopeError, SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.types import Float32Array
from tests.support import write_image
from tests.train.datasets.conftest import See
from train.attribute_files import DATA_KEY, attribute_file, read_attributes
from train.data_cli import app
from train.datasets import yolo_set
from train.datasets.labelled import LabelledImage
from train.datasets.yolo_set import YoloSetWriter

SCHEMA = AttributeSchema(
    name="drawn",
    attributes=(
        Attribute(name="nucleus", values=("round", "bent", "lobed")),
        Attribute(name="vacuoles", values=("no", "yes")),
    ),
)
CLASSES = ("blast", "lymphocyte", "other")
SOURCE, TARGET = (560, 440), (400, 330)
SCALE = 0.12 / 0.28


def call(*arguments: str | Path) -> Result:
    answer = CliRunner().invoke(app, ["transfer", *(str(each) for each in arguments)])
    # Clear-cut errors pass through here: the command line turns them into one line.
    if isinstance(answer.exception, LeukoscopeError):
        raise answer.exception
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


@dataclass(frozen=True)
class World:
    """Three source fields (good, blank target, mirrored target) and a good one without split."""

    root: Path
    boxes: Float32Array

    @property
    def sources(self) -> Path:
        return self.root / "from"

    @property
    def targets(self) -> Path:
        return self.root / "to"

    def run(self, out: str = "out", *more: str | Path, pairs: str | Path | None = None) -> Result:
        pairs_given = ("--pairs", pairs) if pairs is not None else ()
        return call(
            "--from", self.sources, "--to", self.targets, "--out", self.root / out,
            "--expected-scale", str(SCALE), *pairs_given, *more,
        )  # fmt: skip

    def pairs_file(self, text: str) -> Path:
        path = self.root / "pairs.csv"
        path.write_text(text, encoding="utf-8")
        return path


def _write_world(root: Path, see: See) -> World:
    for name in ("from", "to"):
        (root / name).mkdir(parents=True)
    writer = YoloSetWriter(root / "from", CLASSES, SCHEMA)
    rng = np.random.default_rng(5)
    written, boxes = [], np.zeros((0, 4), np.float32)
    for number, name in enumerate(("good", "blank", "mirrored", "empty")):
        pixels, found, _ = see(SOURCE, 0.12, (64.0 + number, 54.0), seed=number)
        found = found[:0] if name == "empty" else found
        boxes = found if name == "good" else boxes
        classes = rng.integers(0, len(CLASSES), len(found))
        values = np.column_stack(
            [rng.integers(-1, 3, len(found)), rng.integers(-1, 2, len(found))]
        ).reshape(-1, 2)
        picture = write_image(root / f"{name}.png", pixels)
        patch = (0.05, 0.1, 0.9, 0.95) if name == "empty" else None
        labelled = LabelledImage(
            picture, "test" if name == "empty" else "train", "drawn",
            found, classes.astype(np.int64), values.astype(np.int64), patch_xyxyn=patch,
        )  # fmt: skip
        writer.add(labelled, picture.read_bytes())
        written.append(labelled)
        target, _, _ = see(TARGET, 0.28, (62.0, 56.0), seed=10 + number, blur_um=0.3)
        if name == "mirrored":
            target = np.ascontiguousarray(target[:, ::-1])
        if name == "blank":
            target = np.full_like(target, 200)
            target[:, :, 2] = 180
        write_image(root / "to" / f"{name}.png", target)
    writer.finish(written)
    return World(root, boxes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, see: See) -> World:
    return _write_world(tmp_path_factory.mktemp("drawn"), see)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, drawn: World) -> tuple[World, Result]:
    """One run that nobody changes."""
    root = tmp_path_factory.mktemp("done") / "world"
    world = World(shutil.copytree(drawn.root, root), drawn.boxes)
    return world, world.run()


@pytest.fixture
def world(tmp_path: Path, drawn: World) -> World:
    """One to spoil."""
    return World(shutil.copytree(drawn.root, tmp_path / "world"), drawn.boxes)


# --- what comes out ------------------------------------------------------------------------


def test_it_says_what_was_accepted_and_why_the_rest_was_not(done: tuple[World, Result]) -> None:
    world, answer = done
    assert answer.exit_code == 0, answer.output
    lines = answer.output.splitlines()
    assert lines[0].startswith(f"2 of 4 pairs accepted: {len(world.boxes)} cells kept, 0 dropped")
    assert "rejected: 2" in lines
    blank = next(line for line in lines if "blank.png to" in line)
    assert "texture: 0, wanted 15 landmarks; inliers: 0, wanted 15 or more" in blank
    assert f"review: {world.root / 'out' / 'review.html'}" in lines
    assert lines[-1] == RESEARCH_USE


def test_labels_attributes_and_patches_come_back(done: tuple[World, Result]) -> None:
    world, _ = done
    before = yolo_set.read(world.sources).require_clean()
    after = yolo_set.read(world.root / "out").require_clean()
    assert after.classes == CLASSES
    assert after.attributes == SCHEMA
    assert [each.image.name for each in after.images] == ["good.png", "empty.png"]
    source = next(each for each in before.images if each.image.stem == "good")
    good, empty = after.images
    assert good.split == "train"
    assert empty.split == "test"
    assert np.array_equal(good.class_ids, source.class_ids)
    assert np.array_equal(good.attributes, source.attributes)
    assert (good.attributes == MISSING).any()
    assert len(good) == len(world.boxes) > 5
    assert len(empty) == 0
    assert good.image.read_bytes() == (world.targets / "good.png").read_bytes()
    # Known optics: 0.12 and 0.28 µm a pixel, 2 µm apart in both directions.
    side = np.array(TARGET) * 0.28
    shift = np.array([64.0 - 62.0, 54.0 - 56.0])
    field = np.array(SOURCE) * 0.12
    expected = ((source.boxes_xywhn[:, :2] - 0.5) * field + shift) / side + 0.5
    off_px = np.abs(good.boxes_xywhn[:, :2] - expected) * np.array(TARGET)
    assert off_px.max() < 2
    assert good.patch_xyxyn is not None
    assert empty.patch_xyxyn is not None
    corners = ((np.array([[0, 0], [1, 1]]) - 0.5) * field + shift) / side + 0.5
    assert np.array(good.patch_xyxyn) == pytest.approx(corners.ravel(), abs=0.02)
    # The source's own patch bounds that of its target.
    widths = [patch[2] - patch[0] for patch in (empty.patch_xyxyn, good.patch_xyxyn)]
    assert widths[0] / widths[1] == pytest.approx(0.85, abs=0.03)


def test_rows_have_five_columns_and_sidecars_name_everything(done: tuple[World, Result]) -> None:
    world, _ = done
    out = world.root / "out"
    rows, bad = parse_label_file(out / "labels" / "train" / "good.txt", class_count=3)
    assert not bad
    sidecar = json.loads((out / "transfer" / "train" / "good.json").read_text())
    assert sidecar["research_use"] == RESEARCH_USE
    assert (sidecar["source"], sidecar["target"]) == ("images/train/good.png", "good.png")
    assert len(sidecar["homography"]) == 3
    source = next(each for each in yolo_set.read(world.sources).images if each.image.stem == "good")
    for i, cell in enumerate(sidecar["cells"]):
        assert cell["kept"]
        assert cell["class"] == CLASSES[source.class_ids[i]] == CLASSES[rows[i][0]]
        expected = {
            attribute.name: attribute.values[value] if value >= 0 else None
            for attribute, value in zip(SCHEMA.attributes, source.attributes[i], strict=True)
        }
        assert cell["attributes"] == expected
    assert any(cell["centre_in_patch"] for cell in sidecar["cells"])
    values = read_attributes(out / "images" / "train" / "good.png", SCHEMA)
    assert np.array_equal(values, source.attributes)
    document = yaml.safe_load((out / "data.yaml").read_text())
    assert document["train"] == "images/train"
    assert document[DATA_KEY]["attributes"]["name"] == "drawn"


def test_rejected_pairs_leave_no_labels_and_stand_first_in_the_review(
    done: tuple[World, Result],
) -> None:
    world, _ = done
    out = world.root / "out"
    for name in ("blank", "mirrored"):
        assert not list(out.glob(f"*/*/{name}.*"))
    page = (out / "review.html").read_text()
    assert RESEARCH_USE in page
    order = re.findall(r'<section class="(\w+)" id="pair-(\d)"', page)
    assert [state for state, _ in order] == ["rejected", "rejected", "accepted", "accepted"]
    assert "texture: 0, wanted 15 landmarks" in page
    assert page.count("check by hand") >= 2
    for number in range(1, 5):
        assert f'src="review/{number:05d}.jpg"' in page
        assert (out / "review" / f"{number:05d}.jpg").stat().st_size > 1000


def test_transfer_json_holds_every_number(done: tuple[World, Result]) -> None:
    world, _ = done
    document = json.loads((world.root / "out" / "transfer.json").read_text())
    assert (document["accepted"], document["rejected"]) == (2, 2)
    assert document["cells"] == len(world.boxes)
    assert document["limits"]["least_inliers"] == 15
    by_source = {Path(pair["source"]).stem: pair for pair in document["pairs"]}
    good = by_source["good"]
    assert {check["name"] for check in good["checks"]} == {
        "texture", "inliers", "inlier ratio", "quadrants", "orientation", "scale", "anisotropy",
        "corners convex", "corners inside", "round trip", "both ways", "correlation",
        "purple in boxes",
    }  # fmt: skip
    assert all(check["passed"] for check in good["checks"])
    assert good["reasons"] == []
    assert not by_source["mirrored"]["accepted"]
    assert by_source["blank"]["registration"]["homography"] is None
    empty = {check["name"] for check in by_source["empty"]["checks"]}
    assert "purple in boxes" not in empty


def test_two_runs_write_the_same_bytes(done: tuple[World, Result]) -> None:
    world, _ = done
    world.run("again")

    def contents(out: Path) -> dict[str, bytes]:
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file() and path.name != "data.yaml"
        }

    one, other = contents(world.root / "out"), contents(world.root / "again")
    assert one == other
    assert len(one) > 10


def test_a_transferred_set_can_be_a_source_again(done: tuple[World, Result]) -> None:
    world, _ = done
    answer = call(
        "--from", world.root / "out", "--to", world.targets, "--out", world.root / "further",
        "--expected-scale", "1",
    )  # fmt: skip
    assert answer.output.startswith("2 of 2 pairs accepted"), answer.output
    first = yolo_set.read(world.root / "out").images[0]
    second = yolo_set.read(world.root / "further").images[0]
    assert np.array_equal(first.attributes, second.attributes)
    assert second.boxes_xywhn == pytest.approx(first.boxes_xywhn, abs=0.002)
    assert first.patch_xyxyn is not None
    assert second.patch_xyxyn is not None
    assert second.patch_xyxyn == pytest.approx(first.patch_xyxyn, abs=0.002)


def test_pairs_from_a_file_through_a_chain(world: World, see: See) -> None:
    (world.root / "between").mkdir()
    between, _, _ = see((480, 400), 0.2, (63.0, 55.0), seed=30, blur_um=0.2)
    write_image(world.root / "between" / "mid.png", between)
    (world.targets / "good.png").rename(world.targets / "other.png")
    pairs = world.pairs_file("source,target,chain\ngood.png,other.png,mid.png\n")
    answer = world.run(
        "out", "--chain", world.root / "between", "--chain-scale", "0.6", pairs=pairs
    )
    assert answer.output.startswith("1 of 1 pairs accepted"), answer.output
    (entry,) = json.loads((world.root / "out" / "transfer.json").read_text())["pairs"]
    assert entry["chain"] == "mid.png"
    assert len(entry["legs"]) == 2
    assert (world.root / "out" / "labels" / "train" / "other.txt").is_file()


def test_when_all_are_rejected_the_review_is_written_all_the_same(world: World) -> None:
    pairs = world.pairs_file("source,target\ngood,blank\nblank,mirrored\n")
    answer = world.run(pairs=pairs)
    assert answer.exit_code == 0
    assert "0 of 2 pairs accepted" in answer.output
    assert "every pair was rejected; no labels were written" in answer.output
    out = world.root / "out"
    assert "No pair was accepted" in (out / "review.html").read_text()
    assert not (out / "labels").exists()


def test_boxes_drawn_by_hand_are_compared(world: World) -> None:
    pairs = world.pairs_file("source,target\ngood,good\n")
    world.run("first", pairs=pairs)
    hand = world.root / "hand"
    hand.mkdir()
    text = (world.root / "first" / "labels" / "train" / "good.txt").read_text()
    (hand / "good.txt").write_text(text)
    answer = world.run("out", "--hand", hand, pairs=pairs)
    figures = json.loads((world.root / "out" / "transfer.json").read_text())["hand"]
    assert figures["recall"] == 1
    assert figures["median_centre_error_px"] == pytest.approx(0, abs=0.01)
    # Only hand boxes in the patch count: elsewhere nobody claims that all cells are labelled.
    assert 0 < figures["hand_boxes"] <= len(world.boxes)
    assert "recall at IoU 0.5 1.000, median centre error 0.00 px" in answer.output
    assert "drawn by hand on 1 pictures" in (world.root / "out" / "review.html").read_text()
    (hand / "nobody.txt").write_text("")
    with pytest.raises(DataError, match=r"nobody\.txt: no target picture of this name"):
        world.run("third", "--hand", hand, pairs=pairs)


def test_the_seed_draws_the_sample(done: tuple[World, Result]) -> None:
    world, _ = done
    drawn = set()
    pairs_file = world.pairs_file("source,target\ngood,good\nempty,empty\n")
    for seed in range(4):
        out = f"seed{seed}"
        world.run(out, "--seed", str(seed), "--sample", "1", pairs=pairs_file)
        pairs = json.loads((world.root / out / "transfer.json").read_text())["pairs"]
        chosen = [pair["source"] for pair in pairs if pair["check_by_hand"]]
        assert len(chosen) == 1
        drawn.update(chosen)
    assert len(drawn) == 2


def test_names_are_escaped_in_the_page(world: World) -> None:
    name = "<b onload=x>.png"
    (world.targets / "good.png").rename(world.targets / name)
    world.run(pairs=world.pairs_file(f"source,target\ngood,{name}\n"))
    page = (world.root / "out" / "review.html").read_text()
    assert "<b onload" not in page
    assert "&lt;b onload=x&gt;.png" in page


# --- what is refused -----------------------------------------------------------------------


def _nothing_written(world: World) -> bool:
    return not (world.root / "out").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n", r"pairs\.csv:1: expected the columns source,target"),
        ("source,target\n", r"pairs\.csv: no pair in it"),
        ("source,target\ngood\n", r"pairs\.csv:2: expected source,target, got 'good'"),
        ("source,target\ngood,\n", r"pairs\.csv:2: expected source,target"),
        ("source,target\nnobody,good\n", r"pairs\.csv:2: 'nobody': no such picture in .*from"),
        ("source,target\n\ngood,nobody\n", r"pairs\.csv:3: 'nobody': no such picture in .*to"),
        (
            "source,target\ngood,good\nempty,good\n",
            r"pairs\.csv:3: target good\.png has a source already, good\.png",
        ),
        ("source,target,chain\ngood,good,x\n", r"a column chain without --chain"),
    ],
)
def test_a_bad_pairs_file_is_one_line(world: World, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why) as told:
        world.run(pairs=world.pairs_file(text))
    assert "\n" not in str(told.value)
    assert _nothing_written(world)


def test_a_missing_pair_or_file_is_one_line(world: World) -> None:
    (world.targets / "good.png").unlink()
    with pytest.raises(DataError, match=r"no picture named like good\.png; add it, or list"):
        world.run()
    with pytest.raises(DataError, match=r"none\.csv: pairs cannot be read: No such file"):
        world.run(pairs=world.root / "none.csv")
    (world.root / "pairs.csv").write_bytes(b"source,target\n\xff,\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        world.run(pairs=world.root / "pairs.csv")
    assert _nothing_written(world)


def test_two_pictures_of_one_name_are_told_apart_by_path(world: World) -> None:
    (world.targets / "more").mkdir()
    for name in ("good", "blank"):
        twin = world.targets / "more" / f"{name}.png"
        twin.write_bytes((world.targets / f"{name}.png").read_bytes())
    with pytest.raises(DataError, match=r"2 pictures of this name in .*; give the path below it"):
        world.run(pairs=world.pairs_file("source,target\ngood,good\n"))
    answer = world.run(pairs=world.pairs_file("source,target\ngood,more/good.png\n"))
    assert answer.output.startswith("1 of 1 pairs accepted")
    with pytest.raises(DataError, match=r"same name as .*; they would share one label file"):
        world.run(
            "other",
            pairs=world.pairs_file("source,target\ngood,more/blank.png\nblank,./blank.png\n"),
        )


@pytest.mark.parametrize("where", ["to", "from/images/train"])
def test_an_unreadable_picture_is_one_line_before_anything_is_written(
    world: World, where: str
) -> None:
    (world.root / where / "mirrored.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mirrored\.png: not an image in a known format"):
        world.run()
    assert _nothing_written(world)


def test_empty_and_bad_source_labels_are_one_line(world: World) -> None:
    labels = world.sources / "labels" / "train"
    (labels / "good.txt").write_text("0 0.5 0.5 0.2\n")
    with pytest.raises(DataError, match=r"good\.txt:1: 4 columns, expected 5"):
        world.run()
    for label in world.sources.glob("labels/*/*.txt"):
        label.write_text("")
    for sidecar in world.sources.glob("attributes/*/*.npy"):
        sidecar.unlink()
    with pytest.raises(DataError, match="no labelled cell in it; nothing to transfer"):
        world.run()
    assert _nothing_written(world)


def test_a_sidecar_with_other_rows_is_one_line(world: World) -> None:
    label = world.sources / "labels" / "train" / "good.txt"
    label.write_text(label.read_text() + "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"good\.npy:1: \d+ rows for \d+ cells"):
        world.run()
    attribute_file(world.sources / "images" / "train" / "good.png").unlink()
    with pytest.raises(DataError, match=r"good\.npy: no such file"):
        world.run()


def test_another_folder_is_one_line(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        call("--from", tmp_path / "none", "--to", world.targets, "--out", tmp_path / "out")
    with pytest.raises(DataError, match="expected images and labels folders"):
        call("--from", world.targets, "--to", world.targets, "--out", tmp_path / "out")
    with pytest.raises(DataError, match="no such folder; name one with pictures"):
        call("--from", world.sources, "--to", tmp_path / "none", "--out", tmp_path / "out")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no picture in it"):
        call("--from", world.sources, "--to", tmp_path / "void", "--out", tmp_path / "out")
    with pytest.raises(SettingsError, match="data set 'x': unknown"):
        world.run("out", "--dataset", "x")
    (world.sources / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no data\.yaml with the names of its classes"):
        world.run()


def test_a_bad_schema_is_one_line(world: World) -> None:
    file = world.sources / "data.yaml"
    document = yaml.safe_load(file.read_text())
    document[DATA_KEY] = {"attributes": {"name": "x"}}
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(DataError, match=r"data\.yaml: attridet: needs attributes with the schema"):
        world.run()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--expected-scale", "0"), "--expected-scale 0: pixels per source pixel"),
        (("--expected-scale", "nan"), "--expected-scale nan"),
        (("--chain-scale", "0.4"), "--chain-scale: of no folder"),
        (("--chain", "to"), "--chain: give both --expected-scale and --chain-scale, or neither"),
        (("--corner-margin", "-0.1"), "--corner-margin -0.1: a share, 0 to 1"),
    ],
)
def test_a_bad_setting_is_one_line(world: World, more: tuple[str, ...], why: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(why)):
        world.run("out", *more)
    assert _nothing_written(world)


def test_nothing_in_the_out_folder_is_ever_replaced(world: World) -> None:
    out = world.root / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(StoreError, match=r"holds mine\.txt; choose an empty or new folder"):
        world.run()
    assert (out / "mine.txt").read_text() == "keep"
    with pytest.raises(StoreError, match="holds attributes"):
        world.run("from")
    (world.root / "file").write_text("")
    with pytest.raises(StoreError, match="file is in the way"):
        world.run("file")


def test_a_folder_that_cannot_be_written_is_one_line(world: World) -> None:
    # A file where a parent folder should be: fails for every user, also for root.
    (world.root / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        world.run("file/out")


# --- other layouts -------------------------------------------------------------------------


def test_a_published_set_as_source(world: World) -> None:
    root = world.root / "published"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    picture = world.sources / "images" / "train" / "good.png"
    (root / "images" / "train" / "good.png").write_bytes(picture.read_bytes())
    rows = [f"2 {cx:.6f} {cy:.6f} {w:.6f} {h:.6f} 1 0 2 1 0 1\n" for cx, cy, w, h in world.boxes]
    (root / "labels" / "train" / "good.txt").write_text("".join(rows))
    answer = call(
        "--from", root, "--dataset", "leukemia-attri", "--to", world.targets,
        "--expected-scale", str(SCALE), "--out", world.root / "out",
    )  # fmt: skip
    assert answer.output.startswith("1 of 1 pairs accepted"), answer.output
    (good,) = yolo_set.read(world.root / "out").images
    assert good.attributes.tolist() == [[1, 0, MISSING, 1, 0, 1]] * len(world.boxes)
    with pytest.raises(DataError, match=r"no data\.yaml"):
        call("--from", root, "--to", world.targets, "--out", world.root / "more")


def test_centres_alone_are_not_enough(world: World) -> None:
    root = world.root / "idb"
    for kind in ("im", "xyc"):
        (root / kind).mkdir(parents=True)
    picture = world.sources / "images" / "train" / "good.png"
    (root / "im" / "Im001_1.png").write_bytes(picture.read_bytes())
    (root / "xyc" / "Im001_1.xyc").write_text("100 100\n")
    with pytest.raises(DataError, match="only the cells' centres are labelled"):
        call(
            "--from", root, "--dataset", "all-idb1", "--to", world.targets,
            "--out", world.root / "out",
        )  # fmt: skip


def test_pictures_without_a_split_lie_in_the_folder_itself(world: World) -> None:
    for kind in ("images", "labels", "attributes"):
        for path in (world.sources / kind / "train").glob("good.*"):
            path.rename(world.sources / kind / path.name)
    answer = world.run(pairs=world.pairs_file("source,target\nimages/good.png,good\n"))
    assert answer.output.startswith("1 of 1 pairs accepted"), answer.output
    out = world.root / "out"
    assert (out / "labels" / "good.txt").is_file()
    (good,) = yolo_set.read(out).images
    assert good.split == "all"
    assert good.patch_xyxyn is not None


@pytest.mark.realdata
def test_a_real_set_onto_its_reduced_self(shared_data: Path, tmp_path: Path) -> None:
    from edge_runtime.image_file import read_image
    from train.datasets.landmarks import shrunk

    root = shared_data / "wbc-domains" / "bccd"
    images = sorted((root / "images" / "test").iterdir())[:3]
    (tmp_path / "to").mkdir()
    for image in images:
        write_image(tmp_path / "to" / f"{image.stem}.png", shrunk(read_image(image), 0.4))
    pairs = tmp_path / "pairs.csv"
    rows = "".join(f"{each.stem},{each.stem}.png\n" for each in images)
    pairs.write_text(f"source,target\n{rows}")
    answer = call(
        "--from", root, "--to", tmp_path / "to", "--pairs", pairs, "--expected-scale", "0.4",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.output.startswith("3 of 3 pairs accepted"), answer.output
    for image in images:
        before, _ = parse_label_file(root / "labels" / "test" / f"{image.stem}.txt", class_count=3)
        after, _ = parse_label_file(
            tmp_path / "out" / "labels" / "test" / f"{image.stem}.txt", class_count=3
        )
        assert [name for name, _ in after] == [name for name, _ in before]
        off = np.array([box for _, box in after]) - np.array([box for _, box in before])
        assert np.abs(off).max() < 0.02
