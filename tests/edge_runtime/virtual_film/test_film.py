"""The film: same seed same pixels, and the truth lies where the stain lies."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_runtime.virtual_film import (
    ARTEFACT_CLASSES,
    WHITE_CELL_CLASSES,
    FilmCell,
    FilmSpec,
    Stain,
    VirtualFilm,
    draw_stain,
)


def _pixels(film: VirtualFilm, box_um: tuple[float, float, float, float]) -> np.ndarray:
    """Raster pixels of a box in µm, clipped to the film, as float ``(n, 3)``."""
    x1, y1, x2, y2 = (round(v / film.pixel_size_um) for v in box_um)
    return film.raster[max(y1, 0) : y2, max(x1, 0) : x2].reshape(-1, 3).astype(np.float64)


def _core(cell: FilmCell) -> tuple[float, float, float, float]:
    """The middle half of a cell's box, where its nucleus is."""
    x, y = cell.centre_um
    x1, y1, x2, y2 = cell.box_um_xyxy
    half_w, half_h = (x2 - x1) / 4, (y2 - y1) / 4
    return (x - half_w, y - half_h, x + half_w, y + half_h)


def test_same_seed_same_film(film: VirtualFilm, small_spec: FilmSpec) -> None:
    again = VirtualFilm.build(3, small_spec)
    assert np.array_equal(film.raster, again.raster)
    assert film.cells == again.cells
    assert np.array_equal(film.red_cells_um, again.red_cells_um)


def test_other_seed_other_film(film: VirtualFilm, small_spec: FilmSpec) -> None:
    other = VirtualFilm.build(4, replace(small_spec, size_um=(100.0, 80.0)))
    assert other.stain != film.stain
    assert {c.box_um_xyxy for c in other.cells}.isdisjoint({c.box_um_xyxy for c in film.cells})


def test_raster_has_the_size_asked_for(film: VirtualFilm) -> None:
    assert film.raster.dtype == np.uint8
    assert film.raster.shape == (1500, 2000, 3)
    assert film.size_um == pytest.approx((240.0, 180.0))


def test_every_class_occurs_and_only_white_cells_are_called_so(film: VirtualFilm) -> None:
    found = {cell.class_name for cell in film.cells}
    assert found == set(WHITE_CELL_CLASSES) | set(ARTEFACT_CLASSES)
    for cell in film.cells:
        assert cell.is_white_cell == (cell.class_name in WHITE_CELL_CLASSES)


def test_ids_run_and_boxes_lie_on_the_film(film: VirtualFilm) -> None:
    width, height = film.size_um
    assert [cell.id for cell in film.cells] == list(range(len(film.cells)))
    for cell in film.cells:
        x1, y1, x2, y2 = cell.box_um_xyxy
        assert 0 <= x1 < x2 <= width + 1e-6
        assert 0 <= y1 < y2 <= height + 1e-6
        assert cell.centre_um == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2))


def test_white_cells_have_the_size_of_white_cells(film: VirtualFilm) -> None:
    for cell in film.cells:
        if cell.is_white_cell:
            x1, y1, x2, y2 = cell.box_um_xyxy
            assert 6.5 < (x2 - x1 + y2 - y1) / 2 < 24.0


def test_white_cell_boxes_enclose_stain(film: VirtualFilm) -> None:
    """Inside is darker than clear film, and its green, which nuclei absorb, is lowest."""
    background = np.asarray(film.stain.background_rgb)
    for cell in (c for c in film.cells if c.is_white_cell):
        light = _pixels(film, cell.box_um_xyxy).mean(axis=0) / background
        assert light.mean() < 0.9, cell
        core = _pixels(film, _core(cell)).mean(axis=0) / background
        # A neutrophil may have its nucleus aside, a basophil's granules hide colour.
        if cell.class_name in ("lymphocyte", "blast"):
            assert core[1] < 0.6, cell
            assert core[1] < min(core[0], core[2]), cell


def test_boxes_are_tight() -> None:
    """On a film with nothing else, all stain lies in a box and each side of a box touches it."""
    spec = FilmSpec(
        size_um=(200.0, 150.0),
        white_cells_per_mm2=400.0,
        red_cell_coverage=0.0,
        platelets_per_mm2=0.0,
        artefacts_per_mm2=0.0,
    )
    film = VirtualFilm.build(11, spec)
    assert film.cells
    assert all(cell.is_white_cell for cell in film.cells)
    dark = film.raster[:, :, 1] < 0.9 * film.stain.background_rgb[1]
    outside = dark.copy()
    margin = 4  # soft edges
    for cell in film.cells:
        x1, y1, x2, y2 = (round(v / film.pixel_size_um) for v in cell.box_um_xyxy)
        outside[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin] = False
        # 1 µm bands along each side of the box.
        band = round(1.0 / film.pixel_size_um)
        for side in (
            dark[y1 : y1 + band, x1:x2],
            dark[y2 - band : y2, x1:x2],
            dark[y1:y2, x1 : x1 + band],
            dark[y1:y2, x2 - band : x2],
        ):
            assert side.any(), cell
    assert not outside.any()


