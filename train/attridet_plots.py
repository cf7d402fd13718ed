"""Pictures of an AttriDet's figures: average precision per class, F1 per attribute.

Owns the two charts. Does not own measuring (see ``evaluate_attridet``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibration.attribute_metrics import AttributeMetrics
from edge_runtime.film_report import RESEARCH_USE
from train.evaluate_attridet import Judgement

_RULES = {
    "nearest": "nearest find",
    "one_to_one": "find of its own",
    "oracle": "labelled boxes",
}
# Dark to light of one hue for the rules, so that they read in grey as well.
_SHADES = ("#1b4965", "#5fa8d3", "#bee3f5")


def write_charts(judgement: Judgement, folder: Path, *, title: str) -> list[Path]:
    """Writes ``classes.png``, and ``attributes.png`` where there is a head.

    Returns:
        The files written.
    """
    # Without a window system, and without touching the global state that pyplot keeps.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(7, 1.6 + 0.42 * len(judgement.detection.classes)), layout="tight")
    FigureCanvasAgg(figure)
    _classes(figure.add_subplot(), judgement)
    figure.suptitle(title)
    figure.supxlabel(RESEARCH_USE, fontsize=7)
    figure.savefig(folder / "classes.png", dpi=130)
    written = [folder / "classes.png"]
    if judgement.attributes:
        figure = Figure(
            figsize=(7, 1.8 + 0.6 * len(judgement.attributes[0].attributes)), layout="tight"
        )
        FigureCanvasAgg(figure)
        _attributes(figure.add_subplot(), judgement.attributes)
        figure.suptitle(title)
        figure.supxlabel(RESEARCH_USE, fontsize=7)
        figure.savefig(folder / "attributes.png", dpi=130)
        written.append(folder / "attributes.png")
    return written


def _classes(axes: Any, judgement: Judgement) -> None:
    rows = judgement.detection.classes
    places = range(len(rows))
    axes.barh(
        [p - 0.2 for p in places], [r.ap50 or 0 for r in rows], 0.4, label="AP50", color=_SHADES[1]
    )
    axes.barh(
        [p + 0.2 for p in places], [r.ap or 0 for r in rows], 0.4, label="AP50-95", color=_SHADES[0]
    )
    labels = [f"{r.name} ({r.cells})" if r.cells else f"{r.name} (no cell)" for r in rows]
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("average precision (COCO); cells in brackets")
    axes.legend(loc="lower right", fontsize=8)


def _attributes(axes: Any, rules: tuple[AttributeMetrics, ...]) -> None:
    names = [each.name for each in rules[0].attributes]
    thickness = 0.8 / len(rules)
    for number, metrics in enumerate(rules):
        axes.barh(
            [p - 0.4 + thickness * (number + 0.5) for p in range(len(names))],
            [each.f1 or 0 for each in metrics.attributes],
            thickness,
            label=_RULES[metrics.rule],
            color=_SHADES[number],
        )
    # Prevalence is that of all labelled cells, which the last rule judges.
    reference = rules[-1].attributes
    for mark, key, text in (
        ("|", "all_ones_f1", "always the second value"),
        ("x", "majority_f1", "always the most frequent value"),
    ):
        points = [(getattr(each, key), p) for p, each in enumerate(reference)]
        known = [(x, y) for x, y in points if x is not None]
        if known:
            axes.scatter(
                *zip(*known, strict=True),
                marker=mark,
                s=120 if mark == "|" else 30,
                color="#c1121f",
                label=text,
                zorder=3,
            )
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1 (of the second value where there are two, else the mean of all)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8)
