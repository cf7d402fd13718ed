"""What ``leukoscope export bundle`` and ``add-heads`` do alike about heads.

Owns the default cards, the closing table and the verdict. Does not own flags (see ``cli``)
nor any step (see ``head_export``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import BundleError

if TYPE_CHECKING:
    from rich.table import Table

    from export.bundle_writer import BundleDraft
    from export.head_export import HeadSources
    from export.heads import HeadResult
    from export.parity import GateRow

_CARDS = Path(__file__).resolve().parents[1] / "train" / "model_cards"
CLASSIFIER_CARD, ATTRIBUTE_CARD = _CARDS / "wbc-classifier.yaml", _CARDS / "wbc-attributes.yaml"


def head_sources(
    *,
    data: Path,
    detector: Path | None,
    classifier: Path | None,
    classifier_card: Path,
    attribute_head: Path | None,
    attribute_card: Path,
) -> HeadSources:
    """Reads the cards of the heads that are wanted.

    Raises:
        DataError: a card is missing or says too little.
    """
    from export.cards import load_card
    from export.head_export import HeadSources

    return HeadSources(
        data=data,
        detector=detector,
        classifier=classifier,
        classifier_card=None if classifier is None else load_card(classifier_card),
        attribute_head=attribute_head,
        attribute_card=None if attribute_head is None else load_card(attribute_card),
    )


def verdict_table(title: str, judged_on: str) -> Table:
    """An empty table of a gate's verdicts; ``judged_on`` heads the column of domains."""
    from rich.table import Table

    table = Table(title=title)
    for name in ("artifact", "backend", judged_on):
        table.add_column(name)
    for name in ("float", "int8", "points lost"):
        table.add_column(name, justify="right")
    return table


def add_verdict(table: Table, row: GateRow, artifact: str) -> None:
    """A line for each domain, red where more is lost than allowed.

    Args:
        table: out of ``verdict_table``.
        row: the verdict.
        artifact: its name as the table shows it.
    """
    for each in row.parity.domains:
        over = each.lost_points > row.parity.allowed_points
        table.add_row(
            artifact,
            row.backend,
            each.domain,
            f"{each.float_figure:.4f}",
            f"{each.int8_figure:.4f}",
            f"{each.lost_points:+.2f}",
            style="bold red" if over else None,
        )


def print_heads(results: Sequence[HeadResult], draft: BundleDraft) -> None:
    """The gate's table, test figures and sizes."""
    from rich.console import Console

    console = Console()
    shown = {row.figure for result in results for row in result.gate}
    for figure in ("macro-F1", "blast recall"):
        if figure not in shown:
            continue
        title = f"{figure[0].upper()}{figure[1:]} on validation cells, float against int8"
        gate = verdict_table(title, "cells")
        for result in results:
            for row in result.gate:
                if row.figure == figure:
                    add_verdict(gate, row, row.artifact.removesuffix(".onnx"))
            gate.add_section()
        console.print(gate)
    for result in results:
        for name, values in result.card.metrics.items():
            if name.startswith("test"):
                said = ", ".join(f"{key} {value:g}" for key, value in values.items())
                console.print(f"{result.head}, {name}: {said}")
        for artifact in result.artifacts:
            console.print(
                f"{artifact.path}: {artifact.size / 1e6:.1f} MB, "
                f"{artifact.quantised_share:.1%} of the convolutions' work in int8"
            )
    if draft.classifier is not None:
        console.print(
            f"classifier: temperature {draft.classifier.temperature:g}, unclassified below "
            f"{draft.classifier.abstain_below:g}"
        )


def stop_at_the_gate(results: Sequence[HeadResult], out: Path) -> None:
    """Passes when every head did.

    Raises:
        BundleError: one did not; names the worst.
    """
    failed = [row for result in results for row in result.gate if not row.parity.passed]
    if not failed:
        return
    row = max(failed, key=lambda row: row.parity.worst.lost_points)
    worst = row.parity.worst
    raise BundleError(
        f"{row.artifact} on {row.backend} loses {worst.lost_points:.2f} {row.figure} points on "
        f"{worst.domain}, {row.parity.allowed_points:g} are allowed; {out} is not written. "
        "Try --calibration-method best or more --calibration-cells"
    )