def test_white_cells_may_touch_but_never_hide_each_other(film: VirtualFilm) -> None:
    cells = [c for c in film.cells if c.is_white_cell]
    for k, one in enumerate(cells):
        for other in cells[k + 1 :]:
            a, b = one.box_um_xyxy, other.box_um_xyxy
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            smaller = min((v[2] - v[0]) * (v[3] - v[1]) for v in (a, b))
            assert max(0.0, width) * max(0.0, height) < 0.35 * smaller


def test_red_cells_cover_what_was_asked_for(small_spec: FilmSpec) -> None:
    spec = replace(small_spec, white_cells_per_mm2=20.0, artefacts_per_mm2=0.0)
    thin = VirtualFilm.build(5, replace(spec, red_cell_coverage=0.15))
    dense = VirtualFilm.build(5, replace(spec, red_cell_coverage=0.45))
    assert len(dense.red_cells_um) > 2 * len(thin.red_cells_um) > 0
    assert 6.5 < float(np.median(dense.red_cells_um[:, 2])) < 8.6
    area = np.pi / 4 * (dense.red_cells_um[:, 2] ** 2).sum()
    assert area / (240.0 * 180.0) == pytest.approx(0.45, abs=0.12)


def test_red_cells_keep_off_white_cells(film: VirtualFilm) -> None:
    for cell in (c for c in film.cells if c.is_white_cell):
        away = np.hypot(*(film.red_cells_um[:, :2] - cell.centre_um).T)
        assert away.min() > 4.0, cell


def test_overlapping_red_cells_are_darker_than_one(small_spec: FilmSpec) -> None:
    """Light is absorbed twice where two cells lie on each other."""
    spec = replace(
        small_spec,
        white_cells_per_mm2=0.0,
        artefacts_per_mm2=0.0,
        platelets_per_mm2=0.0,
        red_cell_coverage=0.5,
    )
    film = VirtualFilm.build(6, spec)
    depth = np.zeros(film.raster.shape[:2], np.uint8)
    for x, y, diameter in film.red_cells_um:
        # Well inside the cell, whatever its outline.
        radius, cx, cy = (round(v / film.pixel_size_um) for v in (0.42 * diameter, x, y))
        disc = np.zeros_like(depth)
        cv2.circle(disc, (cx, cy), radius, 1, -1)
        depth += disc
    green = film.raster[:, :, 1]
    assert (depth >= 2).sum() > 500
    assert green[depth == 2].mean() < green[depth == 1].mean() - 5


def test_blast_fraction_and_differential_are_kept() -> None:
    spec = FilmSpec(
        size_um=(260.0, 200.0),
        white_cells_per_mm2=1000.0,
        red_cell_coverage=0.0,
        platelets_per_mm2=0.0,
        artefacts_per_mm2=0.0,
        differential={"monocyte": 2.0},
        blast_fraction=0.5,
    )
    classes = [cell.class_name for cell in VirtualFilm.build(1, spec).cells]
    assert set(classes) == {"blast", "monocyte"}
    assert 0.3 < classes.count("blast") / len(classes) < 0.7


def test_a_given_stain_is_used(small_spec: FilmSpec) -> None:
    stain = draw_stain(np.random.default_rng(99))
    film = VirtualFilm.build(3, replace(small_spec, size_um=(80.0, 60.0), stain=stain))
    assert film.stain is stain
    brightest = np.percentile(film.raster.reshape(-1, 3), 90, axis=0)
    assert brightest == pytest.approx(stain.background_rgb, abs=14)


def test_stains_vary_and_stay_stains() -> None:
    stains: list[Stain] = [draw_stain(np.random.default_rng(k)) for k in range(60)]
    backgrounds = np.array([s.background_rgb for s in stains])
    reds = np.array([s.red_cell for s in stains])
    assert backgrounds.std(axis=0).min() > 8
    # From pink (red brightest) to blue-grey (blue brightest).
    assert (reds[:, 0] > reds[:, 2]).any()
    assert (reds[:, 2] > reds[:, 0] + 0.05).any()
    for stain in stains:
        assert stain.nucleus[1] == min(stain.nucleus)
        assert sum(stain.nucleus) < sum(stain.acidophilic)


@pytest.mark.parametrize(
    "bad",
    [
        {"size_um": (30.0, 100.0)},
        {"pixel_size_um": 0.01},
        {"blast_fraction": 1.2},
        {"red_cell_coverage": 1.5},
        {"differential": {"plasma cell": 1.0}},
    ],
)
def test_impossible_films_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|known"):
        FilmSpec(**bad)  # type: ignore[arg-type]
