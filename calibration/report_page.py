"""The pages of calibration: self-contained HTML with drawings, from documents.

Owns the drawings' geometry and the words for numbers. Does not own the markup (see
``templates``) nor any number.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from calibration.report import CalibrationReport, HeadReport, TensorReport
from calibration.sensitivity import BlockCost
from calibration.sweep import CandidateResult, SweepResult, candidate_name
from edge_runtime.film_report import RESEARCH_USE

# Of a histogram's drawing, in its own units.
WIDTH, HEIGHT = 320.0, 96.0
_EDGE = 6.0
# Layers below are where people look first: three bits of signal.
WORRYING_DB = 20.0
_TOP_TENSORS = 12


@dataclass(frozen=True, slots=True)
class Bar:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    inside: bool


@dataclass(frozen=True, slots=True)
class HistogramDrawing:
    """One activation.

    Attributes:
        bars: heights are logarithms of counts: a tail of ten values must be seen.
        left, right: x of the chosen range's ends.
        zero: x of zero.
        ticks: x and name of what the other methods chose at either end.
    """

    tensor: TensorReport
    bars: tuple[Bar, ...]
    left: float
    right: float
    zero: float
    ticks: tuple[tuple[float, str], ...]
    said: str


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled bar of a ranking; ``share`` of the longest, 0..1."""

    name: str
    value: str
    note: str
    share: float
    bad: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate of a sweep in the plane of size and loss."""

    x: float
    y: float
    title: str
    runtime: str
    chosen: bool
    failed: bool


def calibration_page(report: CalibrationReport) -> str:
    """The page ``calibration.html``."""
    return _render(
        "calibration.html.j2",
        title=f"Calibration of {report.name}",
        report=report,
        heads=[_head_view(head) for head in report.heads],
    )


def sweep_page(results: Sequence[SweepResult], *, name: str) -> str:
    """The page ``sweep.html``: all heads' candidates, ranked."""
    views = [
        {
            "sweep": sweep,
            "points": sweep_points(sweep),
            "blocks": block_rows(sweep.blocks),
            "chosen": set(sweep.chosen.values()),
            "domains": list(sweep.float_figures),
        }
        for sweep in results
    ]
    return _render(
        "sweep.html.j2", title=f"Quantisation sweep of {name}", views=views, key=candidate_name
    )


def draw_histogram(tensor: TensorReport) -> HistogramDrawing:
    """Places bars, chosen range and the other methods' ends on one axis."""
    ends = [tensor.low, tensor.high, *tensor.chosen, 0.0]
    ends += [end for found in tensor.by_method.values() for end in found]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def x_of(value: float) -> float:
        return round(_EDGE + (value - low) / span * (WIDTH - 2 * _EDGE), 2)

    width = (tensor.high - tensor.low) / len(tensor.counts)
    tallest = max(float(np.log1p(max(tensor.counts))), 1e-9)
    bars = []
    for index, count in enumerate(tensor.counts):
        if count == 0:
            continue
        start = tensor.low + index * width
        left, right = x_of(start), x_of(start + width)
        tall = max(1.0, round(float(np.log1p(count)) / tallest * HEIGHT, 2))
        middle = start + width / 2
        inside = tensor.chosen[0] <= middle <= tensor.chosen[1]
        bars.append(
            Bar(left, round(HEIGHT - tall, 2), round(max(right - left, 0.6), 2), tall, inside)
        )
    ticks: dict[float, list[str]] = {}
    for method, found in tensor.by_method.items():
        for end in found:
            if end != 0.0:
                ticks.setdefault(x_of(end), []).append(method)
    return HistogramDrawing(
        tensor,
        tuple(bars),
        x_of(tensor.chosen[0]),
        x_of(tensor.chosen[1]),
        x_of(0.0),
        tuple((x, ", ".join(names)) for x, names in sorted(ticks.items())),
        f"{say(tensor.low)} to {say(tensor.high)} seen, {say(tensor.chosen[0])} to "
        f"{say(tensor.chosen[1])} kept",
    )


