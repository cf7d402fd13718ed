"""``leukoscope data``: list, check, transfer.

Owns flags and what is printed. Does not own reading or checking (see ``train.datasets``).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from train.datasets.check import CheckReport, Progress
    from train.datasets.transfer_set import Outcome

_LISTED = 20

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Look through labelled cells before training. {RESEARCH_USE}",
)


class Order(str, Enum):
    """Order of the four patch columns."""

    CORNERS = "x1,y1,x2,y2"
    AXES = "x1,x2,y1,y2"


class HeldOut(str, Enum):
    """Where validation pictures come from."""

    OWN = "own"
    RANDOM = "random"
    GROUP = "group"


@app.command("list")
def list_datasets() -> None:
    """Name the data sets that can be read, their classes and mappings."""
    from train.datasets.schemas import load_specs

    for spec in load_specs().values():
        typer.echo(f"{spec.name}: {spec.title}; {spec.published or 'of no published size'}")
        attributes = len(spec.attribute_names)
        mappings = f"; mappings: {', '.join(spec.mappings)}" if spec.mappings else ""
        typer.echo(f"  {len(spec.classes)} classes, {attributes} attributes{mappings}")
    typer.echo(RESEARCH_USE)


@app.command()
def check(
    dataset: Annotated[str, typer.Argument(help="which data set; leukoscope data list names them")],
    folder: Annotated[Path, typer.Argument(help="its folder")],
    show_all: Annotated[
        bool, typer.Option("--all", help=f"list everything, not the first {_LISTED} of each kind")
    ] = False,
    mapping: Annotated[
        str | None, typer.Option(help="count in another class list, such as A for lmu")
    ] = None,
    validation: Annotated[
        HeldOut,
        typer.Option(help="hold validation pictures out of train: at random, by group, or not"),
    ] = HeldOut.OWN,
    seed: Annotated[int, typer.Option(min=0, help="of that draw")] = 0,
    patch_order: Annotated[
        Order | None, typer.Option(help="of patch columns; told from the labels when not given")
    ] = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="open no picture, look for no near-duplicate")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="threads that open pictures")] = 2,
) -> None:
    """Say what a folder holds and what is wrong with it.

    Exit code 0: clean; 1: look at the warnings; 2: bad rows or pictures, or another data set.
    """
    from train.datasets.catalog import read_dataset
    from train.datasets.check import check_set
    from train.datasets.splits import with_validation

    cells = read_dataset(
        dataset,
        folder,
        mapping=mapping,
        patch_order=None if patch_order is None else patch_order.value,
    )
    cells = with_validation(cells, validation.value, seed=seed)
    with _Counting("opening pictures") as counting:
        report = check_set(
            cells, open_pictures=not labels_only, workers=workers, progress=counting.show
        )
    _print_report(report, show_all=show_all, labels_only=labels_only)
    raise typer.Exit(report.exit_code)


@app.command()
def transfer(
    sources: Annotated[Path, typer.Option("--from", help="folder of labelled source fields")],
    targets: Annotated[Path, typer.Option("--to", help="folder of target pictures")],
    out: Annotated[Path, typer.Option(help="new folder for labels and review")],
    pairs: Annotated[
        str, typer.Option(help="CSV file with the columns source,target, or same-name")
    ] = "same-name",
    expected_scale: Annotated[
        float | None,
        typer.Option(help="target pixels per source pixel, 100x to 40x: 0.4 [default: unknown]"),
    ] = None,
    chain: Annotated[
        Path | None, typer.Option(help="pictures of a magnification between the two")
    ] = None,
    chain_scale: Annotated[
        float | None, typer.Option(help="pixels of those per source pixel")
    ] = None,
    corner_margin: Annotated[
        float,
        typer.Option(help="how far a source's corners may lie outside its target, as a share"),
    ] = 0.05,
    dataset: Annotated[
        str | None,
        typer.Option(help="what --from is, as data list names it [default: its data.yaml says]"),
    ] = None,
    hand: Annotated[
        Path | None, typer.Option(help="label files drawn by hand on targets, to compare with")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="accepted pairs to check by hand")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="of that sample")] = 0,
) -> None:
    """Carry labels to pictures of the same fields at another magnification or microscope.

    Exit code 0 also when pairs are rejected: they stand first in review.html, with reasons.
    """
    from train.datasets.transfer import Scales
    from train.datasets.transfer_set import Request, transfer_set

    request = Request(
        sources=sources,
        targets=targets,
        pairs=pairs,
        out=out,
        scales=Scales(expected_scale, chain_scale),
        dataset=dataset,
        chain=chain,
        hand=hand,
        corner_margin=corner_margin,
        seed=seed,
        sample=sample,
    )
    with _Counting("transferring") as counting:
        outcome = transfer_set(request, progress=counting.show)
    _print_outcome(outcome)


def _print_outcome(outcome: Outcome) -> None:
    counts = [each.counts for each in outcome.accepted]
    kept, dropped, cut = (
        sum(each[kind] for each in counts) for kind in ("kept", "dropped", "cut_in_source")
    )
    typer.echo(
        f"{len(outcome.accepted)} of {len(outcome.entries)} pairs accepted: {kept} cells kept, "
        f"{dropped} dropped at the target's edge, {cut} cut by the source's frame"
    )
    if not outcome.accepted:
        typer.echo("every pair was rejected; no labels were written")
    rejected = [
        f"{each.source} to {each.target}: {'; '.join(each.transfer.reasons)}"
        for each in outcome.rejected
    ]
    _print_list("rejected", rejected, _LISTED, more="in the review")
    if outcome.hand is not None:
        figures = outcome.hand
        recall = "not measurable" if figures.recall is None else f"{figures.recall:.3f}"
        error = figures.median_centre_error_px
        typer.echo(
            f"against {figures.hand_boxes} boxes drawn by hand: recall at IoU 0.5 {recall}, "
            f"median centre error {'not measurable' if error is None else f'{error:.2f} px'}"
        )
    typer.echo(f"review: {outcome.review}")
    typer.echo(RESEARCH_USE)


class _Counting:
    """A bar on the terminal; silence where nobody watches."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.show: Progress | None = None

    def __enter__(self) -> _Counting:
        import sys

        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            task = self._bar.add_task(self._what, total=None)
            self._bar.start()
            self.show = lambda done, wanted: self._bar.update(task, completed=done, total=wanted)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.show is not None:
            self._bar.stop()


