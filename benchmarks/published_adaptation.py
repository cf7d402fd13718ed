"""Tables of the adaptation experiments for the README, taken from result files.

Owns turning them into Markdown. Does not own putting it into the README (see ``published``)
nor measuring.
"""

from __future__ import annotations

from typing import Any

_DIRECTIONS = {
    "hcm-lcm": "hcm_pbc (source) to lcm_raabin (target)",
    "lcm-hcm": "lcm_raabin (source) to hcm_pbc (target)",
}
_CLASSES = {"three": "white cells, red cells, platelets", "wbc": "white cells alone"}
_SPARSE_ROWS = {
    "naive": "naive: unlabelled is background",
    "masked": "masked",
    "crops+windows": "crops, tested through windows",
    "co-mining": "Co-mining",
    "sparsedet": "SparseDet, adapted",
    "sla-det-lr": "SLA-Det, LR",
    "sla-det-lr-pl": "SLA-Det, LR + PL",
    "sla-det-lr-pl-tri": "SLA-Det, LR + PL + Tri",
    "sla-det-calibrated": "SLA-Det, LR + PL + Tri, calibrated thresholds",
    "full": "every label (ceiling)",
}


# Columns of the table of rounding: ways of finding ranges after training, and QAT.
_QAT = ("minmax", "percentile", "mse", "entropy", "QAT")

# Below so many cells in the test split a share of a gap between two figures is chance.
_ENOUGH = 20


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['processor']}, {machine['date'][:10]}"


def figure(value: dict[str, Any] | None, digits: int = 3) -> str:
    """Mean and deviation over seeds; says so where some of them are not there."""
    if value is None or value["mean"] is None:
        return "–"
    text = f"{value['mean']:.{digits}f}"
    if value["deviation"] is not None:
        text += f" ± {value['deviation']:.{digits}f}"
    return text + _missing(value)


def _missing(value: dict[str, Any]) -> str:
    known = [each for each in value["values"] if each is not None]
    return "" if len(known) == len(value["values"]) else f" (n = {len(known)})"


def _share(value: dict[str, Any] | None) -> str:
    """A share over seeds, in percent."""
    if value is None or value["mean"] is None:
        return "–"
    text = f"{100 * value['mean']:.0f} %"
    if value["deviation"] is not None:
        text += f" ± {100 * value['deviation']:.0f}"
    return text + _missing(value)


def _seeds(runs: int) -> str:
    return f"{runs} seeds, mean ± sd" if runs > 1 else "1 seed"


