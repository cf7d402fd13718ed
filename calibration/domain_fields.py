"""Fields of the domains, as a camera gives them, and their pooled features.

Owns where whole fields of a domain come from, split by split, and turning them into vectors
with the artifacts that run. Does not own fitting (see ``domain_statistics``).

Composed training pictures are no domain: nobody's camera gives grids and pasted cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from calibration.fields import IMAGE_SUFFIXES
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import DetectorSpec
from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.domain_score import Float64Array, pool_features, read_maps
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import UInt8Image
from edge_runtime.virtual_film import PROFILES, FilmSpec, OpticalProfile, VirtualFilm

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class DomainFields(Protocol):
    """Fields of one domain or of several."""

    @property
    def names(self) -> tuple[str, ...]:
        """The domains."""
        ...

    def fields(self, split: Split) -> Iterator[tuple[str, UInt8Image]]:
        """Domain and RGB pixels ``(H, W, 3)`` of each field of a split."""
        ...


@dataclass(frozen=True, slots=True)
class FolderDomain:
    """A domain in YOLO layout: ``images/<split>`` below a folder. Labels are not read."""

    name: str
    folder: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The one domain."""
        return (self.name,)

    def fields(self, split: Split) -> Iterator[tuple[str, UInt8Image]]:
        """In the order of file names; files that the device would skip are passed over.

        Raises:
            DataError: no folder, or no picture that can be used.
        """
        folder = self.folder / "images" / split
        if not folder.is_dir():
            raise DataError(f"domain {self.name!r}: {folder}: no such folder; give its root")
        used = 0
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            try:
                pixels = read_image(path)
            except FrameError:
                continue
            used += 1
            yield self.name, pixels
        if used == 0:
            raise DataError(f"domain {self.name!r}: {folder}: no usable picture in it")


# Far from the seeds that detectors are trained with and that people type.
_FIRST_SEEDS: Mapping[Split, int] = {"train": 100_000, "val": 200_000, "test": 300_000}


@dataclass(frozen=True, slots=True)
class VirtualDomains:
    """The virtual microscope, every optical profile a domain of its own.

    Attributes:
        films: how many films of each split; stain and crowding differ from film to film.
        fields_per_film: under each profile.
        profiles: the microscopes.
        spec: the films; half of a default one shows as much and is rendered twice as fast.
    """

    films: Mapping[Split, int] = field(default_factory=lambda: {"train": 32, "val": 25, "test": 12})
    fields_per_film: int = 3
    profiles: tuple[OpticalProfile, ...] = tuple(PROFILES.values())
    spec: FilmSpec = field(default_factory=lambda: FilmSpec(size_um=(480.0, 320.0)))

    @property
    def names(self) -> tuple[str, ...]:
        """As the sources of a run are called: ``virtual:profile``."""
        return tuple(f"virtual:{profile.name}" for profile in self.profiles)

    def fields(self, split: Split) -> Iterator[tuple[str, UInt8Image]]:
        """Film by film, since rendering one takes seconds, under one profile after another."""
        first = _FIRST_SEEDS[split]
        for seed in range(first, first + self.films[split]):
            film = VirtualFilm.build(seed, self.spec)
            for name, profile in zip(self.names, self.profiles, strict=True):
                for frame in VirtualCamera(film, profile, self.fields_per_film):
                    yield name, frame.pixels


def pooled_features(
    fields: Iterable[tuple[str, UInt8Image]],
    detector: DetectorSpec,
    reads: Sequence[str],
    models: Mapping[str, bytes],
    *,
    backend: str = "onnxruntime",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, Float64Array]]:
    """What each artifact's feature maps say of each field, through the device's own path.

    Args:
        fields: domain and pixels; every field is read once.
        detector: gives input and feature maps.
        reads: the maps to pool.
        models: artifacts by path.
        backend: that runs all of them; ONNX Runtime runs those for TensorRT as well.
        progress: told the number of fields done, after each.

    Returns:
        By domain and artifact path, ``(n, features)`` in the order of the fields.

    Raises:
        BackendError: the backend refuses a model.
    """
    maps = read_maps(reads, detector)
    found: dict[str, dict[str, list[Float64Array]]] = {}
    with ExitStack() as open_ones:
        opened = {
            path: open_ones.enter_context(open_backend(backend_row(backend), content, threads=1))
            for path, content in models.items()
        }
        for done, (name, pixels) in enumerate(fields, start=1):
            whole = fit_window(pixels.shape[1], pixels.shape[0], detector.input)
            tensor = tensor_of(pixels, whole, detector.input)
            group = found.setdefault(name, {path: [] for path in models})
            for path, model in opened.items():
                outputs = model.infer({detector.input.name: tensor})
                group[path].append(pool_features(outputs, whole, maps))
            progress(done)
    return {
        name: {path: np.array(vectors) for path, vectors in group.items()}
        for name, group in found.items()
    }
