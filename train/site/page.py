"""What an adaptation did, for the person who labelled the fields: text and two pictures.

Owns ``site.md``, ``curve.png`` and ``fields.png``. Does not own any figure in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from ultralytics.utils.nms import non_max_suppression

from calibration.fields import xywhn_to_xyxy
from edge_runtime.bundle import InputSpec
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.labelled import LabelledImage
from train.evaluate_attridet import SUPPRESSION_IOU
from train.site.verdict import Change, SiteResult, site_remark

PAGE, CURVE, FIELDS = "site.md", "curve.png", "fields.png"
_MOST_FIELDS = 6
_TILE_PX = 320
# RGB. Told apart by every eye: green-blind readers see yellow and blue.
_LABELLED, _FOUND = (255, 230, 0), (0, 90, 255)


def write_page(
    result: SiteResult,
    before: nn.Module,
    after: nn.Module,
    held_out: Sequence[LabelledImage],
    out: Path,
    *,
    size: int,
    score: float,
    device: str,
) -> Path:
    """Writes text, learning curve and held-out fields with finds before and after.

    Args:
        result: what was measured.
        before: the detector that was started from.
        after: the adapted one.
        held_out: of the site.
        out: an existing folder.
        size: side of the networks' input.
        score: finds below it are not drawn.
        device: of torch.

    Returns:
        The text's file.

    Raises:
        OSError: one of them cannot be written.
    """
    _draw_curve(result, out / CURVE)
    shown = [each for each in held_out if len(each)][:_MOST_FIELDS] or list(held_out[:1])
    tiles = [
        np.hstack([_tile(model.to(device), each, size, score, device) for model in (before, after)])
        for each in shown
    ]
    mosaic = np.vstack(tiles)
    # OpenCV's own writing says nothing of a full disk.
    content = cv2.imencode(".png", np.ascontiguousarray(mosaic[:, :, ::-1]))[1]
    (out / FIELDS).write_bytes(content.tobytes())
    page = out / PAGE
    page.write_text(_text(result, len(shown), score), encoding="utf-8")
    return page


def _text(result: SiteResult, shown: int, score: float) -> str:
    record = result.record
    pictures: dict[str, Any] = record["pictures"]
    own, epoch = pictures["site"], pictures["epoch"]
    verdict = "PASSED" if result.passed else "FAILED"
    lines = [
        "# Adaptation to a site",
        "",
        RESEARCH_USE,
        "",
        f"**{verdict}**: {result.verdict}.",
        "",
        f"{site_remark(result.site)}.",
        "",
        f"Checkpoint: `{result.checkpoint.name}`"
        + ("" if result.passed else ", kept for comparison and not exported")
        + f". Best epoch {record['best_epoch']} of {len(result.curve)}.",
        "",
        "## Average precision (COCO, IoU 0.50 to 0.95) before and after",
        "",
        "| pictures | class | cells | before | after | points |",
        "|---|---|---:|---:|---:|---:|",
        *_rows("site, held out", result.site),
        *([] if result.site_test is None else _rows("site, test", result.site_test)),
        *(row for name, each in result.source.items() for row in _rows(f"source {name}", each)),
        "",
        "The held-out fields were never learnt from, but training stopped on them: on films of "
        "another week expect a little less. With few of them a single cell moves the figure.",
        "",
        "## What it learnt from",
        "",
        f"{own['different_fields']} different fields of the site: {own['train']} to learn from "
        f"({own['train_cells']} cells), {own['held_out']} held out ({own['held_out_cells']} "
        f"cells). Every epoch showed {epoch['site']} pictures of the site and {epoch['replay']} "
        "of the source.",
        *(f"- {note}" for note in own["notes"]),
        *(
            f"- {folder}: taken as background: "
            + ", ".join(f"{count} {name}" for name, count in cells.items())
            for folder, cells in pictures["background"].items()
        ),
        "",
        f"![AP of the held-out fields after each epoch]({CURVE})",
        "",
        "The curve is what the trainer measures as it goes, on pictures fitted otherwise than for "
        "the table; its last digits differ.",
        "",
        f"{shown} held-out fields, left before, right after. Yellow: labelled. Blue: found, with "
        f"a score of {score:g} or more.",
        "",
        f"![Held-out fields with finds before and after]({FIELDS})",
        "",
    ]
    return "\n".join(lines)


def _rows(name: str, change: Change) -> list[str]:
    before, after = change.before, change.after
    rows = [
        f"| {name} | mean | {before.cells} | {before.ap:.3f} | {after.ap:.3f} | "
        f"{change.points:+.1f} |"
    ]
    if len(before.classes) > 1:
        rows += [
            f"| | {old.name} | {old.cells} | {old.ap:.3f} | {new.ap:.3f} | "
            f"{100 * (new.ap - old.ap):+.1f} |"
            for old, new in zip(before.classes, after.classes, strict=True)
            if old.ap is not None and new.ap is not None
        ]
    return rows


def _draw_curve(result: SiteResult, file: Path) -> None:
    # Without a window system, and without touching the global state that pyplot keeps.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = range(1, len(result.curve) + 1)
    axes.plot(epochs, result.curve, "o-", color="#1b4965", markersize=3, label="after each epoch")
    best = result.record["best_epoch"]
    if best is not None:
        axes.plot([best], [result.curve[best - 1]], "D", color="#c1121f", label="kept")
    axes.axhline(result.site.before.ap, color="grey", linestyle="--", label="before")
    axes.set_ylim(0, 1)
    axes.set_xlabel("epoch")
    axes.set_ylabel("AP50-95, held-out fields")
    axes.legend(loc="lower right", fontsize=8)
    figure.supxlabel(RESEARCH_USE, fontsize=6)
    # Without the date, so that the same figures give the same bytes.
    figure.savefig(file, dpi=120, metadata={"Software": None})


def _tile(model: Any, field: LabelledImage, size: int, score: float, device: str) -> UInt8Image:
    pixels = read_image(field.image)
    height, width = pixels.shape[:2]
    finds = _finds(model, pixels, size, score, device)
    scale = _TILE_PX / max(height, width)
    small = cv2.resize(
        pixels,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    labelled = xywhn_to_xyxy(field.boxes_xywhn, width, height)
    for boxes, colour, thickness in ((labelled, _LABELLED, 3), (finds, _FOUND, 1)):
        for x1, y1, x2, y2 in np.rint(boxes * scale).astype(int).tolist():
            cv2.rectangle(small, (x1, y1), (x2, y2), colour, thickness)
    tile = np.full((_TILE_PX + 4, _TILE_PX + 4, 3), 255, np.uint8)
    tile[2 : 2 + small.shape[0], 2 : 2 + small.shape[1]] = small
    return tile


def _finds(model: Any, pixels: UInt8Image, size: int, score: float, device: str) -> Float32Array:
    """Boxes ``(n, 4)`` in the picture's pixels."""
    spec = InputSpec(name="images", width=size, height=size, scale=1 / 255, pad_value=114)
    window = fit_window(pixels.shape[1], pixels.shape[0], spec)
    with torch.no_grad():
        answer = model(torch.from_numpy(tensor_of(pixels, window, spec)).to(device))
        rows = non_max_suppression(answer[0], conf_thres=score, iou_thres=SUPPRESSION_IOU)[0]
    return window.to_frame(rows.float().cpu().numpy()[:, :4])