def block_rows(blocks: Sequence[BlockCost]) -> list[Row]:
    """The ranking of blocks, longest bar for the most costly one."""
    if not blocks:
        return []
    judged = any(cost.lost_points is not None for cost in blocks)
    if judged:
        worth = [max(cost.lost_points or 0.0, 0.0) for cost in blocks]
    else:
        # Noise power: 3 dB less is twice the bar.
        worth = [10 ** (-cost.sqnr_db / 10) for cost in blocks]
    longest = max(worth) or 1.0
    return [
        Row(
            cost.block,
            f"{cost.lost_points:+.2f}"
            if cost.lost_points is not None
            else f"{cost.sqnr_db:.1f} dB",
            f"on {cost.domain}, {cost.sqnr_db:.1f} dB" if judged else f"{cost.nodes} nodes",
            round(value / longest, 4),
            value > 0 and value == longest,
        )
        for cost, value in zip(blocks, worth, strict=True)
    ]


def layer_rows(head: HeadReport) -> list[Row]:
    """Layers in graph order with the SQNR of what they put out."""
    measured = [layer for layer in head.layers if layer.sqnr_db is not None]
    longest = max((layer.sqnr_db or 0.0 for layer in measured), default=1.0) or 1.0
    return [
        Row(
            layer.name,
            f"{layer.sqnr_db:.1f}",
            layer.kind if layer.int8 else f"{layer.kind}, float",
            round(max(layer.sqnr_db or 0.0, 0.0) / longest, 4),
            (layer.sqnr_db or 0.0) < WORRYING_DB,
        )
        for layer in measured
    ]


def sweep_points(sweep: SweepResult) -> list[Point]:
    """Candidates placed by size (x) and loss (y, down is better), 0..1 of the plane."""

    def loss(each: CandidateResult) -> float:
        return each.lost_points if each.lost_points is not None else -each.sqnr_db

    if not sweep.by_loss:
        return []
    sizes = [each.size for each in sweep.by_loss]
    losses = [loss(each) for each in sweep.by_loss]
    low, wide = min(sizes), (max(sizes) - min(sizes)) or 1
    best, tall = min(losses), (max(losses) - min(losses)) or 1.0
    chosen = set(sweep.chosen.values())
    return [
        Point(
            round((each.size - low) / wide, 4),
            round((value - best) / tall, 4),
            f"{candidate_name(each)}: {each.size / 1e6:.2f} MB, "
            + (f"{each.lost_points:+.2f} points" if each.lost_points is not None else "")
            + f" {each.sqnr_db:.1f} dB",
            each.runtime,
            candidate_name(each) in chosen,
            each.passed is False,
        )
        for each, value in zip(sweep.by_loss, losses, strict=True)
    ]


def say(value: float) -> str:
    """A number of any size in few digits."""
    return f"{value:.3g}"


def _head_view(head: HeadReport) -> dict[str, Any]:
    worst = sorted(head.tensors, key=lambda each: each.sqnr_db if each.sqnr_db is not None else 1e9)
    shown = worst[:_TOP_TENSORS]
    names = {each.name for each in shown}
    return {
        "head": head,
        "worst": [draw_histogram(each) for each in shown],
        "rest": [draw_histogram(each) for each in head.tensors if each.name not in names],
        "layers": layer_rows(head),
        "blocks": block_rows(head.blocks),
        "judged": any(cost.lost_points is not None for cost in head.blocks),
        "in_float": [layer for layer in head.layers if not layer.int8],
        "int8_layers": sum(1 for layer in head.layers if layer.int8),
        "least": min(
            (each.sqnr_db for each in head.layers if each.sqnr_db is not None), default=None
        ),
    }


def _render(template: str, **context: Any) -> str:
    import jinja2  # slow to load; only a finished measurement needs it
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("calibration", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["say"] = say
    # The film report's style, so that both look alike, and what only these pages have.
    clinic = files("edge_runtime.clinic") / "templates" / "report.css"
    own = files("calibration") / "templates" / "calibration.css"
    style = clinic.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template(template).render(
        style=Markup(style),
        style_hash=Markup(f"'sha256-{digest}'"),
        research_use=RESEARCH_USE,
        width=WIDTH,
        height=HEIGHT,
        **context,
    )
