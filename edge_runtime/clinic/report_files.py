"""Sinks that write the machine-readable report: film.json, cells.csv and frames.

Owns the layout of these files and the table of sinks a film report consists of. Does
not own the document's fields (see ``film_report``) nor the page for people
(see ``html_report``).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.clinic.atomic_file import prepare_folder, replacing, sync_folder, utf8
from edge_runtime.errors import StoreError
from edge_runtime.film_report import CellPlaceRecord, CellRecord, FilmReport
from edge_runtime.sinks import Sink
from edge_runtime.types import FieldResult, SkippedFrame

FILM_JSON = "film.json"
CELLS_CSV = "cells.csv"
FRAMES_FOLDER = "frames"
# Those of the bundle's attributes follow, see ``csv_columns``.
CSV_COLUMNS = (
    "field",
    "field_name",
    "cell",
    "x1",
    "y1",
    "x2",
    "y2",
    "score",
    "class_name",
    "class_probability",
    "best_class",
)
# After the fixed ones, where fields were put together.
FILM_COLUMNS = ("film_cell", "fragment", "film_x", "film_y", "sightings")

_BOX_DECIMALS = 2  # hundredths of a pixel: far below what a box can mean
_SCORE_DECIMALS = 6  # float32 holds no more
_TIME_DECIMALS = 3  # microseconds, or milliseconds of a whole film
_FRAME_NAME_CHARACTERS = 80  # leaves room below the 255 bytes of common file systems
# A spreadsheet runs a text that starts with one of these as a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class JsonSink:
    """Writes ``film.json`` when the film ends."""

    def __init__(self, out: Path) -> None:
        self._path = out / FILM_JSON

    def start(self) -> None:
        """Make the folder; raise StoreError when it cannot be written."""
        prepare_folder(self._path.parent, (self._path.name,))

    def append(self, result: FieldResult) -> None:
        """Nothing to keep: the report holds every field."""

    def skip(self, skipped: SkippedFrame) -> None:
        """Nothing to keep: the report holds every skipped field."""

    def finish(self, report: FilmReport) -> None:
        """Write the file.

        Raises:
            StoreError: it cannot be written, or a number in the report is not finite.
        """
        with replacing(self._path) as file:
            for piece in _json_pieces(report):
                file.write(utf8(piece))


class CsvSink:
    """Writes ``cells.csv``, one row per cell, when the film ends."""

    def __init__(self, out: Path) -> None:
        self._path = out / CELLS_CSV

    def start(self) -> None:
        """Make the folder; raise StoreError when it cannot be written."""
        prepare_folder(self._path.parent, (self._path.name,))

    def append(self, result: FieldResult) -> None:
        """Nothing to keep: the report holds every cell."""

    def skip(self, skipped: SkippedFrame) -> None:
        """A skipped field has no cells."""

    def finish(self, report: FilmReport) -> None:
        """Write the file; raise StoreError when it cannot be written."""
        with replacing(self._path) as file:
            for row in _csv_rows(report):
                file.write(utf8(row))


class FramesSink:
    """Writes every examined field at full size to ``frames/NAME.jpg``."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = out / FRAMES_FOLDER
        self._taken: set[str] = set()

    def start(self) -> None:
        """Make the folder; raise StoreError when it cannot be written."""
        prepare_folder(self._out)
        prepare_folder(self._folder)

    def append(self, result: FieldResult) -> None:
        """Write one frame.

        Raises:
            StoreError: it cannot be written.
            ValueError: the field came without its full-size picture.
        """
        if result.frame_jpeg is None:
            raise ValueError(f"field {result.name!r} has no frame_jpeg although frames are saved")
        name = frame_file_name(result.name, result.index, self._taken)
        self._taken.add(name.lower())
        # Not durable: waiting for the disk at every field would slow the film down.
        with replacing(self._folder / name, durable=False) as file:
            file.write(result.frame_jpeg)

    def skip(self, skipped: SkippedFrame) -> None:
        """A skipped field has no picture."""

    def finish(self, report: FilmReport) -> None:
        """Ask the disk to remember the names."""
        sync_folder(self._folder)


def report_sinks(out: Path, save_frames: bool) -> list[Sink]:
    """The sinks of a whole film report, in the order in which they finish.

    Args:
        out: folder of the report.
        save_frames: also keep every field at full size.
    """
    # Its template engine is slow to load; `leukoscope --help` does not need it.
    from edge_runtime.clinic.html_report import HtmlSink

    sinks: list[Sink] = [JsonSink(out), CsvSink(out), HtmlSink(out)]
    if save_frames:
        sinks.append(FramesSink(out))
    return sinks


