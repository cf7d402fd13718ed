"""Two stages end to end, and adaptation to a tenth of another laboratory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.classification_metrics import NO_ANSWER
from calibration.labelled_cells import open_cells
from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.preprocess import crop_tensor
from edge_runtime.types import Detections
from tests.support import paint_field, write_image
from tests.train.drawn_cells import CLASSES, write_cells_folder, write_pcm_folder

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from tests.train.test_classify import PHASE, recipe_for  # noqa: E402
from train.binary_detector import load_binary_recipe  # noqa: E402
from train.classify import judge, load_classify_recipe, train_classifier  # noqa: E402
from train.datasets.cell_sources import CellSourceSpec  # noqa: E402
from train.datasets.schemas import load_spec  # noqa: E402
from train.models.cell_classifier import load_classifier, load_weights  # noqa: E402
from train.two_stage import (  # noqa: E402
    AdaptationRecipe,
    adapt,
    draw_index,
    fixed_index,
    judge_end_to_end,
    judge_two_stage,
    load_adaptation_recipe,
    target_pictures,
)

pytestmark = pytest.mark.train

CODES = ("NGS", "LYT", "MOB", "KSC")
PCM = load_spec("pcm-leukemia").mapping("cells").classes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn cells of two sets below one root, and a classifier of the first."""
    root = tmp_path_factory.mktemp("data")
    write_cells_folder(root, train=16)
    write_pcm_folder(root)
    for place, code in enumerate(CODES):
        (root / "lmu" / code).mkdir(parents=True)
        for number in range(10):
            field = paint_field(48, 48, [(24, 24, (30, 14)[place % 2])], seed=100 + number)
            write_image(root / "lmu" / code / f"{number}.png", field)
    train_classifier(recipe_for(root, phases=[{"epochs": 25, "lr": 0.006}]), root / "run")
    return root


def pcm_recipe(root: Path) -> Any:
    source = {
        "dataset": "pcm-leukemia", "path": "pcm-leukemia", "mapping": "cells",
        "validation": "random",
    }  # fmt: skip
    return recipe_for(root, classes=PCM, sources=[source], phases=[PHASE])


def truth_of(root: Path) -> dict[bytes, np.ndarray]:
    """Labelled boxes by the picture's pixels."""
    cells = open_cells(root / "run" / "cells.json", root)
    found = {}
    for picture in cells.cells.pictures:
        pixels = picture.read(root)
        found[pixels.tobytes()] = picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])
    return found


def test_perfect_finds_give_the_figures_of_labelled_boxes(data: Path, tmp_path: Path) -> None:
    known = truth_of(data)

    def find(pixels: np.ndarray) -> Detections:
        boxes = known[pixels.tobytes()]
        ones = np.ones(len(boxes), np.float32)
        return Detections(boxes, ones, np.zeros(len(boxes), np.int64))

    labelled, whole = judge_two_stage(data / "run", find, "test", tmp_path)
    assert (whole.found, whole.false_finds) == (4, 0)
    assert whole.metrics.confusion == labelled.confusion
    assert whole.metrics.ece == pytest.approx(labelled.ece, abs=1e-4)
    assert labelled.accuracy == 1.0
    document = json.loads((tmp_path / "two-stage.json").read_text())
    assert document["end_to_end"] == document["labelled_boxes"]
    assert document["found"] == document["cells"] == 4
    for folder in ("labelled-boxes", "end-to-end"):
        assert (tmp_path / folder / "confusion.png").stat().st_size > 1000


def test_a_missed_cell_is_wrong_and_a_second_find_is_false(data: Path, tmp_path: Path) -> None:
    known = truth_of(data)
    calls = Counter[str]()

    def find(pixels: np.ndarray) -> Detections:
        calls["all"] += 1
        (box,) = known[pixels.tobytes()]
        if calls["all"] == 1:
            return Detections.empty()
        if calls["all"] == 2:  # overlaps by less than half
            boxes = np.array([box + 0.6 * (box[2] - box[0]) * np.array([1, 0, 1, 0], np.float32)])
        else:
            boxes = np.array([box, box])
        count = len(boxes)
        scores = np.linspace(0.9, 0.8, count).astype(np.float32)
        return Detections(boxes.astype(np.float32), scores, np.zeros(count, np.int64))

    labelled, whole = judge_two_stage(data / "run", find, "test", tmp_path)
    assert labelled.accuracy == 1.0
    assert (whole.found, whole.false_finds) == (2, 3)
    assert (whole.metrics.unanswered, whole.metrics.accuracy) == (2, 0.5)
    assert sum(row[-1] for row in whole.metrics.confusion) == 2
    # Each class has lost one of its two cells.
    assert [each.recall for each in whole.metrics.classes] == [0.5, 0.5]
    assert NO_ANSWER == -1


def test_end_to_end_without_pictures_is_refused(data: Path) -> None:
    checkpoint, network = load_classifier(data / "run" / "classifier.pt")
    with pytest.raises(DataError, match="no labelled cell"):
        judge_end_to_end(
            network, (), data, CLASSES, checkpoint.input, lambda pixels: Detections.empty()
        )


