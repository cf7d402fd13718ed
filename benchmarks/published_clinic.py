"""README tables of what was measured of the work at the microscope.

Owns the tables of ``bench field-gate | mosaic | stop-rule | frame-age | clinic | saving | soak``.
Does not own measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.machine import BUSY_SHARE


def _where(result: dict[str, Any], *more: str) -> str:
    machine = result["machine"]
    said = [f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}", *more]
    busy = result.get("others_share")
    if busy is not None and busy > BUSY_SHARE:
        said.append(f"other programs used {100 * busy:.0f} % of the machine meanwhile")
    return "; ".join(said) + "."


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def _text(*parts: str | Sequence[str]) -> str:
    lines: list[str] = []
    for part in parts:
        lines += ["", part] if isinstance(part, str) else ["", *part]
    return "\n".join(lines[1:]) + "\n"


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


# Beginnings of what was done to fields, by the table's column.
_FAULTS = {
    "blurred": ("defocus", "own blur"),
    "moved": ("motion",),
    "empty": ("empty",),
    "too thick": ("thick",),
    "wrongly lit": ("exposure",),
}


def _field_gate(result: dict[str, Any]) -> str:
    def refused(name: str, limits: str, kinds: tuple[str, ...]) -> str:
        found = [
            row
            for row in result["rows"]
            if (row["set"], row["limits"]) == (name, limits) and row["kind"].startswith(kinds)
        ]
        fields = sum(row["fields"] for row in found)
        if fields == 0:
            return "–"
        return f"{100 * sum(row['refused'] * row['fields'] for row in found) / fields:.0f} %"

    every = tuple(kind for kinds in _FAULTS.values() for kind in kinds)
    rows = [
        (
            name,
            refused(name, "set up", ("good",)),
            *(refused(name, "set up", kinds) for kinds in _FAULTS.values()),
            f"{refused(name, 'defaults', ('good',))}, {refused(name, 'defaults', every)}",
        )
        for name in dict.fromkeys(row["set"] for row in result["rows"])
    ]
    return _text(
        f"Share of fields that are refused; {result['virtual_fields_per_film']} virtual fields of "
        "each kind and the test splits of three real sets, blurred, moved and lit wrongly by "
        f"computation; {result['machine']['date'][:10]}.",
        _table(
            ("fields", "good", *_FAULTS, "limits of a camera nobody set up: good, faulty"),
            rows,
        ),
    )


def _mosaic(result: dict[str, Any]) -> str:
    film = result["film"]
    rows = [
        (
            {"truth": "true boxes", "detector": "the shipped detector's finds"}[name],
            row["fields_lost"],
            f"{100 * row['double_share']:.1f} %",
            f"{100 * row['missed_share']:.1f} %",
            f"{row['cell_error_widths']['p99']:.2f}",
            f"{row['processor_ms_per_field']['p50']:.1f}",
        )
        for name, row in result["rows"].items()
    ]
    fields = result["rows"]["truth"]["fields"]
    return _text(
        _where(
            result,
            f"{fields} fields of {film['field_px'][0]} x {film['field_px'][1]} px of a virtual "
            f"film, moved as by a hand, {film['motions']['jump']} jumps among them",
        ),
        _table(
            (
                "finds",
                "fields without a place",
                "counted twice (≤ 2 %)",
                "missed (≤ 3 %)",
                "error p99, cell widths (< 0.5)",
                "ms a field",
            ),
            rows,
        ),
    )


def _stop_rule(result: dict[str, Any]) -> str:
    rows = [
        (
            each["case"],
            f"{100 * each['threshold']:g} %",
            each["classifier"],
            f"{100 * each['declared']:g} %",
            f"{100 * each['observed']['missed']:.2f} %",
            f"{100 * each['observed']['false']:.2f} %",
        )
        for each in result["cases"]
    ]
    return _text(
        f"Simulated: {result['films_per_share']:,} films for each true share of blasts, the "
        f"worst share shown; {result['machine']['date'][:10]}.",
        _table(
            (
                "plan",
                "blasts asked about",
                "classifier's recall, false blasts",
                "error declared",
                "observed: missed",
                "observed: false alarm",
            ),
            rows,
        ),
    )


def _frame_age(result: dict[str, Any]) -> str:
    names = {
        "leukoscope": "`leukoscope`",
        "fifo_driver": "plain loop, driver with four buffers",
        "fifo_stream": "plain loop, stream that drops nothing",
    }
    rows = [
        (
            names[row["reader"]],
            f"{row['p50_ms']:.0f}",
            f"{row['p99_ms']:.0f}",
            str(round(row["growth_ms_per_s"])),
        )
        for row in result["rows"]
    ]
    target = result["targets"][0]
    return _text(
        _where(
            result,
            f"{result['fps']:g} frames/s, inference stands for {result['inference_ms']:g} ms, at "
            "the same time",
        ),
        _table(("reader", "age p50, ms", "age p99, ms", "grows, ms/s"), rows),
        f"p99 wanted: at most {target['at_most']:.0f} ms; met: {_met(target['met'])}.",
    )


def clinic_row_name(row: Mapping[str, Any]) -> str:
    """By which a row's targets are found."""
    return f"{row['profile']}, {row['backend']}"


