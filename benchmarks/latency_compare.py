"""Two latency results beside each other: ratios with their spread, and what else differs.

Owns what is compared and what a difference in machine or bundle means. Does not own measuring.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.latency import SCHEMA_VERSION, WHAT
from benchmarks.machine import BUSY_SHARE
from edge_runtime.errors import DataError

_MACHINE = ("processor", "architecture", "cores", "logical_cores", "memory_gb", "system")
# Figure's name, the path to it in a row, the path to its rounds, whether more is better.
_FIGURES: tuple[tuple[str, tuple[str, ...], str | None, bool], ...] = (
    ("fields/s", ("fields_per_s",), "fields_per_s_rounds", True),
    ("field p50, ms", ("field", "p50_ms"), None, False),
    ("field p99, ms", ("field", "p99_ms"), None, False),
    ("age p99, ms", ("live", "own_rate", "p99_ms"), None, False),
    ("age p99 under overload, ms", ("live", "overload", "p99_ms"), None, False),
    ("peak memory, MB", ("peak_memory_mb",), "peak_memory_mb_rounds", False),
    ("energy, J/field", ("energy", "joules_per_field"), None, False),
)


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of one combination.

    Attributes:
        ratio: of the second to the first.
        low, high: the least and the largest ratio that their rounds allow; None where a figure is
            of all rounds together.
        verdict: ``better``, ``worse``, ``within spread``; empty without a spread.
    """

    profile: str
    contender: str
    figure: str
    first: float
    second: float
    ratio: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """What two results say of each other.

    Attributes:
        warnings: why the ratios may not mean what they seem to.
    """

    rows: tuple[ComparedFigure, ...]
    differences: tuple[str, ...]
    warnings: tuple[str, ...]
    only_in_one: tuple[str, ...]


def read_latency(path: Path) -> dict[str, Any]:
    """A result file of ``bench latency``.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give a result of bench latency") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON; give a result of bench latency") from error
    what = document.get("what") if isinstance(document, dict) else None
    if what != WHAT:
        raise DataError(f"{path}: {what!r} is no latency result; give one of bench latency")
    version = str(document.get("schema_version"))
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise DataError(f"{path}: schema {version}; this version reads {SCHEMA_VERSION}")
    missing = {"machine", "bundle", "bundle_sha256", "plan", "rows", "profiles"} - document.keys()
    rows = document.get("rows")
    if missing or not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise DataError(
            f"{path}: {', '.join(sorted(missing)) or 'a row'} is missing or broken; measure again"
        )
    return dict(document)


def compare_latency(first: Mapping[str, Any], second: Mapping[str, Any]) -> LatencyComparison:
    """Ratios of the second result to the first, for every combination that both have.

    Args:
        first: as ``read_latency`` gives it.
        second: the same; ratios are of this one.
    """
    old, new = _by_name(first), _by_name(second)
    differences = list(_differences(first, second))
    warnings = []
    if any(first["machine"].get(key) != second["machine"].get(key) for key in _MACHINE):
        warnings.append("the machines differ: the ratios compare machines, not programs")
    for name, document in (("A", first), ("B", second)):
        shares = (row["others_share"] for row in document["rows"] if "not_run" not in row)
        busiest = max(shares, default=0.0)
        if busiest > BUSY_SHARE:
            warnings.append(f"in {name} other programs used up to {100 * busiest:.0f} %")
    rows = [
        figure
        for name, row in old.items()
        if name in new and "not_run" not in row and "not_run" not in new[name]
        for figure in _figures(row, new[name])
    ]
    only = [
        f"{', '.join(name)} ({'not in B' if name in old else 'not in A'})"
        for name in sorted(old.keys() ^ new.keys())
    ]
    only += [
        f"{', '.join(name)} (not run: {each['not_run']})"
        for name in sorted(old.keys() & new.keys())
        for each in (old[name], new[name])
        if "not_run" in each and ("not_run" in old[name]) != ("not_run" in new[name])
    ]
    return LatencyComparison(tuple(rows), tuple(differences), tuple(warnings), tuple(only))


def _by_name(document: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["profile"], row["backend"] or row["contender"]): row for row in document["rows"]}


def _figures(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ComparedFigure]:
    for name, path, rounds, more_is_better in _FIGURES:
        first, second = _at(old, path), _at(new, path)
        if first is None or second is None or first <= 0:
            continue
        low = high = None
        verdict = ""
        if rounds is not None:
            before, after = old[rounds], new[rounds]
            low, high = min(after) / max(before), max(after) / min(before)
            if low <= 1 <= high:
                verdict = "within spread"
            else:
                verdict = "better" if (low > 1) == more_is_better else "worse"
        yield ComparedFigure(
            old["profile"],
            old["backend"] or old["contender"],
            name,
            first,
            second,
            second / first,
            low,
            high,
            verdict,
        )


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for key in _MACHINE:
        a, b = first["machine"].get(key), second["machine"].get(key)
        if a != b:
            yield f"machine, {key}: {a} → {b}"
    if first["machine"].get("python") != second["machine"].get("python"):
        yield f"python: {first['machine'].get('python')} → {second['machine'].get('python')}"
    a, b = first["machine"].get("versions", {}), second["machine"].get("versions", {})
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield f"{name}: {a.get(name)} → {b.get(name)}"
    if first["bundle_sha256"] != second["bundle_sha256"]:
        names = first["bundle"], second["bundle"]
        same = " (same name, other content)" if names[0] == names[1] else ""
        yield f"bundle: {names[0]} → {names[1]}{same}"
    for key in sorted(first["plan"].keys() | second["plan"].keys()):
        a, b = first["plan"].get(key), second["plan"].get(key)
        if a != b:
            yield f"plan, {key}: {a} → {b}"
    clocks = [document.get("clocks", {}) for document in (first, second)]
    for key in ("governors", "turbo", "nvpmodel"):
        if clocks[0].get(key) != clocks[1].get(key):
            yield f"clocks, {key}: {clocks[0].get(key)} → {clocks[1].get(key)}"


def _at(row: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = row
    for part in path:
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return None if found is None else float(found)


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {"profile", "contender", "backend"} <= row.keys():
        return False
    return (
        "not_run" in row
        or {
            "fields_per_s",
            "fields_per_s_rounds",
            "peak_memory_mb_rounds",
            "others_share",
            "against",
            "energy",
            "field",
            "stages",
        }
        <= row.keys()
    )