def test_crops_are_the_box_and_fifty_pixels_of_the_picture() -> None:
    spec = load_classify_recipe("pcm-resnet50").input
    assert (spec.width, spec.height, spec.margin, spec.margin_px) == (224, 224, 0.0, 50.0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (1080, 1920, 3), np.uint8)
    exact = CropInputSpec(**{**spec.model_dump(), "width": 220, "height": 220})
    # In the middle: the picture's own pixels.
    (crop,) = crop_tensor(pixels, np.array([[400, 500, 520, 620]], np.float32), exact)
    taken = (crop * 255).round().transpose(1, 2, 0)
    assert (taken == pixels[450:670, 350:570]).all()
    # In a corner: pixels as far as there are any, then the pad.
    (crop,) = crop_tensor(pixels, np.array([[0, 0, 120, 120]], np.float32), exact)
    taken = (crop * 255).round().transpose(1, 2, 0)
    assert (taken[50:, 50:] == pixels[:170, :170]).all()
    assert (taken[:50] == spec.pad_value).all()
    assert (taken[:, :50] == spec.pad_value).all()
    (crop,) = crop_tensor(pixels, np.array([[1800, 960, 1920, 1080]], np.float32), exact)
    taken = (crop * 255).round().transpose(1, 2, 0)
    assert (taken[:170, :170] == pixels[910:, 1750:]).all()
    assert (taken[170:] == spec.pad_value).all()


def test_the_draw_is_disjoint_complete_and_hangs_on_the_seed_alone() -> None:
    files = [f"{number}.png" for number in range(100)]
    one, again, other = (
        draw_index(files, share=0.1, seed=0),
        draw_index(files[::-1], share=0.1, seed=0),
        draw_index(files, share=0.1, seed=1),
    )
    assert (len(one.adapt), len(one.test)) == (10, 90)
    assert not set(one.adapt) & set(one.test)
    assert {*one.adapt, *one.test} == set(files)
    assert one == again
    assert set(one.adapt) != set(other.adapt)
    with pytest.raises(DataError, match="leaves one side empty"):
        draw_index(files[:3], share=0.1, seed=0)


def test_an_index_once_written_is_kept(tmp_path: Path) -> None:
    files = [f"{number}.png" for number in range(20)]
    file = tmp_path / "index-0.json"
    drawn = fixed_index(file, files, share=0.1, seed=0)
    # Whatever a later release would draw: the file decides.
    swapped = drawn.model_copy(
        update={"adapt": drawn.test[:2], "test": drawn.adapt + drawn.test[2:]}
    )
    file.write_text(swapped.model_dump_json())
    assert fixed_index(file, files, share=0.1, seed=0) == swapped
    with pytest.raises(DataError, match="not of these 19 pictures"):
        fixed_index(file, files[1:], share=0.1, seed=0)
    with pytest.raises(DataError, match="the recipe says"):
        fixed_index(file, files, share=0.2, seed=0)
    twice = drawn.model_copy(update={"test": (*drawn.test, drawn.adapt[0])})
    file.write_text(twice.model_dump_json())
    with pytest.raises(DataError, match="not of these 20 pictures"):
        fixed_index(file, files, share=0.1, seed=0)
    file.write_text("[]")
    with pytest.raises(DataError, match="not an index"):
        fixed_index(file, files, share=0.1, seed=0)


def adaptation(root: Path, **changes: Any) -> AdaptationRecipe:
    document: dict[str, Any] = {
        "name": "to-lmu", "purpose": "test", "data_root": str(root), "share": 0.2,
        "target": {"dataset": "lmu", "path": "lmu", "mapping": "A"}, "seeds": [0, 1],
        "phases": [{"epochs": 2, "lr": 0.004}], "batch": 4,
    }  # fmt: skip
    return AdaptationRecipe.model_validate({**document, **changes})


def test_both_mappings_are_total_and_variant_b_has_more(data: Path) -> None:
    spec = load_spec("lmu")
    assert all(set(spec.mapping(name).of) == set(spec.classes) for name in ("A", "B"))
    assert len(spec.classes) == 15
    counts = {}
    for name in ("A", "B"):
        target = {"dataset": "lmu", "path": "lmu", "mapping": name}
        pictures = target_pictures(adaptation(data, target=target), PCM)
        counts[name] = Counter(PCM[cell.class_id] for each in pictures for cell in each.cells)
    assert counts["A"] == {"Neutrophil": 10, "Lymphocyte": 10}
    assert counts["B"] == {"Neutrophil": 10, "Lymphocyte": 10, "Myeloblast_AML": 10}


