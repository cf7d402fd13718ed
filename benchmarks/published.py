"""The figures in the README, taken from result files.

Owns turning committed results into Markdown tables and putting them between markers, so
that no figure in the README is typed by hand. Does not own measuring.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import published_adaptation, published_clinic, published_latency
from benchmarks.machine import BUSY_SHARE
from edge_runtime.errors import DataError

_SETS = {
    "hcm_pbc": "hcm_pbc, test split",
    "lcm_raabin": "lcm_raabin, test split",
    "bccd": "bccd, test split",
    "wbc_masks": "wbc-masks, test split",
    "virtual": "virtual films",
    "wide_hcm_pbc": "simulated wide fields of hcm_pbc",
    "wide_lcm_raabin": "simulated wide fields of lcm_raabin",
    "wide_bccd": "simulated wide fields of bccd",
}

_SWEPT = {"cpu": "processors", "tensorrt": "TensorRT"}
_UNSEEN = ("ap", "recall", "precision")


def fill_readme(readme: str, results: Path) -> str:
    """The README with every table between its markers made anew.

    A table is written where its result file exists; otherwise it says "not measured yet".

    Args:
        readme: Markdown with lines ``<!-- name -->`` and ``<!-- /name -->``.
        results: folder of result files.

    Raises:
        DataError: a marker is not closed or not known.
    """
    for name in re.findall(r"^<!-- ([a-z_]+) -->$", readme, re.MULTILINE):
        if name not in _TABLES:
            raise DataError(f"README marker {name!r}: no such table; known: {sorted(_TABLES)}")
        block = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL)
        if not block.search(readme):
            raise DataError(f"README marker {name!r}: not closed by <!-- /{name} -->")
        path = results / f"{name}.json"
        table = "Not measured yet.\n"
        if path.is_file():
            table = _TABLES[name](json.loads(path.read_text(encoding="utf-8")))
        text = f"<!-- {name} -->\n{table}<!-- /{name} -->"
        readme = block.sub(lambda _, text=text: text, readme)  # type: ignore[misc]
    return readme


def _accuracy(result: dict[str, Any]) -> str:
    backend = result["backend"]
    lines = [
        f"{result['bundle']}, {backend['artifact']} ({backend['precision']}) on {backend['name']} "
        f"{backend['version']}, operating score {result['operating_score']:.2f}; "
        f"{result['machine']}, {result['date']}.",
        "",
        "| set | fields | cells | AP50-95 | AP50 | AR | recall | precision | false cells |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, label in _SETS.items():
        if name in result["sets"]:
            row = result["sets"][name]
            shown = (row[key] for key in ("ap", "ap50", "ar", "recall", "precision"))
            lines.append(
                f"| {label} | {row['images']} | {row['cells']} | "
                + " | ".join(f"{value:.3f}" for value in shown)
                + f" | {row['false_cells']} |"
            )
    return "\n".join(lines) + "\n"


def _peers(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}; "
        f"{result['threads']} threads, medians of {result['rounds']} interleaved rounds, "
        f"{result['fields_per_run']} fields each.",
        "",
        "| contender | fields/s | peak memory, MB | first result, s |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["contenders"].items():
        cells = [
            f"{row[key]:.{digits}f}" if key in row else "–"
            for key, digits in (("fields_per_s", 1), ("peak_memory_mb", 0), ("first_result_s", 2))
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| `leukoscope` against | wanted | measured | met |", "|---|---:|---:|---|"]
    for row in result["targets"]:
        wanted = f"≥ {row['at_least']}" if "at_least" in row else f"≤ {row['at_most']}"
        lines.append(
            f"| {row['peer']}: {row['figure']} | {wanted} | {row['ratio']:.3f} | "
            f"{'yes' if row['met'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def _sweep(result: dict[str, Any]) -> str:
    (head,) = result["heads"]
    candidates = head["by_loss"]
    failed = sum(not each["passed"] for each in candidates)
    lines = [
        f"{result['ran_on']}, {result['date']}; ranges of {head['calibrated_on']}, "
        f"{head['figure']} on {head['judged_on']}. Of {len(candidates)} candidates {failed} "
        f"lose more than {head['allowed_points']:g} points on some domain.",
        "",
        "| artifact for | shipped: ranges by | blocks in float | points lost | MB | least loss of "
        "all: ranges by | blocks in float | points lost | MB |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for runtime, name in head["chosen"].items():
        own = [each for each in candidates if each["runtime"] == runtime]
        shipped = next(
            each for each in own if f"{runtime} {each['method']} {each['exclusion']}" == name
        )
        shown = [
            f"{each['method']} | {len(each['blocks'])} | {each['lost_points']:.2f} | "
            f"{each['size'] / 1e6:.2f}"
            for each in (shipped, own[0])
        ]
        lines.append(f"| {_SWEPT[runtime]} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _precision(result: dict[str, Any]) -> str:
    machine, target = result["machine"], result["targets"][0]
    others = max(row["others_share"] for row in result["rows"])
    busy = (
        f" Other programs used up to {100 * others:.0f} % of the machine meanwhile: read the "
        "ratios, not the rates."
        if others > BUSY_SHARE
        else ""
    )
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}; "
        f"{result['bundle']}, {result['threads']} threads, medians of {result['rounds']} "
        f"interleaved rounds; calls of the model alone.{busy}",
        "",
        "| precision | runtime | fields/s | against float32 on ONNX Runtime |",
        "|---|---|---:|---:|",
        *(
            f"| {row['precision']} | {row['runtime']} | {row['fields_per_s']:.1f} | "
            f"{row['against_float32']:.2f} |"
            for row in result["rows"]
        ),
        "",
        f"{target['name']}: {target['ratio']:.2f}, at least {target['at_least']} wanted: "
        f"{'met' if target['met'] else 'not met'}.",
    ]
    return "\n".join(lines) + "\n"


def _parity(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{result['bundle']}; {machine['processor']}, {machine['date'][:10]}. Test splits, in as "
        "many mirrored views as show a small loss; TensorRT-style artifacts are run by ONNX "
        "Runtime.",
        "",
        "| head | artifact | backend | convolution work in int8 | figure | domain: float → int8 "
        "(points lost) | allowed |",
        "|---|---|---|---:|---|---|---:|",
    ]
    for name in ("detector", "classifier", "attribute_head"):
        head = result[name]
        for row in head["rows"]:
            domains = "; ".join(
                f"{domain}: {each['float']:.3f} → {each['int8']:.3f} ({each['lost_points']:+.2f})"
                for domain, each in row["domains"].items()
            )
            lines.append(
                f"| {name} | {row['artifact'].removesuffix('.onnx')} | {row['backend']} | "
                f"{100 * row['quantised_share']:.1f} % | {head['figure']} | {domains} | "
                f"{head['allowed_points']:g}{'' if row['within'] else ', exceeded'} |"
            )
    return "\n".join(lines) + "\n"


def _folds(result: dict[str, Any]) -> str:
    sets = [name for name in _SETS if any(name in f["sets"] for f in result["folds"].values())]
    lines = [
        f"AP50 per set; recipe {result['recipe']['name']}, {result['artifact']}; "
        f"{result['machine']}, {result['date']}. One seed.",
        "",
        "| training | " + " | ".join(sets) + " |",
        "|---|" + "---:|" * len(sets),
    ]
    for fold, row in result["folds"].items():
        left_out = fold.removeprefix("without-")
        cells = [
            f"**{row['sets'][name]['ap50']:.3f}**"
            if name.removeprefix("wide_") == left_out
            else f"{row['sets'][name]['ap50']:.3f}"
            for name in sets
        ]
        lines.append(f"| {fold} | {' | '.join(cells)} |")
    lines += ["", "Bold: a set whose domain this training never saw."]
    seen = result["folds"].get("relu")
    if seen is None:
        return "\n".join(lines) + "\n"
    lines += [
        "For these sets, beside the training that saw it:",
        "",
        "| set | AP50-95 unseen | seen | recall unseen | seen | precision unseen | seen |",
        "|---|" + "---:|" * 6,
    ]
    for fold, row in result["folds"].items():
        left_out = fold.removeprefix("without-")
        for name in sets:
            if name.removeprefix("wide_") == left_out:
                shown = (
                    f"{each['sets'][name][key]:.3f}" for key in _UNSEEN for each in (row, seen)
                )
                lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _heads(result: dict[str, Any]) -> str:
    machine = result["machine"]
    ran = {row["name"] + " " + row["version"] for row in result["heads"].values()}
    lines = [
        f"{result['bundle']}, {result['split']} splits, int8 on {', '.join(sorted(ran))}; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}.",
        "",
        "| set | cells | crops | accuracy | macro F1 | calibration error | nothing said |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    crops = {
        "labelled_crops": "labelled boxes",
        "found_crops": "found boxes",
        "as_reported": "found boxes, unsure ones left unclassified",
    }
    for name, row in result["sets"].items():
        for what, label in crops.items():
            each = row["classes"][what]
            lines.append(
                f"| {name} | {each['cells']} | {label} | {each['accuracy']:.3f} | "
                f"{each['macro_f1']:.3f} | {_figure(each['ece'])} | {each['unanswered']} |"
            )
    first = next(iter(result["sets"].values()))
    lines += [
        "",
        "F1 by class; a cell that was not found counts as named wrong:",
        "",
        "| set | crops | "
        + " | ".join(c["name"] for c in first["classes"]["found_crops"]["classes"])
        + " |",
        "|---|---|" + "---:|" * len(first["classes"]["found_crops"]["classes"]),
    ]
    for name, row in result["sets"].items():
        for what in ("labelled_crops", "found_crops"):
            scores = (_figure(each["f1"]) for each in row["classes"][what]["classes"])
            lines.append(f"| {name} | {crops[what]} | {' | '.join(scores)} |")
    for name, row in result["sets"].items():
        if "attributes" in row:
            lines += _attribute_rows(name, row["attributes"])
        cost = row["stages"]
        if "median_ms" in cost:
            times = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in cost["median_ms"].items())
            lines += [
                "",
                f"{name}, fields with one cell: {times}; attributes and classes together take "
                f"{cost['heads_per_detector']:.2f} of the detector's time.",
            ]
    return "\n".join(lines) + "\n"


def _attribute_rows(name: str, rules: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"Attributes of {name}, macro F1 over an attribute's values: on labelled boxes (rule c), "
        "on each cell's own find (b), on the nearest find (a), and for always saying the "
        "commonest value:",
        "",
        "| attribute | c | b | a | commonest |",
        "|---|---:|---:|---:|---:|",
    ]
    columns = [rules[rule] for rule in ("oracle", "one_to_one", "nearest")]
    for place, each in enumerate(columns[0]["attributes"]):
        scores = " | ".join(_figure(rule["attributes"][place]["macro_f1"]) for rule in columns)
        lines.append(f"| {each['name']} | {scores} | {_figure(each['majority_macro_f1'])} |")
    means = " | ".join(_figure(rule["mean_macro_f1"]) for rule in columns)
    commonest = [each["majority_macro_f1"] for each in columns[0]["attributes"]]
    known = [value for value in commonest if value is not None]
    return [*lines, f"| mean | {means} | {_figure(sum(known) / len(known) if known else None)} |"]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _attributes_detection(result: dict[str, Any]) -> str:
    how, machine = result["settings"], result["machine"]
    lines = [
        f"{result['data_set']}; {how['model']} at {how['size']} px, {how['pictures']} training "
        f"pictures, {how['epochs']} epochs, {_seeds(result)}; {machine['processor']}, "
        f"{machine['date'][:10]}.",
        "",
        "| detector | AP50-95 | AP50 |",
        "|---|---:|---:|",
    ]
    for name, label in (
        ("without", "alone"),
        ("with", "with the attribute head"),
        ("difference", "difference, seed by seed"),
    ):
        row = result["summary"][name]
        lines.append(f"| {label} | {_spread(row['ap'])} | {_spread(row['ap50'])} |")
    return "\n".join(lines) + "\n"


def _attributes_heads(result: dict[str, Any]) -> str:
    how, machine = result["settings"], result["machine"]
    lines = [
        f"{result['data_set']}; {how['cells']} training cells, {how['epochs']} epochs, "
        f"{_seeds(result)}; {machine['processor']}, {machine['date'][:10]}.",
        "",
        "| network | macro F1 | million MACs a cell | parameters | median ms a cell |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, label in (
        ("shared_head", "head on the detector's features"),
        ("crop_network", f"{how['architecture']} on crops"),
    ):
        cost = result["cost"][name]
        lines.append(
            f"| {label} | {_spread(result['summary'][name]['macro_f1'])} | "
            f"{cost['macs_per_cell'] / 1e6:.1f} | {cost['parameters']:,} | "
            f"{cost['median_ms_per_cell']:.2f} |"
        )
    lines += [
        "",
        f"Difference, seed by seed: {_spread(result['summary']['difference']['macro_f1'])}. The "
        f"crop network takes {result['cost']['time_ratio']:.2f} times as long as the head.",
    ]
    return "\n".join(lines) + "\n"


def _seeds(result: dict[str, Any]) -> str:
    count = len(result["seeds"])
    return "one seed" if count == 1 else f"{count} seeds, mean ± sd"


def _spread(each: dict[str, Any]) -> str:
    return f"{each['mean']:.3f}" + ("" if each["sd"] is None else f" ± {each['sd']:.3f}")


_TABLES = {
    "accuracy": _accuracy,
    "peers": _peers,
    "precision": _precision,
    "sweep_detector": _sweep,
    "parity": _parity,
    "folds": _folds,
    "heads": _heads,
    "attributes_detection": _attributes_detection,
    "attributes_heads": _attributes_heads,
    **published_adaptation.TABLES,
    **published_clinic.TABLES,
    **published_latency.TABLES,
}
