"""The page of a latency result: self-contained HTML with charts that a phone shows as well.

Owns which bars there are, their lengths and their words. Does not own the markup (see
``templates``) nor any number.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.machine import BUSY_SHARE
from edge_runtime.errors import StoreError
from edge_runtime.film_report import RESEARCH_USE

_NAMES = {
    "plain_loop": "plain OpenCV-like loop",
    "session_run": "bare session.run",
    "ultralytics": "Ultralytics",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar: where it begins and how long it is, in percent of the axis."""

    kind: str
    start: float
    width: float
    said: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a chart.

    Attributes:
        ours: whether it is Leukoscope's.
        value: the figure, with its unit.
        note: what belongs to it.
    """

    name: str
    ours: bool
    parts: tuple[Part, ...]
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """All bars of one profile, on one axis from 0 to ``most``."""

    title: str
    bars: tuple[Bar, ...]
    most: str


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Writes the page.

    Args:
        document: a latency result with its ``machine``.
        path: HTML file.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(latency_page(document), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; choose another place for the page") from error


def latency_page(document: Mapping[str, Any]) -> str:
    """The whole page as HTML."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("benchmarks", "templates"),
                # The frame that all pages of numbers share.
                jinja2.PackageLoader("calibration", "templates"),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    clinic = files("edge_runtime.clinic") / "templates" / "report.css"
    own = files("benchmarks") / "templates" / "latency.css"
    style = clinic.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    rows = [row for row in document["rows"] if "not_run" not in row]
    busiest = max((row["others_share"] for row in rows), default=0.0)
    stages = list(dict.fromkeys(stage for row in _ours(rows) for stage in row["stages"]))
    return environment.get_template("latency.html.j2").render(
        title="Latency by camera profile and backend",
        research_use=RESEARCH_USE,
        style=Markup(style),
        style_hash=Markup(f"'sha256-{digest}'"),
        document=document,
        machine=document["machine"],
        busiest=round(100 * busiest) if busiest > BUSY_SHARE else None,
        rates=[
            _rates(name, group, document["profiles"][name]) for name, group in _by_profile(rows)
        ],
        ages=[
            (name, [_ages(words, group, key) for key, words in _RUNS])
            for name, group in _by_profile(rows)
        ],
        stages=stages,
        stage_charts=[_stages(name, group) for name, group in _by_profile(_ours(rows))],
        memory=[_memory(name, group) for name, group in _by_profile(rows)],
        not_run=sorted(
            {(who(row), row["not_run"]) for row in document["rows"] if "not_run" in row}
        ),
        energy=_energy_words(rows),
        table=[_cells(row) for row in rows],
    )


_RUNS = (
    ("own_rate", "camera at its own rate"),
    ("overload", "camera faster than any reader"),
)


def who(row: Mapping[str, Any]) -> str:
    """A row's contender, for a person."""
    if row["backend"] is not None:
        return f"leukoscope, {row['backend']}"
    return _NAMES.get(row["contender"], str(row["contender"]))


def _ours(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["backend"] is not None]