def adaptation(result: dict[str, Any]) -> str:
    """Source-only, methods and oracle, one block per direction and class list."""
    scale = result["scale"]
    lines = [
        f"{scale['model']} at {scale['image_size']} px from {scale['start']}, "
        f"{result['source_epochs']} epochs on the source, then {result['adapt_epochs']} of the "
        f"method; test splits; {_where(result)}.",
    ]
    for group in result["groups"]:
        lines += [
            "",
            f"{_DIRECTIONS[group['direction']]}, {_CLASSES[group['classes']]}, "
            f"{_seeds(len(group['seeds']))}:",
            "",
            "| method | target AP50-95 | target AP50 | source AP50-95 | source AP50 | gap closed |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, row in group["methods"].items():
            lines.append(
                f"| {name} | {figure(row['target_ap'])} | {figure(row['target_ap50'])} | "
                f"{figure(row['source_ap'])} | {figure(row['source_ap50'])} | {_gap(name, row)} |"
            )
        lines += _by_class(group)
    return "\n".join(lines) + "\n"


def _gap(method: str, row: dict[str, Any]) -> str:
    return "" if method in ("source-only", "oracle") else _share(row.get("gap_closed"))


def _by_class(group: dict[str, Any]) -> list[str]:
    """Target AP50-95 class by class, where there are several."""
    first = next(iter(group["methods"].values()))["target_classes"]
    if len(first) < 2:
        return []
    heads = "".join(
        f" {name} ({row['cells']} in test) | gap closed |" for name, row in first.items()
    )
    lines = [
        "",
        "The same by class, AP50-95 on the target:",
        "",
        f"| method |{heads}",
        "|---|" + "---:|---:|" * len(first),
    ]
    for name, method in group["methods"].items():
        cells = "".join(
            f" {figure(row['ap'])} | {_gap(name, row) if row['cells'] >= _ENOUGH else ''} |"
            for row in method["target_classes"].values()
        )
        lines.append(f"| {name} |{cells}")
    return lines


def domain_gap(result: dict[str, Any]) -> str:
    """What takes how much of the gap away, and how right pseudo-labels are."""
    lines = [
        f"Source-only detectors of the table above on the target's test split, nothing trained; "
        f"{_where(result)}.",
        "",
        "| direction, classes | as it is | source's colours | source's scale | both "
        "| target's batch statistics |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    cases = (
        "as it is",
        "source's colours",
        "source's scale",
        "both",
        "batch statistics of the target",
    )
    for group in result["groups"]:
        shown = " | ".join(figure(group["target"][case]["ap"]) for case in cases)
        lines.append(f"| {group['direction']}, {group['classes']} | {shown} |")
    lines += [
        "",
        "Pseudo-labels that these detectors make of the target's training pictures, at "
        "confidence 0.25:",
        "",
        "| direction, classes | class | precision | recall |",
        "|---|---|---:|---:|",
    ]
    for group in result["groups"]:
        for name, row in group["pseudo_labels"]["0.25"].items():
            lines.append(
                f"| {group['direction']}, {group['classes']} | {name} | "
                f"{figure(row['precision'])} | {figure(row['recall'])} |"
            )
    return "\n".join(lines) + "\n"


def domain_score(result: dict[str, Any]) -> str:
    """AUROC and alarms with every domain left out of the statistics in turn."""
    film = result["film"]
    lines = [
        f"{result['bundle']}, statistics fitted without the domain that is left out, threshold at "
        f"the {100 * result['quantile']:.0f} % quantile of held-out fields inside; films of "
        f"{film['fields']} fields drawn from its test split; {_where(result)}.",
        "",
        "| left out | score | AUROC, fields | AUROC, films | films told | inside films "
        "told wrongly |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, scores in {**result["left_out"], **result["never_fitted"]}.items():
        for kind, row in scores.items():
            alarms = row["film"]["false_alarms"].values()
            lines.append(
                f"| {name.rstrip(':')} | {kind.replace('_', ' ')} | {row['field']['auroc']:.3f} | "
                f"{row['film']['auroc']:.3f} | {100 * row['film']['detected']:.0f} % | "
                f"at most {100 * max(alarms):.1f} % |"
            )
    return "\n".join(lines) + f"\n\n{result['caveat']}\n"


def sparse(result: dict[str, Any]) -> str:
    """Every method on sparsely labelled fields."""
    scale = result["scale"]
    lines = [
        f"bccd and lcm_raabin, three classes, labels of one patch of "
        f"{100 * result['patch_share']:.0f} % of every training picture, tested on whole fields; "
        f"{scale['model']} at {scale['image_size']} px, all from a detector of another microscope "
        f"(hcm_pbc, every label; {scale['start']}), {result['epochs']} epochs; "
        f"{_seeds(len(result['seeds']))}; {_where(result)}.",
        "",
        "| method | AP50-95 | AP50 | AP50 above naive | share of the ceiling's AP50 "
        "| recall from score 0.25 on |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in result["rows"].items():
        above = "" if name in ("naive", "full") else figure(row["above_naive"])
        share = "" if name == "full" else _share(row["of_ceiling"])
        recalls = ", ".join(
            f"{label} {figure(value, 2)}" for label, value in row["recall_at"]["0.25"].items()
        )
        lines.append(
            f"| {_SPARSE_ROWS[name]} | {figure(row['ap'])} | {figure(row['ap50'])} | {above} | "
            f"{share} | {recalls} |"
        )
    return "\n".join(lines) + "\n"


def site(result: dict[str, Any]) -> str:
    """AP on the site and on the source against the number of labelled fields."""
    lines = [
        "Detector trained on hcm_pbc and bccd, site lcm_raabin, three classes, test splits; "
        f"{result['epochs']} epochs, {_seeds(len(result['seeds']))}; {_where(result)}. "
        f"Failed: runs whose source lost more than {result['limit_drop']:g} points.",
        "",
        "| fields | | site AP50-95 | site AP50 | source AP50-95 | source AP50 | failed |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        failed = "" if "would_fail" not in row else f"{100 * row['would_fail']:.0f} %"
        kind = {"replay": "replay 4:1", "no-replay": "no replay"}.get(row["kind"], row["kind"])
        lines.append(
            f"| {row['fields']} | {kind} | {figure(row['target_ap'])} | "
            f"{figure(row['target_ap50'])} | {figure(row['source_ap'])} | "
            f"{figure(row['source_ap50'])} | {failed} |"
        )
    return "\n".join(lines) + "\n"


def method_cost(result: dict[str, Any]) -> str:
    """Step time beside plain training."""
    lines = [
        f"Median of {result['rounds']} interleaved rounds, batch 8; {_where(result)}.",
        "",
        "| method | seconds a step | plain training | times as long |",
        "|---|---:|---|---:|",
    ]
    lines += [
        f"| {name} | {row['seconds_per_step']:.3f} | {row['beside']} | {row['ratio']:.2f} |"
        for name, row in result["methods"].items()
    ]
    return "\n".join(lines) + "\n"


def qat(result: dict[str, Any]) -> str:
    """Int8 after training and while training, per size of the network."""
    scale = result["scale"]
    lines = [
        f"{_where(result)}; YOLO11, {scale['activation']}, {scale['image_size']} px, "
        f"{scale['images']} composed pictures, {scale['epochs'][0]} epochs, then "
        f"{scale['epochs'][1]} more with and without int8 rounding; TensorRT-style int8, run by "
        "ONNX Runtime. Mean AP50-95 over the test sets; points lost against the float detector "
        f"that went on for as long. {_seeds(len(result['seeds']))}.",
        "",
        "| network | float AP | " + " | ".join(f"{name}, points lost" for name in _QAT) + " |",
        "|---|---:|" + "---:|" * len(_QAT),
    ]
    for size, row in result["rows"].items():
        lost = {**row["lost_after_training"], "QAT": row["lost_while_training"]}
        cells = [figure(row["float_ap"]), *(figure(lost.get(name), 2) for name in _QAT)]
        lines.append(f"| YOLO11{size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


TABLES = {
    "qat": qat,
    "adaptation": adaptation,
    "domain_gap": domain_gap,
    "domain_score": domain_score,
    "sparse": sparse,
    "site": site,
    "method_cost": method_cost,
}
