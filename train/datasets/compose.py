"""The composed training set: fields, grids, pasted cells and virtual films on disk.

Owns the mix and writes it in YOLO layout, so that a person can look at it and any
trainer can read it. Does not own how a single scene is made (``scene``, ``appearance``).

Why offline: geometry and stain change far beyond what a trainer's own augmentation does
(cells from 3 % to 70 % of the width, squeezed fields, blue-grey red cells), and a
picture is costly to make; drawn once, it serves every epoch.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from calibration.fields import LabelledField, digest_files, xyxy_to_xywhn
from edge_runtime.errors import DataError, StoreError
from edge_runtime.types import Float32Array, UInt8Image
from edge_runtime.virtual_film import (
    PROFILES,
    OpticalProfile,
    Optics,
    VirtualFilm,
    truth_in_window,
)
from train.datasets.appearance import (
    background_colour,
    eyepiece_stop,
    light_and_lens,
    restain,
)
from train.datasets.cutouts import (
    Cutout,
    CutoutSource,
    cut_out,
    pbc_sources,
    wbc_mask_sources,
    whole_fields,
)
from train.datasets.domains import domain_fields
from train.datasets.scene import (
    Scene,
    paste_cell,
    place_field,
    place_grid,
    scatter_debris,
    vary_tile,
    window_without_cells,
)
from train.recipe import Recipe

# Fields are kept in memory at no more than this side: larger than any canvas needs.
_CACHE_SIDE = 420
# A cell of which less is lit by a round stop is not to be seen.
_MIN_LIT = 0.6
# What a folder with a composed set consists of; it is replaced by a new one.
_OWN = frozenset({"images", "labels", "data.yaml", "compose.json", "preview.png"})
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Job:
    index: int
    kind: str
    seed: int
    position: float


@dataclass
class Sources:
    """Everything pictures are composed from, for one split.

    Attributes:
        fields: fields by domain.
        cutouts: single-cell pictures by source name.
        film_seeds: seeds of the virtual films; empty when virtual films are left out.
        bare_tiles: largest share of a grid's tiles that hold no white cell.
        share_fitted: share of the ``field`` pictures that show the whole field, unsqueezed.
    """

    fields: dict[str, list[LabelledField]]
    cutouts: dict[str, list[CutoutSource]]
    film_seeds: list[int]
    bare_tiles: float = 0.0
    share_fitted: float = 0.4
    _pixels: dict[Path, tuple[UInt8Image, Float32Array]] = field(default_factory=dict)
    _cutouts: dict[Path, Cutout] = field(default_factory=dict)
    _films: dict[int, VirtualFilm] = field(default_factory=dict)

    def read(self, item: LabelledField) -> tuple[UInt8Image, Float32Array]:
        """Pixels (shrunk to the cache side) and pixel boxes of a field."""
        if item.image not in self._pixels:
            pixels = item.read_rgb()
            shrink = min(1.0, _CACHE_SIDE / max(pixels.shape[:2]))
            if shrink < 1:
                new = (round(pixels.shape[1] * shrink), round(pixels.shape[0] * shrink))
                pixels = np.asarray(cv2.resize(pixels, new, interpolation=cv2.INTER_AREA), np.uint8)
            self._pixels[item.image] = (
                pixels,
                item.boxes_xyxy(pixels.shape[1], pixels.shape[0]),
            )
        return self._pixels[item.image]

    def cut(self, source: CutoutSource) -> Cutout:
        """The cell of a single-cell picture; segmenting one costs more than pasting it."""
        if source.image not in self._cutouts:
            self._cutouts[source.image] = cut_out(source)
        return self._cutouts[source.image]

    def files(self) -> list[Path]:
        """Every real picture that may enter the set."""
        fields = [item.image for group in self.fields.values() for item in group]
        return sorted({*fields, *(c.image for group in self.cutouts.values() for c in group)})


def open_sources(recipe: Recipe, split: str) -> Sources:
    """The recipe's data for ``train`` or ``val``, without the domain it leaves out.

    Raises:
        DataError: a folder is missing, a label row is bad, or nothing is left to learn from.
    """
    root = Path(recipe.data_root)
    fields: dict[str, list[LabelledField]] = {}
    for domain in recipe.domains:
        if domain.name != recipe.leave_out:
            fields[domain.name] = domain_fields(recipe, domain, split)
    cutouts: dict[str, list[CutoutSource]] = {}
    for source in recipe.cell_sources:
        # Cells of a domain that is left out must go with it.
        if recipe.leave_out is not None and recipe.leave_out in (source.name, source.as_fields_of):
            continue
        if source.kind == "wbc_masks":
            cutouts[source.name] = wbc_mask_sources(root / source.path, split)
        elif split == "train":
            cutouts[source.name] = pbc_sources(root / source.path)
            if source.as_fields_of is not None:
                fields[source.as_fields_of] += whole_fields(
                    cutouts[source.name], domain=source.as_fields_of
                )
    if not any(fields.values()):
        raise DataError(f"recipe {recipe.name}: no field left to train on")
    first = 1000 * recipe.compose.seed + (500 if split == "val" else 0)
    count = recipe.compose.virtual_films if split == "train" else 3
    seeds = [] if recipe.leave_out == "virtual" else list(range(first, first + count))
    spec = recipe.compose
    return Sources(fields, cutouts, seeds, spec.bare_tiles, spec.share_fitted)


def compose_scene(
    sources: Sources, kind: str, size: int, rng: Generator, *, position: float = 0.0
) -> Scene:
    """One picture of one kind: ``field``, ``grid``, ``paste``, ``empty`` or ``virtual``.

    ``position`` in [0, 1) says where in the set the picture stands. Virtual films are
    taken in turn, because one takes seconds to render and many windows can be cut from it.
    """
    if kind == "field":
        scene = _field_scene(sources, size, rng)
    elif kind == "virtual":
        scene = _virtual_scene(sources, size, rng, position)
    elif kind == "empty":
        scene = _empty_scene(sources, size, rng, position)
    else:
        scene = _grid_scene(sources, size, rng, pasted=kind == "paste")
    strength = float(rng.choice([0.15, 0.6, 1.0], p=[0.35, 0.35, 0.3]))
    if rng.random() < 0.75:
        scene.pixels = restain(scene.pixels, rng, strength)
    if rng.random() < 0.12 * strength:
        scene.pixels, lit = eyepiece_stop(scene.pixels, rng)
        scene.boxes_xyxy = scene.boxes_xyxy[_lit_share(scene.boxes_xyxy, lit) > _MIN_LIT]
    scene.pixels = light_and_lens(scene.pixels, rng, strength)
    return scene


def _lit_share(boxes: Float32Array, lit: Float32Array) -> Float32Array:
    shares = [
        float(lit[int(y1) : max(int(y2), int(y1) + 1), int(x1) : max(int(x2), int(x1) + 1)].mean())
        for x1, y1, x2, y2 in boxes
    ]
    return np.array(shares, np.float32)


def write_composed(
    recipe: Recipe, out: Path, *, workers: int = 2, progress: Progress | None = None
) -> Path:
    """Writes the composed set and returns its ``data.yaml``.

    Training pictures come from training splits only. Validation holds the real
    validation fields as they are and composed ones made from them.

    Raises:
        DataError: the data is missing or malformed.
        StoreError: the folder cannot be written, or holds something else.
    """
    spec = recipe.compose
    foreign = sorted(p.name for p in out.iterdir() if p.name not in _OWN) if out.is_dir() else []
    if foreign:
        raise StoreError(f"{out}: holds {foreign[0]}; choose an empty or new folder")
    train, val = open_sources(recipe, "train"), open_sources(recipe, "val")
    try:
        if out.exists():
            shutil.rmtree(out)
        for split in ("train", "val"):
            (out / "images" / split).mkdir(parents=True)
            (out / "labels" / split).mkdir(parents=True)
        counts = _write_split(train, recipe, out, "train", spec.images, workers, progress)
        counts_val = _write_split(val, recipe, out, "val", spec.validation_images, 1, None)
        for group in val.fields.values():
            for item in group:
                _write_scene(
                    out,
                    "val",
                    f"{item.domain}_{item.image.stem}",
                    item.read_rgb(),
                    item.boxes_xywhn,
                    quality=95,
                )
        document = {
            "recipe": recipe.name,
            "seed": spec.seed,
            "left_out": recipe.leave_out,
            "ordered": what_decides_pictures(recipe),
            "training_files": len(train.files()),
            "training_digest": digest_files(train.files()),
            "pictures": counts,
            "validation_pictures": counts_val,
        }
        (out / "compose.json").write_text(json.dumps(document, indent=1) + "\n")
        data_yaml = out / "data.yaml"
        data_yaml.write_text(
            f"path: {json.dumps(str(out.resolve()))}\ntrain: images/train\nval: images/val\n"
            "nc: 1\nnames: {0: WBC}\n"
        )
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another folder or free space") from error
    return data_yaml


def what_decides_pictures(recipe: Recipe) -> dict[str, object]:
    """The parts of a recipe that decide a composed set, as JSON has them."""
    return recipe.model_dump(
        mode="json", include={"compose", "domains", "cell_sources", "leave_out"}
    )


def _write_split(
    sources: Sources,
    recipe: Recipe,
    out: Path,
    split: str,
    images: int,
    workers: int,
    progress: Progress | None,
) -> dict[str, int]:
    kinds = _kinds(sources, recipe, images)
    first = recipe.compose.seed * 1_000_003 + (0 if split == "train" else 500_000)
    jobs = [_Job(index, kind, first + index, index / images) for index, kind in enumerate(kinds)]
    done = 0
    for batch in _run(sources, recipe.compose.size, out, split, jobs, workers):
        done += batch
        if progress is not None:
            progress(done, images)
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _kinds(sources: Sources, recipe: Recipe, images: int) -> list[str]:
    spec = recipe.compose
    shares = {"field": spec.share_field, "grid": spec.share_grid, "empty": spec.share_empty}
    shares["paste"] = spec.share_paste if sources.cutouts else 0.0
    shares["virtual"] = spec.share_virtual if sources.film_seeds else 0.0
    names = list(shares)
    weights = np.array([shares[name] for name in names])
    rng = np.random.default_rng(spec.seed)
    return [str(k) for k in rng.choice(names, size=images, p=weights / weights.sum())]


def _run(
    sources: Sources,
    size: int,
    out: Path,
    split: str,
    jobs: list[_Job],
    workers: int,
) -> Iterator[int]:
    chunks = [jobs[start : start + 50] for start in range(0, len(jobs), 50)]
    if workers <= 1:
        for chunk in chunks:
            yield _compose_chunk(sources, size, out, split, chunk)
        return
    # Spawned, not forked: a fork copies OpenCV's locked thread pool and can wait for ever.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_open_worker, initargs=(sources,)
    ) as pool:
        futures = [pool.submit(_work_chunk, size, out, split, chunk) for chunk in chunks]
        for future in futures:
            yield future.result()


_worker_sources: Sources | None = None


def _open_worker(sources: Sources) -> None:
    global _worker_sources  # noqa: PLW0603  one copy of the sources per process
    cv2.setNumThreads(1)
    _worker_sources = sources


def _work_chunk(size: int, out: Path, split: str, chunk: list[_Job]) -> int:
    if _worker_sources is None:
        raise RuntimeError("worker process without sources")
    return _compose_chunk(_worker_sources, size, out, split, chunk)


def _compose_chunk(sources: Sources, size: int, out: Path, split: str, chunk: list[_Job]) -> int:
    for job in chunk:
        # Seeded by picture, so that the set does not depend on the number of workers.
        rng = np.random.default_rng(job.seed)
        scene = compose_scene(sources, job.kind, size, rng, position=job.position)
        boxes = xyxy_to_xywhn(scene.boxes_xyxy, size, size)
        quality = int(rng.integers(55, 96))
        _write_scene(
            out, split, f"{job.kind}_{job.index:05d}", scene.pixels, boxes, quality=quality
        )
    return len(chunk)


def _write_scene(
    out: Path, split: str, name: str, pixels: UInt8Image, boxes: Float32Array, *, quality: int
) -> None:
    target = out / "images" / split / f"{name}.jpg"
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    if not cv2.imwrite(str(target), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise StoreError(f"{target}: cannot be written; free space or choose another folder")
    rows = [f"0 {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n" for cx, cy, w, h in boxes]
    (out / "labels" / split / f"{name}.txt").write_text("".join(rows))


def _pick_field(sources: Sources, rng: Generator, domain: str) -> tuple[UInt8Image, Float32Array]:
    group = sources.fields[domain]
    return sources.read(group[rng.integers(len(group))])


def _pick_domain(sources: Sources, rng: Generator) -> str:
    names = sorted(name for name, group in sources.fields.items() if group)
    return names[rng.integers(len(names))]


def _field_scene(sources: Sources, size: int, rng: Generator) -> Scene:
    pixels, boxes = _pick_field(sources, rng, _pick_domain(sources, rng))
    if rng.random() < sources.share_fitted:
        # As the device shows it: fitted to the canvas.
        return place_field(pixels, boxes, size=size, zoom=(1.0, 1.0), rng=rng, turn=True)
    zoom = float(np.exp(rng.uniform(np.log(0.4), np.log(1.8))))
    squeeze = float(np.exp(rng.uniform(-0.3, 0.3)))
    return place_field(
        pixels, boxes, size=size, zoom=(zoom * squeeze, zoom / squeeze), rng=rng, turn=True
    )


def _grid_scene(sources: Sources, size: int, rng: Generator, *, pasted: bool) -> Scene:
    domain = _pick_domain(sources, rng)
    columns = int(rng.integers(1 if pasted else 2, 7))
    # Unequal rows and columns squeeze the cells, as fields resized to a square are.
    rows = int(np.clip(columns + rng.integers(-1, 2), 1, 7))
    fields = [vary_tile(*_pick_field(sources, rng, domain), rng=rng) for _ in range(rows * columns)]
    # Most of a wide field holds no white cell: some grids are mostly red cells.
    bare = rng.random() * sources.bare_tiles
    fields = [_bare_tile(sources, domain, rng) if rng.random() < bare else each for each in fields]
    scene = place_grid(fields, size=size, rows=rows, columns=columns)
    typical = 0.4 * size / np.sqrt(rows * columns)
    if len(scene.boxes_xyxy):
        typical = float(np.median(scene.boxes_xyxy[:, 2] - scene.boxes_xyxy[:, 0]))
    if pasted:
        _paste_cells(sources, scene, typical, size, rng)
    if rng.random() < 0.5:
        scatter_debris(scene, cell_px=typical, count=int(rng.integers(1, 8)), rng=rng)
    return scene


def _bare_tile(sources: Sources, domain: str, rng: Generator) -> tuple[UInt8Image, Float32Array]:
    nothing = np.zeros((0, 4), np.float32)
    pixels, boxes = _pick_field(sources, rng, domain)
    for _ in range(8):
        window = window_without_cells(pixels, boxes, rng=rng)
        if window is not None:
            return window, nothing
        pixels, boxes = _pick_field(sources, rng, domain)
    # Fields full of cells: paper of the field's own colour is still no cell.
    return np.full((64, 64, 3), background_colour(pixels), np.uint8), nothing


def _empty_scene(sources: Sources, size: int, rng: Generator, position: float) -> Scene:
    """Red cells, platelets and debris, and not one white cell."""
    if sources.film_seeds and rng.random() < 0.5:
        scene = _virtual_scene(sources, size, rng, position, empty=True)
        if len(scene.boxes_xyxy) == 0:
            return scene
    domain = _pick_domain(sources, rng)
    columns = int(rng.integers(1, 7))
    rows = int(np.clip(columns + rng.integers(-1, 2), 1, 7))
    tiles = [_bare_tile(sources, domain, rng) for _ in range(rows * columns)]
    scene = place_grid(tiles, size=size, rows=rows, columns=columns)
    if rng.random() < 0.6:
        cell_px = size * float(np.exp(rng.uniform(np.log(0.08), np.log(0.4))))
        scatter_debris(scene, cell_px=cell_px, count=int(rng.integers(1, 8)), rng=rng)
    return scene


def _paste_cells(sources: Sources, scene: Scene, typical: float, size: int, rng: Generator) -> None:
    names = sorted(sources.cutouts)
    wanted = int(rng.integers(1, 3 + int((size / max(typical, 12)) ** 2 * 0.35)))
    squeeze = float(np.exp(rng.uniform(-0.25, 0.25)))
    last: tuple[float, float, float, float] | None = None
    for _ in range(min(wanted, 14)):
        group = sources.cutouts[names[rng.integers(len(names))]]
        cutout = sources.cut(group[rng.integers(len(group))])
        aspect = cutout.pixels.shape[1] / cutout.pixels.shape[0]
        side = max(10.0, typical * float(np.exp(rng.uniform(np.log(0.7), np.log(1.35)))))
        width = side * np.sqrt(aspect) * squeeze
        height = side / np.sqrt(aspect) / squeeze
        if last is not None and rng.random() < 0.4:
            # Cells in contact, as blasts often lie.
            angle = rng.uniform(0, 2 * np.pi)
            centre = (
                last[0] + np.cos(angle) * (last[2] + width) * 0.5,
                last[1] + np.sin(angle) * (last[3] + height) * 0.5,
            )
        else:
            centre = (rng.uniform(0, size), rng.uniform(0, size))
        if paste_cell(scene, cutout, width=width, height=height, centre=centre):
            last = (*centre, width, height)


def _virtual_scene(
    sources: Sources, size: int, rng: Generator, position: float, *, empty: bool = False
) -> Scene:
    """A window of a virtual film; ``empty`` looks for one without a white cell."""
    film = _virtual_film(sources, position)
    share = float(np.exp(rng.uniform(np.log(0.035), np.log(0.5))))
    names = sorted(PROFILES)
    profile = PROFILES[names[rng.integers(len(names))]]
    # 13 um is a typical white cell; the window is sized so that it has the drawn share.
    profile = dataclasses.replace(
        profile,
        pixel_size_um=13.0 / (share * size),
        resolution=(size, size),
        blur_sigma_um=profile.blur_sigma_um * float(rng.uniform(0.6, 1.3)),
    )
    near = [cell for cell in film.cells if cell.is_white_cell]
    if rng.random() < sources.bare_tiles / 2:
        # Smudges, clumps and deposit are what a white cell is most often mistaken for.
        # Kind by kind: platelets would leave no room for the rarer ones.
        kinds = sorted({cell.class_name for cell in film.cells if not cell.is_white_cell})
        if kinds:
            kind = kinds[rng.integers(len(kinds))]
            near = [cell for cell in film.cells if cell.class_name == kind]
    where = (0.0, 0.0)
    for _ in range(12):
        centre = near[rng.integers(len(near))].centre_um
        if empty:
            centre = (rng.uniform(0, film.spec.size_um[0]), rng.uniform(0, film.spec.size_um[1]))
        shift = rng.uniform(-0.45, 0.45, 2) * size * profile.pixel_size_um
        where = (float(centre[0] + shift[0]), float(centre[1] + shift[1]))
        if not empty or not _white_boxes(film, profile, where, min_visible=0.0):
            break
    pixels = Optics(profile).capture(film, where, rng)
    boxes = _white_boxes(film, profile, where, min_visible=0.0 if empty else 0.35)
    return Scene(np.array(pixels, np.uint8), np.array(boxes, np.float32).reshape(-1, 4))


def _virtual_film(sources: Sources, position: float) -> VirtualFilm:
    """The film whose turn it is; only the newest is kept."""
    seed = sources.film_seeds[int(position * len(sources.film_seeds))]
    if seed not in sources._films:
        sources._films.clear()
        sources._films[seed] = VirtualFilm.build(seed)
    return sources._films[seed]


def _white_boxes(
    film: VirtualFilm, profile: OpticalProfile, where: tuple[float, float], *, min_visible: float
) -> list[tuple[float, float, float, float]]:
    return [
        cell.box_xyxy
        for cell in truth_in_window(film, profile, where, min_visible=min_visible)
        if cell.is_white_cell
    ]
