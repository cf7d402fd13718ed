from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.fields import parse_label_file
from edge_runtime.errors import DataError, StoreError
from edge_runtime.virtual_film import FilmSpec, VirtualFilm
from train.datasets.compose import compose_scene, open_sources, write_composed
from train.datasets.cutouts import cut_out, pbc_sources, wbc_mask_sources, whole_fields
from train.datasets.scene import window_without_cells
from train.preview import write_preview
from train.recipe import Recipe


def test_the_set_is_complete_reproducible_and_free_of_other_classes(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    one = write_composed(tiny_recipe, tmp_path / "one", workers=1)
    write_composed(tiny_recipe, tmp_path / "two", workers=2)
    images = sorted((tmp_path / "one/images/train").iterdir())
    assert len(images) == 24
    assert one.name == "data.yaml"
    for image in images:
        twin = tmp_path / "two/images/train" / image.name
        assert image.read_bytes() == twin.read_bytes()
        rows, bad = parse_label_file(
            tmp_path / "one/labels/train" / f"{image.stem}.txt", class_count=1
        )
        assert not bad
        assert len(rows) < 120
    # The real validation fields, whole, and four composed ones.
    assert len(list((tmp_path / "one/images/val").iterdir())) == 3 * 3 + 4
    record = json.loads((tmp_path / "one/compose.json").read_text())
    assert sum(record["pictures"].values()) == 24
    assert write_preview(tmp_path / "one").stat().st_size > 1000


def test_a_left_out_domain_is_nowhere(tiny_recipe: Recipe) -> None:
    sources = open_sources(tiny_recipe.without("hcm_pbc"), "train")
    assert set(sources.fields) == {"lcm_raabin", "bccd"}
    # pbc-extra comes from the same microscope and goes with it.
    assert set(sources.cutouts) == {"wbc_masks"}
    assert not any("pbc" in str(path) for path in sources.files())
    assert open_sources(tiny_recipe.without("virtual"), "train").film_seeds == []
    assert set(open_sources(tiny_recipe.without("wbc_masks"), "train").cutouts) == {"pbc_extra"}


def test_training_never_reads_validation_or_test_files(tiny_recipe: Recipe) -> None:
    train = set(open_sources(tiny_recipe, "train").files())
    val = set(open_sources(tiny_recipe, "val").files())
    assert not train & val
    assert not any("/test/" in str(path) for path in train | val)


def test_virtual_scenes_have_boxes_on_stained_cells(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = FilmSpec(size_um=(240, 180))
    build = VirtualFilm.build
    monkeypatch.setattr(VirtualFilm, "build", lambda seed: build(seed, small))
    sources = open_sources(tiny_recipe, "train")
    found = 0
    for seed in range(8):
        scene = compose_scene(sources, "virtual", 160, np.random.default_rng(seed))
        assert scene.pixels.shape == (160, 160, 3)
        found += len(scene.boxes_xyxy)
        assert (scene.boxes_xyxy >= 0).all()
        assert (scene.boxes_xyxy <= 160).all()
    assert found >= 6


def test_cut_outs_are_tight_and_masked(data_root: Path) -> None:
    for source in [
        *wbc_mask_sources(data_root / "wbc-masks", "train"),
        *pbc_sources(data_root / "pbc-extra"),
    ]:
        cutout = cut_out(source)
        assert cutout.pixels.shape[:2] == cutout.alpha.shape
        middle = cutout.alpha[20:29, 20:29]
        assert middle.min() > 0.95
        corners = cutout.alpha[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 0.5


def test_pictures_with_a_second_unboxed_cell_are_no_fields(data_root: Path) -> None:
    sources = pbc_sources(data_root / "pbc-extra")
    assert len(whole_fields(sources, domain="hcm_pbc")) == 4
    pixels = np.asarray(cv2.imread(str(sources[0].image)), np.uint8)
    x = 10 if sources[0].box_xyxy[0] > 60 else 120
    cv2.circle(pixels, (x + 15, 20), 15, (120, 40, 90), -1)
    spoiled = sources[0].image.with_name("spoiled.png")
    cv2.imwrite(str(spoiled), pixels)
    twin = type(sources[0])(spoiled, sources[0].box_xyxy, None)
    assert whole_fields([twin], domain="hcm_pbc") == []


def test_empty_pictures_hold_no_white_cell(tiny_recipe: Recipe) -> None:
    sources = open_sources(tiny_recipe, "train")
    for seed in range(12):
        scene = compose_scene(sources, "empty", 128, np.random.default_rng(seed))
        assert len(scene.boxes_xyxy) == 0
        assert scene.pixels.shape == (128, 128, 3)


def test_a_window_without_cells_avoids_every_cell() -> None:
    pixels = np.full((100, 100, 3), 220, np.uint8)
    pixels[30:60, 30:60] = 40
    boxes = np.array([[30, 30, 60, 60]], np.float32)
    for seed in range(40):
        window = window_without_cells(pixels, boxes, rng=np.random.default_rng(seed))
        assert window is None or window.min() == 220
    full = np.array([[0, 0, 100, 100]], np.float32)
    assert window_without_cells(pixels, full, rng=np.random.default_rng(0)) is None


def test_missing_data_is_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    nowhere = tiny_recipe.model_copy(update={"data_root": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match="no such folder"):
        open_sources(nowhere, "train")


def test_a_folder_with_something_else_in_it_is_left_alone(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(StoreError, match=r"holds thesis\.txt; choose an empty or new folder"):
        write_composed(tiny_recipe, tmp_path)
    assert (tmp_path / "thesis.txt").exists()
