"""``leukoscope train site``.

Owns flags and what is printed. Does not own reading, training or measuring (see ``train.site``).
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.errors import LeukoscopeError, SettingsError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from train.site.settings import SiteSettings
    from train.site.verdict import Change, SiteResult


class LabelFormat(str, Enum):
    """How the fields are labelled."""

    AUTO = "auto"
    YOLO = "yolo"
    COCO = "coco"
    CVAT = "cvat"


class OtherClasses(str, Enum):
    """What becomes of classes that the model does not have."""

    REFUSE = "refuse"
    BACKGROUND = "background"


class CheckSplit(str, Enum):
    """Source pictures that no training saw."""

    VAL = "val"
    TEST = "test"


def site(
    fields: Annotated[Path, typer.Option(help="folder of the site's labelled fields")],
    replay: Annotated[
        list[Path], typer.Option(help="source set, YOLO layout with splits; may be given again")
    ],
    start_from: Annotated[Path, typer.Option(help="own detector's checkpoint (a pickle)")],
    out: Annotated[Path, typer.Option(help="new run folder")],
    ratio: Annotated[
        float, typer.Option(min=0.01, max=1000, help="pictures of the site per replayed one")
    ] = 4.0,
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="train on the site alone, for comparison")
    ] = False,
    labels: Annotated[
        LabelFormat, typer.Option("--format", help="of the labels; auto tells it from the files")
    ] = LabelFormat.AUTO,
    renames: Annotated[
        list[str] | None,
        typer.Option("--map", help="class name in a set = the model's, e.g. 'white cell=WBC'"),
    ] = None,
    others: Annotated[
        OtherClasses, typer.Option(help="cells of classes that the model lacks")
    ] = OtherClasses.REFUSE,
    most_fields: Annotated[
        int | None, typer.Option(min=1, help="draw at most so many fields [default: all]")
    ] = None,
    minimum_fields: Annotated[
        int, typer.Option(min=3, help="fewer different fields are refused")
    ] = 5,
    check_split: Annotated[
        CheckSplit, typer.Option(help="source pictures that the check measures on")
    ] = CheckSplit.VAL,
    limit_drop: Annotated[
        float, typer.Option(min=0, help="points of AP50-95 that a source set may lose")
    ] = 2.0,
    epochs: Annotated[int, typer.Option(min=1, help="at most; stops early")] = 40,
    patience: Annotated[
        int | None, typer.Option(min=1, help="epochs without a gain before it stops")
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="pictures an epoch, at least")] = 200,
    size: Annotated[
        int | None, typer.Option(min=32, help="side of the input [default: the checkpoint's]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="pictures per step")] = 16,
    lr0: Annotated[float | None, typer.Option(help="learning rate [default: 0.0005]")] = None,
    freeze: Annotated[
        int | None, typer.Option(min=0, help="first layers that keep their weights")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all draws")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, or the index of one GPU")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    workers: Annotated[int, typer.Option(min=0, help="processes that load data")] = 2,
) -> None:
    """Adapt a detector to one microscope with few labelled fields, without losing the source.

    Exit code 2, and rejected.pt in place of best.pt, when a source set loses too much.
    """
    from train.site.run import adapt_to_site

    hyp = {"patience": patience, "lr0": lr0, "freeze": freeze}
    settings = _settings(
        fields=str(fields),
        labels=labels.value,
        most_fields=most_fields,
        replay=tuple(str(each) for each in replay),
        mix_replay=not no_replay,
        ratio=ratio,
        start_from=str(start_from),
        renames=_renames(renames or []),
        others=others.value,
        minimum_fields=minimum_fields,
        check_split=check_split.value,
        limit_drop=limit_drop,
        pictures_per_epoch=pictures,
        epochs=epochs,
        batch=batch,
        size=size,
        seed=seed,
        hyp={name: value for name, value in hyp.items() if value is not None},
    )
    result = adapt_to_site(
        settings,
        out,
        device=device,
        resume=resume,
        workers=workers,
        say=lambda line: typer.echo(line, err=True),
    )
    _print(result)
    typer.echo(f"what happened, with pictures: {out / 'site.md'}")
    typer.echo(RESEARCH_USE)
    if not result.passed:
        raise LeukoscopeError(f"{result.verdict}; kept as {result.checkpoint}")
    typer.echo(result.verdict)
    typer.echo(f"checkpoint: {result.checkpoint}")


def _settings(**values: Any) -> SiteSettings:
    from pydantic import ValidationError

    from train.attridet_recipe import first_fault
    from train.site.settings import SiteSettings

    try:
        return SiteSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"site: {first_fault(error)}") from error


def _renames(given: list[str]) -> dict[str, str]:
    renames: dict[str, str] = {}
    for each in given:
        old, equals, new = (part.strip() for part in each.partition("="))
        if not old or not equals or not new:
            raise SettingsError(f"--map {each!r}: expected 'name in the set=name in the model'")
        if old in renames:
            raise SettingsError(f"--map {each!r}: {old!r} is mapped twice")
        renames[old] = new
    return renames


def _print(result: SiteResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="AP50-95 before and after")
    table.add_column("pictures")
    table.add_column("class")
    for head in ("cells", "before", "after", "points"):
        table.add_column(head, justify="right")
    rows: dict[str, Change] = {"site, held out": result.site}
    if result.site_test is not None:
        rows["site, test"] = result.site_test
    rows |= {f"source {name}": each for name, each in result.source.items()}
    for name, change in rows.items():
        before, after = change.before, change.after
        table.add_row(
            name,
            "mean",
            str(before.cells),
            f"{before.ap:.3f}",
            f"{after.ap:.3f}",
            f"{change.points:+.1f}",
        )
        if len(before.classes) < 2:
            continue
        for old, new in zip(before.classes, after.classes, strict=True):
            if old.ap is not None and new.ap is not None:
                points = f"{100 * (new.ap - old.ap):+.1f}"
                table.add_row(
                    "", old.name, str(old.cells), f"{old.ap:.3f}", f"{new.ap:.3f}", points
                )
    Console().print(table)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command()(site)
