"""README tables of ``bench latency`` and ``bench roofline``.

Owns their words. Does not own the markers (see ``published``) nor any number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Above this share of other programs not even ratios of neighbouring runs can be trusted.
_TOO_BUSY = 0.3
_PEERS = {
    "plain_loop": "plain OpenCV-like loop",
    "session_run": "bare `session.run`",
    "ultralytics": "Ultralytics",
}


def _latency(result: dict[str, Any]) -> str:
    machine, plan = result["machine"], result["plan"]
    rows = [row for row in result["rows"] if "not_run" not in row]
    shares = [row["others_share"] for row in rows]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}; "
        f"{result['bundle']}, {plan['threads']} threads, interleaved rounds: {plan['rounds']}, of "
        f"{plan['fields_per_round']} fields each of the virtual microscope. Other programs used "
        f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of the machine meanwhile: read "
        f"ratios, not rates. {_sentence(result['clocks']['note'])} Ages and times in ms, "
        "percentiles of all fields.",
        "",
        "| camera profile | contender | fields/s | looks a field | white cells a field | field p50 "
        "/ p99 | age p99 | age p99 under overload | grows, ms/s | MB | looks/s to bare "
        "`session.run` | to Ultralytics |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = row["backend"] or _PEERS.get(row["contender"], row["contender"])
        own, over = (row.get("live", {}).get(key, {}) for key in ("own_rate", "overload"))
        there = result["profiles"][row["profile"]]["white_cells_per_field"]
        cells = row["cells_per_field"]
        found = "–" if cells is None else f"{cells:.1f} of {there:.1f}"
        lines.append(
            f"| {row['profile']} | {name} | {row['fields_per_s']:.1f} | "
            f"{row['windows_per_field']:.1f} | {found} | "
            f"{row['field']['p50_ms']:.0f} / {row['field']['p99_ms']:.0f} | "
            + " | ".join(
                _whole(value)
                for value in (own.get("p99_ms"), over.get("p99_ms"), over.get("growth_ms_per_s"))
            )
            + f" | {row['peak_memory_mb']:.0f} | "
            + " | ".join(
                _ratio(row["against"].get(peer)) for peer in ("session_run", "ultralytics")
            )
            + " |"
        )
    overload = [row["live"]["overload"] for row in rows if row["backend"] and "live" in row]
    judged = [each for each in overload if each["frames"]]
    within = sum(each["within_bound"] for each in judged)
    lines += [
        "",
        f"Under overload the film loop's age stays within twice its inference and one frame period "
        f"in {within} of {len(judged)} combinations; {len(overload) - len(judged)} gave too few "
        "frames to tell. A look is one call of the detector; peers look once a field and neither "
        "name nor describe cells. White cells are counted, not matched: those cut by the border "
        "and false finds are in the first number, only cells at least half visible in the second.",
    ]
    if min(shares) > _TOO_BUSY:
        lines.append(
            "**So busy a machine allows no verdict between neighbours in this table: measure again "
            "when it is idle.**"
        )
    reasons = {
        (row["backend"] or row["contender"], row["not_run"])
        for row in result["rows"]
        if "not_run" in row
    }
    lines += [f"Not run: {name}: {reason}." for name, reason in sorted(reasons)]
    energy = {
        row["energy"]["reason"]
        for row in rows
        if row["backend"] is not None and not row["energy"]["measured"]
    }
    lines += [f"Energy: not measured, {reason}." for reason in sorted(energy)]
    return "\n".join(lines) + "\n"


def _roofline(result: dict[str, Any]) -> str:
    lines = [
        "Published times and the estimate of each. Where the device was fitted to, every network "
        "was left out of its own fit.",
        "",
        "| device, precision, runtime | " + " | ".join(result["networks"]) + " | largest error |",
        "|---|" + "---:|" * (len(result["networks"]) + 1),
    ]
    for check in result["checks"]:
        rows = {row["network"]: row for row in check["rows"]}
        fitted = "" if check["estimated"].startswith("each network") else " (not fitted to)"
        cells = [
            "–"
            if name not in rows
            else f"{rows[name]['published_ms']:.1f} → {rows[name]['estimated_ms']:.1f} "
            f"({100 * rows[name]['error']:+.0f} %)"
            for name in result["networks"]
        ]
        lines.append(
            f"| {check['device']}, {check['precision']}, {check['runtime']}{fitted} | "
            + " | ".join(cells)
            + f" | {100 * check['worst_error']:.0f} % |"
        )
    heads = list(dict.fromkeys(model["head"] for model in result["models"].values()))
    estimates = {
        (row["device"], model["head"]): row
        for model in result["models"].values()
        for row in model["estimates"]
    }
    lines += [
        "",
        f"Heads of {result['bundle']} in int8, milliseconds a call, one picture or cell: estimate "
        "(range). **Estimated, not measured.**"
        + (_SMALLER if all(_is_smaller(row) for row in estimates.values()) else ""),
        "",
        "| device | " + " | ".join(head.replace("_", " ") for head in heads) + " | rests on |",
        "|---|" + "---:|" * len(heads) + "---|",
    ]
    for device, facts in result["devices"].items():
        known = [estimates[device, head] for head in heads if (device, head) in estimates]
        if not known:
            continue
        shown = (
            f"{row['estimated_ms']:.1f} ({row['low_ms']:.1f}–{row['high_ms']:.1f})" for row in known
        )
        lines.append(
            f"| {facts['title']} | {' | '.join(shown)} | {known[0]['checked'].partition(';')[0]} |"
        )
    return "\n".join(lines) + "\n"


_SMALLER = (
    " All are smaller than any network that is published: nearly all of the time is the cost of "
    "kernels; the range begins where that is nothing."
)


def _is_smaller(row: Mapping[str, Any]) -> bool:
    return "smaller than any network" in row["checked"]


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _ratio(each: Mapping[str, float] | None) -> str:
    if each is None:
        return "–"
    if each["low"] == each["high"]:
        return f"{each['ratio']:.2f}"
    return f"{each['ratio']:.2f} ({each['low']:.2f}–{each['high']:.2f})"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"latency": _latency, "roofline": _roofline}
