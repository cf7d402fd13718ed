"""Cells of rendered films, as training views of a classifier.

Owns which fields are looked at and how many cells of a kind are taken. Does not own
rendering (see ``edge_runtime.virtual_film``). Drawn cells teach nothing about real ones:
they keep a classifier from calling a demonstration film names at random.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime.bundle import CropInputSpec
from edge_runtime.virtual_film import PROFILES, Optics, VirtualFilm, truth_in_window
from train.datasets.cell_views import Surroundings, surroundings

# Far from the seeds that films are evaluated on (see ``train.evaluate``).
_FIRST_SEED = 70_001
_WHOLE = 0.95
_MOST_FIELDS = 60


def virtual_cells(
    classes: tuple[str, ...], spec: CropInputSpec, *, of_each: int
) -> Iterator[tuple[int, Surroundings]]:
    """Class index and surroundings of drawn cells, the same ones each time.

    Args:
        classes: class list; drawn cells of other kinds, blasts among them, are left out.
        spec: of the device's crop.
        of_each: cells of each kind, at most.
    """
    taken = dict.fromkeys(classes, 0)
    drawn_kinds = {"neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"}
    wanted = [name for name in classes if name in drawn_kinds]
    names = sorted(PROFILES)
    for number in range(_MOST_FIELDS):
        if all(taken[name] >= of_each for name in wanted):
            return
        profile = PROFILES[names[number % len(names)]]
        film = VirtualFilm.build(_FIRST_SEED + number // len(names))
        rng = np.random.default_rng(_FIRST_SEED + number)
        half = [side * profile.pixel_size_um / 2 for side in profile.resolution]
        centre = (
            float(rng.uniform(half[0], max(half[0] + 1, film.spec.size_um[0] - half[0]))),
            float(rng.uniform(half[1], max(half[1] + 1, film.spec.size_um[1] - half[1]))),
        )
        pixels = Optics(profile).capture(film, centre, rng)
        for cell in truth_in_window(film, profile, centre, min_visible=_WHOLE):
            if cell.class_name in wanted and taken[cell.class_name] < of_each:
                taken[cell.class_name] += 1
                box = np.array(cell.box_xyxy, np.float32)
                yield classes.index(cell.class_name), surroundings(pixels, box, spec)
