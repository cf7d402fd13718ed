"""``leukoscope bench adapt``, ``sparse``, ``site``, ``method-cost``, ``qat``.

Owns flags and tables. Does not own the experiments.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.errors import SettingsError

_RESULTS = Path("benchmarks") / "results"
_RUNS = Path("runs")

DataOption = Annotated[Path, typer.Option("--data", help="data root")]
SeedsOption = Annotated[
    list[int] | None, typer.Option("--seed", min=0, help="may be given again [default: 0 1 2]")
]
JobsOption = Annotated[int, typer.Option(min=1, help="trainings at once")]
GatherOption = Annotated[bool, typer.Option("--gather", help="train nothing; write what is there")]
_DATA = Path("../shared/data")


def adapt(
    data: DataOption = _DATA,
    seed: SeedsOption = None,
    direction: Annotated[
        list[str] | None, typer.Option(help="hcm-lcm or lcm-hcm; may be given again")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help="three or wbc; may be given again")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="source-only, oracle, confmix, daca or a variant")
    ] = None,
    jobs: JobsOption = 2,
    gather: GatherOption = False,
    work: Annotated[Path, typer.Option(help="a folder per training")] = _RUNS / "adaptation",
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "adaptation.json",
) -> None:
    """Adapt from one microscope to another, over seeds, both ways; resumable."""
    from benchmarks.adaptation import CLASS_LISTS, DIRECTIONS, VARIANTS, AdaptationPlan, summarise
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.training_grid import require_same_recipes, run_grid
    from train import adapt as table

    facts = machine_facts(datetime.now(timezone.utc))
    known = [row.name for row in table.METHODS]
    chosen = method or [*known, *VARIANTS]
    plan = AdaptationPlan(
        directions=_among(direction, DIRECTIONS, "--direction"),
        class_lists=_among(classes, CLASS_LISTS, "--classes"),
        methods=[name for name in _among(chosen, [*known, *VARIANTS], "--method") if name in known],
        seeds=_seeds(seed),
        data_root=str(data),
        variants={name: VARIANTS[name] for name in chosen if name in VARIANTS},
    )
    require_writable(out)
    require_same_recipes(plan.runs(work), work)
    if not gather:
        run_grid(plan.runs(work), work, jobs=jobs, say=_say)
    groups = summarise(plan, work)
    _require(groups, work)
    recipe = plan.recipe(plan.directions[0], "three", 0)
    document = {
        "scale": _scale(recipe),
        "source_epochs": recipe.source_phase.epochs,
        "adapt_epochs": recipe.adapt_phase.epochs,
        "groups": groups,
    }
    write_result(out, "adaptation to another microscope", facts, document)
    for group in groups:
        _print_rows(
            f"{group['direction']}, classes: {group['classes']}",
            group["methods"],
            ("target_ap", "target_ap50", "source_ap", "source_ap50", "gap_closed"),
        )
    typer.echo(f"written to {out}")


def sparse(
    data: DataOption = _DATA,
    seed: SeedsOption = None,
    row: Annotated[list[str] | None, typer.Option(help="row of the table; may be repeated")] = None,
    jobs: JobsOption = 2,
    gather: GatherOption = False,
    work: Annotated[Path, typer.Option(help="a folder per training")] = _RUNS / "sparse",
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "sparse.json",
) -> None:
    """Train on fields of which one patch is labelled, every method, over seeds; resumable."""
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.sparse_labels import ROWS, SparsePlan, summarise
    from benchmarks.training_grid import require_same_recipes, run_grid

    facts = machine_facts(datetime.now(timezone.utc))
    plan = SparsePlan(_among(row, ROWS, "--row"), _seeds(seed), str(data))
    require_writable(out)
    require_same_recipes(plan.runs(work), work)
    if not gather:
        run_grid(plan.runs(work), work, jobs=jobs, say=_say)
    result = summarise(plan, work)
    _require(result["rows"], work)
    recipe, start = plan.recipe(0), plan.start()
    document = {
        "scale": {**_scale(recipe), "start": f"{start.name}, {start.phase.epochs} epochs"},
        "patch_share": recipe.patch_share,
        "epochs": recipe.phase.epochs,
        **result,
    }
    write_result(out, "sparse labels", facts, document)
    _print_rows("sparse labels", result["rows"], ("ap", "ap50", "of_ceiling", "above_naive"))
    typer.echo(f"written to {out}")


def domain_gap(
    data: DataOption = _DATA,
    seed: SeedsOption = None,
    work: Annotated[Path, typer.Option(help="folder of leukoscope bench adapt")] = _RUNS
    / "adaptation",
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "domain_gap.json",
) -> None:
    """Say what a source-only detector loses by: colour, scale, statistics; its pseudo-labels."""
    from benchmarks.adaptation import CLASS_LISTS, DIRECTIONS, run_name
    from benchmarks.domain_gap import measure_gap, over_runs
    from benchmarks.machine import machine_facts, require_writable, write_result

    facts = machine_facts(datetime.now(timezone.utc))
    require_writable(out)
    groups = []
    for direction in DIRECTIONS:
        for classes in CLASS_LISTS:
            names = [run_name(direction, classes, each, "source-only") for each in _seeds(seed)]
            there = [name for name in names if (work / name / "training.json").is_file()]
            _say(f"{direction}, {classes}: {len(there)} runs")
            if there:
                runs = [measure_gap(work / name, data, _say) for name in there]
                groups.append({"direction": direction, "classes": classes, **over_runs(runs)})
    _require(groups, work)
    write_result(out, "what the gap between two microscopes is made of", facts, {"groups": groups})
    for group in groups:
        title = f"{group['direction']}, classes: {group['classes']}"
        _print_rows(title, group["target"], ("ap", "ap50"))
    typer.echo(f"written to {out}")


def site(
    data: DataOption = _DATA,
    seed: SeedsOption = None,
    fields: Annotated[
        list[int] | None,
        typer.Option(min=5, help="labelled fields; may be given again [default: 10 25 50 100]"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="of an adaptation")] = 8,
    jobs: JobsOption = 2,
    gather: GatherOption = False,
    work: Annotated[Path, typer.Option(help="a folder per training")] = _RUNS / "site",
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "site.json",
) -> None:
    """Adapt a detector to a site with few fields, with and without replay; resumable.

    The learning curve is drawn beside the result file, as PNG.
    """
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.site_curve import SitePlan, draw_curve, summarise
    from benchmarks.training_grid import require_same_recipes, run_grid

    facts = machine_facts(datetime.now(timezone.utc))
    counts = sorted(set(fields or [10, 25, 50, 100]))
    plan = SitePlan(counts, _seeds(seed), epochs, str(data))
    require_writable(out)
    require_same_recipes(plan.runs(work), work)
    if not gather:
        run_grid(plan.runs(work), work, jobs=jobs, say=_say)
    result = summarise(plan, work)
    _require(result["rows"], work)
    write_result(out, "adaptation to a site", facts, result)
    draw_curve(result, out.with_suffix(".png"))
    _print_rows(
        "labelled fields of the site",
        {f"{row['fields']} {row['kind']}": row for row in result["rows"]},
        ("target_ap", "target_ap50", "source_ap", "source_ap50"),
    )
    typer.echo(f"written to {out} and {out.with_suffix('.png').name}")


def method_cost(
    checkpoint: Annotated[
        Path, typer.Option(help="own checkpoint (a pickle) with three classes to begin with")
    ],
    data: DataOption = _DATA,
    pictures: Annotated[int, typer.Option(min=16, help="training pictures per set")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds")] = 3,
    work: Annotated[Path, typer.Option(help="folder of the runs")] = _RUNS / "method-cost",
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "method_cost.json",
) -> None:
    """Measure what a training step of each method costs beside a plain one."""
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.method_cost import CostSettings, measure_cost

    facts = machine_facts(datetime.now(timezone.utc))
    require_writable(out)
    settings = CostSettings(checkpoint, str(data), pictures, rounds)
    result = measure_cost(settings, work, _say)
    write_result(out, "step time of training methods", facts, result)
    for name, row in result["methods"].items():
        cost = f"{row['seconds_per_step']:.3f} s a step, {row['ratio']:.2f} x {row['beside']}"
        typer.echo(f"{name}: {cost}")
    typer.echo(f"written to {out}")


def qat(
    data: DataOption = _DATA,
    seed: SeedsOption = None,
    size: Annotated[
        list[str] | None, typer.Option(help="n or s, of YOLO11; may be given again")
    ] = None,
    jobs: JobsOption = 2,
    gather: GatherOption = False,
    work: Annotated[Path, typer.Option(help="a folder per training")] = _RUNS / "qat",
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "qat.json",
) -> None:
    """Compare int8 after training with int8 while training; resumable."""
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.qat import FLOAT, ROUNDED, SIZES, QatPlan, summarise
    from benchmarks.training_grid import require_same_recipes, run_grid

    facts = machine_facts(datetime.now(timezone.utc))
    plan = QatPlan(_among(size, SIZES, "--size"), _seeds(seed), str(data))
    require_writable(out)
    require_same_recipes(plan.runs(work), work)
    if not gather:
        run_grid(plan.runs(work), work, jobs=jobs, say=_say)
    result = summarise(plan, work)
    _require(result["rows"], work)
    first, then = (plan.recipe("n", 0, name) for name in (FLOAT, ROUNDED))
    scale = {
        "images": first.compose.images,
        "image_size": first.compose.size,
        "activation": first.activation,
        "epochs": [first.train.epochs, then.train.epochs],
    }
    write_result(out, "int8 after and while training", facts, {"scale": scale, **result})
    _print_rows("mean AP over test sets", result["rows"], ("float_ap", "lost_while_training"))
    typer.echo(f"written to {out}")


def _among(given: list[str] | None, known: Any, flag: str) -> list[str]:
    names = list(dict.fromkeys(given or known))
    for name in names:
        if name not in known:
            raise SettingsError(f"{flag} {name}: choose among {', '.join(known)}")
    return names


def _seeds(given: list[int] | None) -> list[int]:
    return list(dict.fromkeys(given or [0, 1, 2]))


def _require(found: Any, work: Path) -> None:
    if not found:
        raise SettingsError(f"--gather: no finished run in {work}; run without it first")


def _scale(recipe: Any) -> dict[str, Any]:
    return {
        "model": recipe.model,
        "image_size": recipe.image_size,
        "batch": recipe.batch,
        "start": "random weights",
    }


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_rows(title: str, rows: dict[str, Any], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.published_adaptation import figure

    table = Table(title=title)
    table.add_column("method")
    for head in columns:
        table.add_column(head, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(figure(row.get(head)) for head in columns))
    Console().print(table)


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(adapt)
    app.command()(sparse)
    app.command("domain-gap")(domain_gap)
    app.command()(site)
    app.command("method-cost")(method_cost)
    app.command()(qat)
