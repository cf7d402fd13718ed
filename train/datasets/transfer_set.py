"""Transferring a whole set of labelled fields, and the folder that comes of it.

Owns the order of work, what may be asked for, and what lies in the folder: a YOLO set of the
accepted targets, one JSON sidecar each, the review. Does not own a pair's fate (``transfer``)
nor the page (``transfer_review``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.fields import parse_label_file, xywhn_to_xyxy
from edge_runtime.clinic.atomic_file import prepare_folder, store_error
from edge_runtime.errors import DataError, FrameError, SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.image_file import read_image
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets import homography, landmarks, transfer
from train.datasets.labelled import LabelledSet
from train.datasets.transfer import Scales, Transfer, transfer_field
from train.datasets.transfer_figures import MATCHING_IOU, HandFigures, compare_with_hand
from train.datasets.transfer_pairs import Pair, find_pairs
from train.datasets.transfer_review import (
    PICTURES,
    REVIEW_HTML,
    Entry,
    draw_pair,
    field_document,
    pair_document,
    write_page,
)
from train.datasets.yolo_set import YoloSetWriter

TRANSFER_JSON = "transfer.json"
SIDECARS = "transfer"
_JPEG_QUALITY = 88
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to transfer.

    Attributes:
        sources: folder of labelled fields.
        dataset: name in the catalog, or None for a folder that describes itself.
        targets: folder below which the target pictures lie.
        pairs: ``same-name`` or a CSV file.
        chain: folder of pictures of a magnification between.
        hand: folder of label files drawn by hand, named after targets.
        corner_margin: how far outside its target a source's corners may land, as a share of the
            target's sides. The default asks for fields that lie in their target; between
            microscopes of one magnification fields may overlap only.
        seed: of the sample to check by hand.
        sample: size of that sample.
    """

    sources: Path
    targets: Path
    pairs: str
    out: Path
    scales: Scales
    dataset: str | None = None
    chain: Path | None = None
    hand: Path | None = None
    corner_margin: float = homography.CORNER_MARGIN
    seed: int = 0
    sample: int = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; ``entries`` in the order of the pairs."""

    entries: tuple[Entry, ...]
    hand: HandFigures | None
    review: Path

    @property
    def accepted(self) -> tuple[Entry, ...]:
        """Pairs whose labels were written."""
        return tuple(each for each in self.entries if each.transfer.accepted)

    @property
    def rejected(self) -> tuple[Entry, ...]:
        """Pairs that are in the review only."""
        return tuple(each for each in self.entries if not each.transfer.accepted)


def transfer_set(request: Request, *, progress: Progress | None = None) -> Outcome:
    """Transfers all pairs and writes folder and review.

    Nothing is written before every label, pair and picture has been found usable. A pair that
    cannot be registered is no error: it is rejected with its reasons, and stands in the review.

    Raises:
        SettingsError: a scale that is none, or one that lacks its folder.
        DataError: bad labels, pairs or pictures.
        StoreError: the folder cannot be written, or is not empty.
    """
    _check_scales(request)
    sources = _read_sources(request)
    pairs = find_pairs(sources, request.targets, request.pairs, chain=request.chain)
    by_hand = {} if request.hand is None else _read_hand(request.hand, pairs, len(sources.classes))
    _require_new(request.out)
    _require_readable(pairs)
    prepare_folder(request.out)
    try:
        entries = _transfer_pairs(request, sources, pairs, progress)
        hand = _hand_figures(by_hand, entries) if request.hand is not None else None
        _write_summary(request, sources, entries, hand)
    except OSError as error:
        raise store_error(request.out, error) from error
    return Outcome(tuple(entries), hand, request.out / REVIEW_HTML)


def _transfer_pairs(
    request: Request, sources: LabelledSet, pairs: list[Pair], progress: Progress | None
) -> list[Entry]:
    (request.out / PICTURES).mkdir()
    writer = YoloSetWriter(request.out, sources.classes, sources.attributes)
    entries: list[Entry] = []
    for number, pair in enumerate(pairs, start=1):
        source_pixels, target_pixels = _pixels(pair.source.image), _pixels(pair.target)
        done = transfer_field(
            pair.source,
            source_pixels,
            pair.target,
            target_pixels,
            scales=request.scales,
            chain_pixels=None if pair.chain is None else _pixels(pair.chain),
            corner_margin=request.corner_margin,
        )
        entry = Entry(
            number,
            _below(pair.source.image, request.sources),
            _below(pair.target, request.targets),
            None if pair.chain is None else _below(pair.chain, request.chain),
            done,
        )
        _write_picture(request.out / entry.picture, draw_pair(done, source_pixels, target_pixels))
        if done.accepted and done.labels is not None:
            image = writer.add(done.labels, pair.target.read_bytes())
            sidecar = writer.place(SIDECARS, done.labels.split, f"{image.stem}.json")
            _write_json(sidecar, field_document(entry, sources))
        entries.append(entry)
        if progress is not None:
            progress(number, len(pairs))
    writer.finish(
        each.transfer.labels
        for each in entries
        if each.transfer.accepted and each.transfer.labels is not None
    )
    return _with_sample(entries, request)


def _write_summary(
    request: Request, sources: LabelledSet, entries: Sequence[Entry], hand: HandFigures | None
) -> None:
    accepted = [each for each in entries if each.transfer.accepted]
    document = {
        "research_use": RESEARCH_USE,
        "sources": str(request.sources),
        "dataset": request.dataset,
        "targets": str(request.targets),
        "chain": None if request.chain is None else str(request.chain),
        "expected_scale": request.scales.target,
        "chain_scale": request.scales.chain,
        "seed": request.seed,
        "limits": _limits() | {"corner_margin": request.corner_margin},
        "classes": list(sources.classes),
        "accepted": len(accepted),
        "rejected": len(entries) - len(accepted),
        "cells": sum(each.counts["kept"] for each in accepted),
        "hand": None if hand is None else asdict(hand),
        "pairs": [pair_document(each) for each in entries],
    }
    title = f"{request.sources.name} to {request.targets.name}"
    write_page(request.out, entries, title, None if hand is None else asdict(hand))
    _write_json(request.out / TRANSFER_JSON, document)


def _limits() -> dict[str, float]:
    return {
        "ratio_test": landmarks.RATIO,
        "ransac_px": homography.RANSAC_PX,
        "least_inliers": homography.LEAST_INLIERS,
        "least_inlier_ratio": homography.LEAST_INLIER_RATIO,
        "least_quadrants": homography.LEAST_QUADRANTS,
        "scale_tolerance": homography.SCALE_TOLERANCE,
        "largest_anisotropy": homography.LARGEST_ANISOTROPY,
        "least_remaining": transfer.LEAST_REMAINING,
        "largest_round_trip_px": transfer.LARGEST_ROUND_TRIP_PX,
        "largest_both_ways_px": transfer.LARGEST_BOTH_WAYS_PX,
        "least_correlation": transfer.LEAST_CORRELATION,
        "matching_iou": MATCHING_IOU,
    }


def _check_scales(request: Request) -> None:
    given = {"--expected-scale": request.scales.target, "--chain-scale": request.scales.chain}
    for flag, scale in given.items():
        if scale is not None and not 0.01 <= scale <= 100:
            raise SettingsError(
                f"{flag} {scale:g}: pixels per source pixel, 0.01 to 100; 100x to 40x is 0.4"
            )
    if not 0 <= request.corner_margin <= 1:
        raise SettingsError(f"--corner-margin {request.corner_margin:g}: a share, 0 to 1")
    if request.chain is None and request.scales.chain is not None:
        raise SettingsError("--chain-scale: of no folder; name the pictures with --chain")
    if request.chain is not None and (request.scales.target is None) != (
        request.scales.chain is None
    ):
        raise SettingsError("--chain: give both --expected-scale and --chain-scale, or neither")


def _read_sources(request: Request) -> LabelledSet:
    from train.datasets import yolo_set
    from train.datasets.catalog import read_dataset

    folder = request.sources
    if request.dataset is None:
        sources = yolo_set.read(folder).require_clean()
    else:
        sources = read_dataset(request.dataset, folder).require_clean()
    if not any(len(each) for each in sources.images):
        raise DataError(f"{folder}: no labelled cell in it; nothing to transfer")
    if not all(each.extents_known for each in sources.images):
        raise DataError(f"{folder}: only the cells' centres are labelled; a transfer needs boxes")
    return sources


def _require_new(out: Path) -> None:
    """Refuses anything that is there: it may hold labels that somebody mended by hand."""
    try:
        first = min((each.name for each in out.iterdir()), default=None) if out.is_dir() else None
    except OSError as error:
        raise store_error(out, error) from error
    if first is not None:
        raise StoreError(f"{out}: holds {first}; choose an empty or new folder with --out")


def _require_readable(pairs: list[Pair]) -> None:
    for path in dict.fromkeys(
        each
        for pair in pairs
        for each in (pair.source.image, pair.target, pair.chain)
        if each is not None
    ):
        _pixels(path)


def _pixels(path: Path) -> UInt8Image:
    try:
        return read_image(path)
    except FrameError as error:
        raise DataError(f"{path}: {error}; replace it or leave its pair out") from error


def _with_sample(entries: list[Entry], request: Request) -> list[Entry]:
    accepted = [i for i, each in enumerate(entries) if each.transfer.accepted]
    rng = np.random.default_rng(request.seed)
    count = min(request.sample, len(accepted))
    drawn = set(rng.choice(accepted, size=count, replace=False).tolist()) if count else set()
    return [replace(each, by_hand=i in drawn) for i, each in enumerate(entries)]


def _read_hand(folder: Path, pairs: list[Pair], class_count: int) -> dict[Path, Float32Array]:
    """Hand-drawn boxes, fractions ``(N, 4)``, by target picture."""
    files = sorted(folder.rglob("*.txt")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder}: no label file in it; name the folder drawn by hand")
    targets = {pair.target.stem: pair.target for pair in pairs}
    boxes: dict[Path, Float32Array] = {}
    for file in files:
        if file.stem not in targets:
            raise DataError(f"{file}: no target picture of this name; rename or remove it")
        rows, bad = parse_label_file(file, class_count=class_count)
        if bad:
            raise DataError(f"{bad[0]}; mend it")
        boxes[targets[file.stem]] = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
    return boxes


def _hand_figures(by_hand: dict[Path, Float32Array], entries: Sequence[Entry]) -> HandFigures:
    """Over accepted targets, hand boxes in their patch only: the rest was not labelled."""
    fields = []
    for entry in entries:
        done: Transfer = entry.transfer
        if done.target not in by_hand or not done.accepted or done.labels is None:
            continue
        if done.labels.patch_xyxyn is None:
            continue
        x1, y1, x2, y2 = done.labels.patch_xyxyn
        drawn = by_hand[done.target]
        xs, ys = drawn[:, 0], drawn[:, 1]
        drawn = drawn[(xs >= x1) & (xs <= x2) & (ys >= y1) & (ys <= y2)]
        size = done.registration.target_size
        fields.append((xywhn_to_xyxy(done.labels.boxes_xywhn, *size), xywhn_to_xyxy(drawn, *size)))
    return compare_with_hand(fields)


def _write_picture(path: Path, pixels: UInt8Image) -> None:
    done, encoded = cv2.imencode(
        ".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise StoreError(f"{path}: the picture cannot be encoded")
    path.write_bytes(encoded.tobytes())


def _write_json(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _below(path: Path, root: Path | None) -> str:
    inside = root is not None and path.is_relative_to(root)
    return (path.relative_to(root) if root is not None and inside else path).as_posix()