def test_sequential_adaptation_trains_on_and_is_measured_on_the_rest(
    data: Path, tmp_path: Path
) -> None:
    base = train_classifier(pcm_recipe(data), tmp_path / "base")
    result = adapt(adaptation(data), tmp_path / "base", tmp_path / "out")
    assert result["zero_shot_all"]["cells"] == 20
    for seed in ("0", "1"):
        index = json.loads((tmp_path / "out" / f"index-{seed}.json").read_text())
        cells = open_cells(tmp_path / "out" / f"seed-{seed}" / "cells.json", data).cells
        assert [each.file for each in cells.of_split("train")] == index["adapt"]
        assert not cells.of_split("val")
        assert not cells.of_split("test")
        row = result["seeds"][seed]
        assert (row["learnt_from"], row["held_back"]) == (4, 16)
        assert row["zero_shot"]["cells"] == row["adapted"]["cells"] == 16
        # Two of eight classes occur: the stricter mean is a quarter at best.
        assert row["adapted"]["macro_f1_all"] <= 0.25
        assert row["adapted"]["macro_f1"] == pytest.approx(4 * row["adapted"]["macro_f1_all"])
        # The figures are those of the checkpoint on the pictures held back.
        checkpoint, network = load_classifier(tmp_path / "out" / f"seed-{seed}" / "classifier.pt")
        held = tuple(
            each for each in target_pictures(adaptation(data), PCM) if each.file in index["test"]
        )
        again = judge(network, held, data, checkpoint.input)
        assert row["adapted"]["accuracy"] == pytest.approx(again.accuracy)
        assert not torch.equal(
            load_weights(base)["state"]["fc.weight"],
            load_weights(tmp_path / "out" / f"seed-{seed}" / "classifier.pt")["state"]["fc.weight"],
        )
    means = [result["seeds"][seed]["adapted"]["accuracy"] for seed in ("0", "1")]
    assert result["over_seeds"]["adapted"]["accuracy"]["mean"] == pytest.approx(np.mean(means))
    assert (tmp_path / "out" / "seed-0" / "held-back" / "confusion.png").is_file()
    with pytest.raises(SettingsError, match="holds a run already"):
        adapt(adaptation(data), tmp_path / "base", tmp_path / "out")


def test_joint_adaptation_mixes_and_never_learns_from_the_rest(data: Path, tmp_path: Path) -> None:
    train_classifier(pcm_recipe(data), tmp_path / "b")
    base_files = {
        each.file
        for each in open_cells(tmp_path / "b" / "cells.json", data).cells.pictures
        if each.split != "test"
    }
    recipe = adaptation(data, mode="joint", seeds=[3])
    result = adapt(recipe, tmp_path / "b", tmp_path / "out")
    cells = open_cells(tmp_path / "out" / "seed-3" / "cells.json", data).cells
    index = json.loads((tmp_path / "out" / "index-3.json").read_text())
    files = [each.file for each in cells.of_split("train")]
    assert set(index["adapt"]) <= set(files)
    assert {each.file for each in cells.pictures} == base_files | set(index["adapt"])
    assert not {each.file for each in cells.pictures} & set(index["test"])
    assert {each.split for each in cells.pictures if each.file in base_files} == {"train", "val"}
    assert result["over_seeds"]["adapted"]["accuracy"]["deviation"] is None


def test_what_cannot_be_adapted(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classifier\.pt: No such file"):
        adapt(adaptation(data), tmp_path, tmp_path / "out")
    source = {"dataset": "lmu", "path": "lmu", "mapping": "A", "validation": "random"}
    seen = pcm_recipe(data).model_copy(update={"sources": (CellSourceSpec.model_validate(source),)})
    train_classifier(seen, tmp_path / "seen")
    with pytest.raises(DataError, match="was trained on 20 of the target's pictures"):
        adapt(adaptation(data), tmp_path / "seen", tmp_path / "out")
    # The drawn classifier knows none of the target's classes.
    with pytest.raises(DataError, match="no cell of neutrophil, lymphocyte"):
        adapt(adaptation(data), data / "run", tmp_path / "out")


def test_the_papers_recipes() -> None:
    direct, probe, resnet = (
        load_classify_recipe(f"pcm-{name}")
        for name in ("dinobloom-b-direct-ft", "dinobloom-b-lp-ft", "resnet50")
    )
    assert [each.epochs for each in probe.phases] == [10, 50]
    assert [each.frozen_backbone for each in probe.phases] == [True, False]
    assert (probe.phases[0].lr, probe.phases[1].lr, probe.phases[1].backbone_lr) == (
        1e-3,
        1e-4,
        1e-5,
    )
    assert [each.epochs for each in direct.phases] == [60]
    assert (resnet.phases[0].optimizer, resnet.phases[0].epochs) == ("sgd", 100)
    assert probe.classes == direct.classes == resnet.classes == PCM
    assert load_binary_recipe("pcm-binary-detector").optimizer == "SGD"
    assert load_adaptation_recipe("pcm-lmu-adaptation").seeds == (0, 1, 2)
    with pytest.raises(SettingsError, match="not an adaptation's recipe"):
        load_adaptation_recipe("pcm-resnet50")
    with pytest.raises(SettingsError, match="not a first-stage detector's recipe"):
        load_binary_recipe("pcm-resnet50")