def frame_file_name(name: str, index: int, taken: set[str]) -> str:
    """A file name for a field that is safe everywhere and not yet taken.

    Args:
        name: the field's name; may hold any character.
        index: the field's index, which sets equal names apart.
        taken: names in use, in lower case: some file systems do not tell cases apart.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem).strip("._")
    stem = stem[:_FRAME_NAME_CHARACTERS] or "field"
    candidate = f"{stem}.jpg"
    copy = index
    while candidate.lower() in taken:
        candidate = f"{stem}-{copy}.jpg"
        copy += 1
    return candidate


def _json_pieces(report: FilmReport) -> Iterator[str]:
    """One top-level key at a time, one line per field, cell and stage."""
    document = report.model_dump(mode="json")
    document["duration_s"] = round(document["duration_s"], _TIME_DECIMALS)
    for cell in document["cells"]:
        cell["box_xyxy"] = [round(side, _BOX_DECIMALS) for side in cell["box_xyxy"]]
        _round_probabilities(cell)
    for find in document["not_counted"]:
        find["box_xyxy"] = [round(side, _BOX_DECIMALS) for side in find["box_xyxy"]]
    for stage in document["timings"]:
        for key in ("p50_ms", "p95_ms", "p99_ms"):
            stage[key] = round(stage[key], _TIME_DECIMALS)
    start = "{\n"
    for key, value in document.items():
        broken = _not_finite(value, key)
        if broken is not None:
            raise StoreError(
                f"cannot write {FILM_JSON}: {broken} is not a finite number; "
                "this is a fault of the program, please report it"
            )
        yield f"{start} {json.dumps(key)}: "
        start = ",\n"
        if isinstance(value, list) and value:
            lead = "[\n"
            for record in value:
                yield f"{lead}  {json.dumps(record, ensure_ascii=False, allow_nan=False)}"
                lead = ",\n"
            yield "\n ]"
        else:
            # Keys of a free table sorted, so that equal films give equal files.
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
            yield text.replace("\n", "\n ")
    yield "\n}\n"


def _round_probabilities(cell: dict[str, Any]) -> None:
    cell["score"] = round(cell["score"], _SCORE_DECIMALS)
    if cell["class_probability"] is not None:
        cell["class_probability"] = round(cell["class_probability"], _SCORE_DECIMALS)
    for name, value in (cell["class_probabilities"] or {}).items():
        cell["class_probabilities"][name] = round(value, _SCORE_DECIMALS)
    for judged in (cell["attributes"] or {}).values():
        if judged is not None:
            judged["probability"] = round(judged["probability"], _SCORE_DECIMALS)


def _not_finite(value: Any, where: str) -> str | None:
    """Where the first NaN or infinity is, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else where
    if isinstance(value, dict):
        parts = ((f"{where}.{key}", part) for key, part in value.items())
    elif isinstance(value, list):
        parts = ((f"{where}[{number}]", part) for number, part in enumerate(value))
    else:
        return None
    return next((found for place, part in parts if (found := _not_finite(part, place))), None)


def csv_columns(report: FilmReport) -> tuple[str, ...]:
    """The columns of a film's ``cells.csv``: a fixed part, places, then two for each attribute."""
    places = () if report.mosaic is None else FILM_COLUMNS
    pairs = ((f"attribute:{name}", f"attribute:{name}:probability") for name in _attributes(report))
    return (*CSV_COLUMNS, *places, *(column for pair in pairs for column in pair))


def _attributes(report: FilmReport) -> list[str]:
    return [] if report.attribute_head is None else list(report.attribute_head.attributes)


def _csv_rows(report: FilmReport) -> Iterator[str]:
    names = {field.index: field.name for field in report.fields}
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\r\n")  # RFC 4180

    def written(row: tuple[object, ...]) -> str:
        line.seek(0)
        line.truncate()
        writer.writerow(row)
        return line.getvalue()

    yield written(tuple(plain_text(column) for column in csv_columns(report)))
    attributes = _attributes(report)
    numbers: dict[int, int] = {}
    for cell in report.cells:
        place = cell.place
        number = numbers[cell.field] = numbers.get(cell.field, 0) + 1
        if place is not None:
            number = place.number
        yield written(
            (
                cell.field,
                plain_text(names[cell.field]),
                number,
                *(round(side, _BOX_DECIMALS) for side in cell.box_xyxy),
                round(cell.score, _SCORE_DECIMALS),
                plain_text(cell.class_name),
                _rounded(cell.class_probability),
                plain_text(cell.best_class or ""),
                *(() if report.mosaic is None else _place(place)),
                *(part for name in attributes for part in _attribute_pair(cell, name)),
            )
        )


def _place(place: CellPlaceRecord | None) -> tuple[float | str, ...]:
    """The columns of a place; empty for a cell that a person added."""
    if place is None:
        return ("",) * len(FILM_COLUMNS)
    return place.cell, place.fragment, place.x, place.y, place.sightings


def _rounded(probability: float | None) -> float | str:
    return "" if probability is None else round(probability, _SCORE_DECIMALS)


def _attribute_pair(cell: CellRecord, name: str) -> tuple[str, float | str]:
    """Value and probability of one attribute; both empty where nobody judged it."""
    judged = (cell.attributes or {}).get(name)
    if judged is None:
        return "", ""
    return plain_text(judged.value), _rounded(judged.probability)


def plain_text(text: str) -> str:
    """``text`` so that a spreadsheet shows it and never runs it."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