def _by_profile(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for name in dict.fromkeys(row["profile"] for row in rows):
        yield name, [row for row in rows if row["profile"] == name]


def _rates(profile: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Chart:
    most = max(max(row["fields_per_s_rounds"]) for row in rows)
    bars = []
    for row in rows:
        low, high = min(row["fields_per_s_rounds"]), max(row["fields_per_s_rounds"])
        looks, cells = row["windows_per_field"], row["cells_per_field"]
        note = f"{looks:.1f} looks a field" if looks != 1 else "one look a field"
        if cells is not None:
            note += f", finds {cells:.1f} white cells of {facts['white_cells_per_field']:.1f}"
        bars.append(
            Bar(
                who(row),
                row["backend"] is not None,
                (
                    Part("fill", 0, _share(row["fields_per_s"], most)),
                    Part("spread", _share(low, most), _share(high - low, most)),
                ),
                f"{row['fields_per_s']:.1f}/s",
                note,
            )
        )
    return Chart(profile, tuple(bars), f"{most:.0f} fields/s")


def _ages(title: str, rows: Sequence[Mapping[str, Any]], key: str) -> Chart:
    live = [
        (row, row["live"][key]) for row in rows if row.get("live", {}).get(key, {}).get("frames")
    ]
    most = max((each["p99_ms"] for _, each in live), default=1.0)
    bars = []
    for row, each in live:
        grown = each["growth_ms_per_s"]
        older = "" if grown is None else f", {grown:+.0f} ms a second"
        bound = ""
        if row["backend"] is not None:
            word = "within" if each["within_bound"] else "above"
            bound = f", {word} its bound of {each['bound_ms']:.0f}"
        bars.append(
            Bar(
                who(row),
                row["backend"] is not None,
                (
                    Part("half", 0, _share(each["p50_ms"], most)),
                    Part(
                        "tail",
                        _share(each["p50_ms"], most),
                        _share(each["p99_ms"] - each["p50_ms"], most),
                    ),
                ),
                f"{each['p99_ms']:.0f} ms",
                f"half below {each['p50_ms']:.0f}{older}{bound}",
            )
        )
    fps = live[0][1]["camera_fps"] if live else 0
    return Chart(f"{title}, {fps:g} a second", tuple(bars), f"{most:.0f} ms")


def _stages(profile: str, rows: Sequence[Mapping[str, Any]]) -> Chart:
    totals = [sum(each["p50_ms"] for each in row["stages"].values()) for row in rows]
    most = max(totals)
    bars = []
    for row, total in zip(rows, totals, strict=True):
        parts, start = [], 0.0
        for stage, each in row["stages"].items():
            width = _share(each["p50_ms"], most)
            said = f"{stage}: {each['p50_ms']:.1f} ms"
            parts.append(Part(stage, start, width, said))
            start += width
        share = row.get("crop_write_share")
        note = "" if share is None else f"cropping and writing {100 * share:.1f} % of the film"
        bars.append(Bar(who(row), True, tuple(parts), f"{total:.0f} ms", note))
    return Chart(profile, tuple(bars), f"{most:.0f} ms")


def _memory(profile: str, rows: Sequence[Mapping[str, Any]]) -> Chart:
    most = max(row["peak_memory_mb"] for row in rows)
    return Chart(
        profile,
        tuple(
            Bar(
                who(row),
                row["backend"] is not None,
                (Part("fill", 0, _share(row["peak_memory_mb"], most)),),
                f"{row['peak_memory_mb']:.0f} MB",
            )
            for row in rows
        ),
        f"{most:.0f} MB",
    )


def _energy_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for row in _ours(rows):
        each = row["energy"]
        if each["measured"]:
            said.append(
                f"{row['profile']}, {who(row)}: {each['joules_per_field']:.3f} J a field, "
                f"{each['watts']:.1f} W ({each['sensor']})"
            )
        else:
            said.append(f"not measured: {each['reason']}")
    return list(dict.fromkeys(said))


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    live = row.get("live", {})
    return {
        "profile": row["profile"],
        "who": who(row),
        "ran": ", ".join(
            f"{part}: {record.get('name')} {record.get('version')}, {record.get('precision')}"
            for part, record in row["ran"].items()
        ),
        "figures": [
            f"{row['fields_per_s']:.2f}",
            *(f"{row['field'][key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            *(
                "–" if key not in live.get(run, {}) else f"{live[run][key]:.0f}"
                for run in ("own_rate", "overload")
                for key in ("p50_ms", "p95_ms", "p99_ms")
            ),
            f"{row['peak_memory_mb']:.0f}",
            *(
                "–"
                if peer not in row["against"]
                else f"{row['against'][peer]['ratio']:.2f} "
                f"({row['against'][peer]['low']:.2f}–{row['against'][peer]['high']:.2f})"
                for peer in ("session_run", "ultralytics")
            ),
            f"{100 * row['others_share']:.0f} %",
        ],
        "stages": [
            (stage, each["count"], each["p50_ms"], each["p95_ms"], each["p99_ms"])
            for stage, each in row["stages"].items()
        ],
    }


def _share(value: float, most: float) -> float:
    return round(100 * value / most, 2) if most > 0 else 0.0
