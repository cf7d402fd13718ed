"""What is on one film: what a caller asks for, and what the seed decides.

Owns the film's specification and the amounts drawn from it: how many cells of which class,
how crowded, how odd the red cells. Does not own their look nor their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.virtual_film.background_cells import ARTEFACT_PAINTERS
from edge_runtime.virtual_film.cells import WHITE_CELL_PAINTERS
from edge_runtime.virtual_film.stain import Stain

WHITE_CELL_CLASSES: tuple[str, ...] = tuple(WHITE_CELL_PAINTERS)
ARTEFACT_CLASSES: tuple[str, ...] = tuple(ARTEFACT_PAINTERS)

# Adult reference ranges in per cent, middle of the range; basophils raised from 0.5 so that
# a film of a few hundred cells shows some.
_NORMAL_DIFFERENTIAL: Mapping[str, float] = {
    "neutrophil": 58.0,
    "lymphocyte": 28.0,
    "monocyte": 7.0,
    "eosinophil": 4.5,
    "basophil": 2.5,
}


@dataclass(frozen=True, slots=True)
class FilmSpec:
    """What to put on a film; None lets the film's seed decide.

    Attributes:
        size_um: width and height of the film in µm.
        pixel_size_um: µm per pixel of the raster; 0.12 is half of what light resolves.
        white_cells_per_mm2: white cells, blasts included; fewer where they find no room.
            A real film holds tens of them; more make every field worth looking at.
        red_cell_coverage: share of the film that red cells cover, 0 to about 0.8.
        platelets_per_mm2: single platelets.
        artefacts_per_mm2: smudge cells, platelet clumps and stain debris together.
        differential: weight of each normal white cell class, any scale.
        blast_fraction: share of blasts among the white cells, 0 to 1.
        stain: the colours.
    """

    size_um: tuple[float, float] = (700.0, 480.0)
    pixel_size_um: float = 0.12
    white_cells_per_mm2: float | None = None
    red_cell_coverage: float | None = None
    platelets_per_mm2: float | None = None
    artefacts_per_mm2: float | None = None
    differential: Mapping[str, float] | None = None
    blast_fraction: float | None = None
    stain: Stain | None = None

    def __post_init__(self) -> None:
        if min(self.size_um) < 40:
            raise ValueError(f"film size {self.size_um} µm: each side must be at least 40 µm")
        if not 0.05 <= self.pixel_size_um <= 0.5:
            raise ValueError(f"film pixel {self.pixel_size_um} µm: must be 0.05 to 0.5 µm")
        if self.blast_fraction is not None and not 0 <= self.blast_fraction <= 1:
            raise ValueError(f"blast fraction {self.blast_fraction}: must be 0 to 1")
        if self.red_cell_coverage is not None and not 0 <= self.red_cell_coverage <= 0.9:
            raise ValueError(f"red cell coverage {self.red_cell_coverage}: must be 0 to 0.9")
        unknown = set(self.differential or ()) - set(_NORMAL_DIFFERENTIAL)
        if unknown:
            raise ValueError(
                f"differential names {sorted(unknown)}; known: {sorted(_NORMAL_DIFFERENTIAL)}"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """A spec with everything decided.

    Attributes:
        white_cells: how many, blasts included.
        blast_fraction: share of blasts among them.
        differential: weights of the other classes.
        coverage: share of the film that red cells cover.
        platelets: single platelets.
        artefacts: smudge cells, platelet clumps and stain debris.
        rouleaux: share of red cells in rolls.
        clustering: share of white cells that touch another.
        poikilocytosis: how odd the red cells are, 0 to 1.
        red_cell_diameter_um: their mean diameter.
        graininess: grey levels of the background's grain.
    """

    white_cells: int
    blast_fraction: float
    differential: Mapping[str, float]
    coverage: float
    platelets: int
    artefacts: int
    rouleaux: float
    clustering: float
    poikilocytosis: float
    red_cell_diameter_um: float
    graininess: float


def decide(rng: np.random.Generator, spec: FilmSpec) -> Recipe:
    """Draw what the spec leaves open; every draw is made, so that one choice moves no other."""
    area_mm2 = spec.size_um[0] * spec.size_um[1] * 1e-6
    leukaemic = bool(rng.random() < 0.4)
    blasts = float(rng.uniform(0.2, 0.95)) if leukaemic else float(0.06 * rng.random())
    concentration = float(np.exp(rng.uniform(*np.log((250, 800) if leukaemic else (130, 400)))))
    coverage = float(rng.uniform(0.12, 0.5) if leukaemic else rng.uniform(0.2, 0.62))
    platelets = float(np.exp(rng.uniform(np.log(150), np.log(1500))))
    artefacts = float(np.exp(rng.uniform(np.log(50), np.log(220))))
    weights = {k: v * float(np.exp(rng.normal(0, 0.45))) for k, v in _NORMAL_DIFFERENTIAL.items()}
    rouleaux = float(rng.uniform(0.1, 0.6)) if rng.random() < 0.25 else 0.0

    def chosen(asked: float | None, drawn: float) -> float:
        return drawn if asked is None else asked

    return Recipe(
        white_cells=round(chosen(spec.white_cells_per_mm2, concentration) * area_mm2),
        blast_fraction=chosen(spec.blast_fraction, blasts),
        differential=weights if spec.differential is None else spec.differential,
        coverage=chosen(spec.red_cell_coverage, coverage),
        platelets=round(chosen(spec.platelets_per_mm2, platelets) * area_mm2),
        artefacts=round(chosen(spec.artefacts_per_mm2, artefacts) * area_mm2),
        rouleaux=rouleaux,
        clustering=float(rng.uniform(0, 0.35)),
        poikilocytosis=float(rng.beta(1.2, 2.2)),
        red_cell_diameter_um=float(rng.normal(7.35, 0.3)),
        graininess=float(rng.uniform(0.4, 2.2)),
    )


def white_cell_classes(rng: np.random.Generator, recipe: Recipe) -> list[str]:
    """The class of every white cell, in random order."""
    blasts = round(recipe.white_cells * recipe.blast_fraction)
    names = list(recipe.differential)
    weights = np.asarray([recipe.differential[name] for name in names], np.float64)
    others = rng.choice(len(names), size=recipe.white_cells - blasts, p=weights / weights.sum())
    classes = ["blast"] * blasts + [names[int(k)] for k in others]
    return [classes[int(k)] for k in rng.permutation(len(classes))]


def artefact_classes(rng: np.random.Generator, recipe: Recipe) -> list[str]:
    """The class of every artefact; platelets are not among them."""
    kinds = ("smudge_cell", "platelet_clump", "stain_debris")
    shares = rng.dirichlet((4.0, 3.0, 4.0))
    # One of each where there is room for three: a film that lacks one tests nothing.
    first = list(kinds) if recipe.artefacts >= len(kinds) else []
    rest = rng.choice(len(kinds), size=recipe.artefacts - len(first), p=shares)
    return first + [kinds[int(k)] for k in rest]
