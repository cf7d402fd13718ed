"""One small, crowded film that most tests of the virtual microscope look at."""

from __future__ import annotations

import pytest

from edge_runtime.virtual_film import FilmSpec, VirtualFilm

EQUAL_SHARES = {
    "neutrophil": 1.0,
    "eosinophil": 1.0,
    "basophil": 1.0,
    "lymphocyte": 1.0,
    "monocyte": 1.0,
}
SMALL = FilmSpec(
    size_um=(240.0, 180.0),
    white_cells_per_mm2=900.0,
    artefacts_per_mm2=300.0,
    platelets_per_mm2=700.0,
    red_cell_coverage=0.35,
    differential=EQUAL_SHARES,
    blast_fraction=0.3,
)


@pytest.fixture(scope="session")
def small_spec() -> FilmSpec:
    return SMALL


@pytest.fixture(scope="session")
def film() -> VirtualFilm:
    return VirtualFilm.build(3, SMALL)