def _clinic(result: dict[str, Any]) -> str:
    rows = [
        (
            row["profile"],
            row["backend"],
            f"{row['looks_per_field']:g}",
            f"{row['fields_per_s']:.1f}",
            f"{row['rate_of_bare']:.2f}",
            f"{row['rate_of_callers']:.2f}",
            f"{row['cpu_of_callers']:.2f}",
            f"{row['memory_without_pictures_mb']:.0f} + "
            f"{row['of_it_pictures_of_the_camera_mb']:.0f}",
            f"{row['first_result_s']:.1f}",
        )
        for row in result["rows"]
    ]

    def met(figure: str) -> str:
        """By backend, whether every profile reaches it."""
        found: dict[str, bool] = {}
        for row in result["rows"]:
            for each in result["targets"][clinic_row_name(row)]:
                if each["figure"] == figure:
                    found[row["backend"]] = found.get(row["backend"], True) and each["met"]
        return ", ".join(f"{_met(every)} ({backend})" for backend, every in found.items())

    busiest = max(row["others_share"] for row in result["rows"])
    return _text(
        _where({**result, "others_share": busiest}, "two people look at the page"),
        _table(
            (
                "camera profile",
                "backend",
                "looks a field",
                "fields/s",
                "of bare `session.run` (≥ 0.80)",
                "of it with one caller a thread",
                "the latter by processor time",
                "MB (≤ 350) + pictures of the stand-in camera",
                "first live result, s (≤ 3)",
            ),
            rows,
        ),
        "Bare: one call after the other, each on all threads. The page calls with one caller a "
        "thread, which is faster, and spends that lead on everything else that it does.",
        f"Met: rate {met('rate_of_bare')}, against one caller a thread {met('rate_of_callers')}; "
        f"memory {met('memory_without_pictures_mb')}; first "
        f"result {met('first_result_s')}.",
    )


def _saving(result: dict[str, Any]) -> str:
    rows = [
        (
            row["kept_as"],
            f"{100 * row['share']:.1f} %",
            _met(row["met"]),
            f"{row['cpu_ms_per_field']:.0f}",
            f"{100 * row['added']:.0f} %",
            f"{100 * row['busy']:.0f} %",
            f"{1000 * row['seconds_per_field']:.0f}",
        )
        for row in result["rows"]
    ]
    width, height = result["resolution_px"]
    return _text(
        _where(
            result,
            f"{result['fields']} fields of {width} x {height} px, {result['rounds']} rounds",
        ),
        f"The best published add-on stops for it and spends {100 * result['published_share']:g} % "
        "of its time on it; here a thread of its own does it beside the next field's inference, "
        "and takes its share of the processor. Films: separate fields, as fast as they can be "
        "examined. Sessions: a live camera, each overlapping field for a second, as `serve` keeps "
        "it.",
        _table(
            (
                "kept as",
                f"share of the time (≤ {100 * result['rows'][0]['at_most']:g} %)",
                "met",
                "ms of processor a field",
                "the film's time grew by",
                "its thread busy or waiting",
                "ms a field altogether",
            ),
            rows,
        ),
    )


def _soak(result: dict[str, Any]) -> str:
    memory, faults = result["memory_mb"], result["faults"]
    counted = ", ".join(f"{name} {count}" for name, count in faults.items())
    wanted = result["frames_wanted"]
    missing = len(result["not_on_record"])
    return _text(
        _where(
            result,
            f"{result['frames']:,} of {wanted:,} frames in {result['films']} films, "
            f"{result['seconds'] / 60:.0f} minutes",
        ),
        f"Faults: {counted}; not on record: {missing}. Memory grew by {memory['growth']:.1f} MB "
        "after the first tenth (≤ 10); no crash. Detector and classifier are stand-ins, the camera "
        "is synthetic.",
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "field_gate": _field_gate,
    "mosaic": _mosaic,
    "stop_rule": _stop_rule,
    "frame_age": _frame_age,
    "clinic": _clinic,
    "saving": _saving,
    "soak": _soak,
}