def _print_report(report: CheckReport, *, show_all: bool, labels_only: bool) -> None:
    from calibration.near_duplicates import HASH_BITS
    from train.datasets.schemas import load_spec

    cells = report.cells
    spec = load_spec(cells.name)
    total = sum(len(each) for each in cells.images)
    typer.echo(
        f"{spec.title}: {len(cells.images)} pictures, {total} labelled cells in {cells.root}"
    )
    if spec.published:
        typer.echo(f"published: {spec.published}")
    for note in cells.notes:
        typer.echo(f"note: {note}")
    _print_counts(report)
    for attribute in report.attributes:
        judged = sum(count for _, count in attribute.values)
        shown = ", ".join(
            f"{value} {count} ({count / judged if judged else 0:.1%})"
            for value, count in attribute.values
        )
        typer.echo(f"{attribute.name}: {shown}; not judged {attribute.missing}")

    listed = None if show_all else _LISTED
    _print_list("bad rows", cells.bad, listed)
    if labels_only:
        typer.echo("pictures were not opened, near-duplicates not looked for")
    else:
        _print_list("pictures that cannot be used", report.unusable, listed)
        near = [
            f"{pair.first.image} ({pair.first.split}) and {pair.second.image} "
            f"({pair.second.split}): {pair.distance} of {HASH_BITS} bits differ"
            for pair in report.near
        ]
        capped = " or more" if report.near_is_capped else ""
        _print_list(f"near-duplicates across splits{capped}", near, listed)
    crossing = [f"{name}: {', '.join(splits)}" for name, splits in report.crossing.items()]
    _print_list("groups in several splits", crossing, listed)
    _print_list("warnings", cells.warnings, listed)
    typer.echo(("clean", "look at the above", "mend the above first")[report.exit_code])
    typer.echo(RESEARCH_USE)


def _print_counts(report: CheckReport) -> None:
    splits = report.cells.splits
    rows = [("", *splits), ("pictures", *(str(len(report.cells.of_split(s))) for s in splits))]
    for class_id, name in enumerate(report.cells.classes):
        rows.append((name, *(str(report.cells_of(class_id, split)) for split in splits)))
    first = max(len(row[0]) for row in rows)
    for row in rows:
        numbers = "".join(f"{cell:>9}" for cell in row[1:])
        typer.echo(f"{row[0]:<{first}}{numbers}")


def _print_list(
    title: str, lines: Sequence[str], listed: int | None, *, more: str = "--all lists them"
) -> None:
    typer.echo(f"{title}: {len(lines)}")
    for line in lines[:listed]:
        typer.echo(f"  {line}")
    if listed is not None and len(lines) > listed:
        typer.echo(f"  and {len(lines) - listed} more; {more}")
