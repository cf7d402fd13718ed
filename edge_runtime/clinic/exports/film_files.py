"""One film as CSV or JSON, as it stands after corrections; on request without any name.

Owns both files' layout and what an anonymised one leaves out. Does not own the report's fields
(see ``film_report``) nor who may export (see ``store.roles``).
"""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from edge_runtime.clinic.atomic_file import utf8
from edge_runtime.clinic.report_files import plain_text
from edge_runtime.clinic.store.records import Change, Signature, StoredCell, StoredFilm
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.film_report import RESEARCH_USE, FilmReport

FORMAT, FORMAT_VERSION = "leukoscope-film", 1
COLUMNS = (
    "film",
    "slide",
    "patient",
    "review",
    "field",
    "field_name",
    "cell",
    "x1",
    "y1",
    "x2",
    "y2",
    "score",
    "model_class",
    "model_probability",
    "given_class",
    "rejected",
    "added",
    "class",
)


def random_name() -> str:
    """A name that says nothing of whom it stands for, and is never the same twice."""
    return f"film-{secrets.token_hex(6)}"


def film_json(
    store: ClinicStore,
    film: int,
    by: User | None,
    *,
    anonymous: bool = False,
    new_name: Callable[[], str] = random_name,
) -> bytes:
    """A film as a JSON document.

    Args:
        store: open.
        film: its number.
        by: who exports; None when it is the device's owner on the command line.
        anonymous: leave out slide, patient, note, people, times and file names. What is seen
            in the pictures' margins, or was written into class names, it cannot leave out.
        new_name: names an anonymous film.

    Returns:
        UTF-8.

    Raises:
        AccessError: ``by`` may not export.
        RecordError: no such film.
        StoreError: what is stored cannot be read.
    """
    _allow(by)
    found = store.films.get(film)
    report = store.reports.corrected(film)
    document: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "research_use": RESEARCH_USE,
        "anonymous": anonymous,
        "film": _film(found),
        "report": (_nameless(report) if anonymous else report).model_dump(mode="json"),
        "cells": [_cell(each) for each in store.films.cells(film)],
        "signatures": [_signature(each) for each in store.review.signatures(film)],
        "changes": [_change(each) for each in store.trail.of_film(film)],
    }
    if anonymous:
        _leave_out_names(document, new_name())
    store.note_export(film, by, "anonymous JSON" if anonymous else "JSON")
    return utf8(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def film_csv(
    store: ClinicStore,
    film: int,
    by: User | None,
    *,
    anonymous: bool = False,
    new_name: Callable[[], str] = random_name,
) -> bytes:
    """A film's cells as CSV (RFC 4180), one row each, rejected ones too.

    Args and errors as in ``film_json``.
    """
    _allow(by)
    found = store.films.get(film)
    names = {each.index: each.name for each in store.films.fields(film)}
    label = [str(film), found.slide, found.patient or ""]
    if anonymous:
        names = {index: f"field-{index}" for index in names}
        label = [new_name(), "", ""]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for each in store.films.cells(film):
        writer.writerow(
            [
                *(plain_text(text) for text in label),
                found.review,
                each.field,
                plain_text(names[each.field]),
                each.number,
                *each.box_xyxy,
                _or_empty(each.score),
                plain_text(each.class_name or ""),
                _or_empty(each.class_probability),
                plain_text(each.given_class or ""),
                int(each.rejected),
                int(each.added),
                plain_text("" if each.rejected else each.shown_class),
            ]
        )
    store.note_export(film, by, "anonymous CSV" if anonymous else "CSV")
    return utf8(out.getvalue())


def _allow(by: User | None) -> None:
    if by is not None:
        require(by, "export")


def _or_empty(number: float | None) -> float | str:
    return "" if number is None else number


def _film(found: StoredFilm) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "review": found.review,
        "amended": found.amended,
        "slide": found.slide,
        "patient": found.patient,
        "note": found.note,
        "operator": found.operator,
        "started_at": found.started_at.isoformat(),
        "finished_at": None if found.finished_at is None else found.finished_at.isoformat(),
    }


def _cell(each: StoredCell) -> dict[str, Any]:
    return {
        "field": each.field,
        "number": each.number,
        "box_xyxy": list(each.box_xyxy),
        "score": each.score,
        "model_class": each.class_name,
        "model_probability": each.class_probability,
        "given_class": each.given_class,
        "rejected": each.rejected,
        "added": each.added,
    }


def _signature(each: Signature) -> dict[str, Any]:
    withdrawn = each.withdrawn_at
    return {
        "user": each.user,
        "signed_at": each.signed_at.isoformat(),
        "comment": each.comment,
        "content_sha256": each.content_sha256,
        "withdrawn_at": None if withdrawn is None else withdrawn.isoformat(),
        "withdrawn_by": each.withdrawn_by,
        "withdrawn_why": each.withdrawn_why,
    }


def _change(each: Change) -> dict[str, Any]:
    return {
        "id": each.id,
        "at": each.at.isoformat(),
        "user": each.user,
        "action": each.action,
        "cell": each.cell,
        "before": None if each.before is None else dict(each.before),
        "after": None if each.after is None else dict(each.after),
        "undoes": each.undoes,
    }


def _nameless(report: FilmReport) -> FilmReport:
    """Without times, paths and file names: a source or a reason may hold any of them."""
    fields = [
        each.model_copy(
            update={
                "name": f"field-{each.index}",
                "reason": None if each.reason is None else "skipped",
            }
        )
        for each in report.fields
    ]
    gate = report.gate
    if gate is not None:
        gate = gate.model_copy(update={"profile": None, "profile_made_at": None})
    update: dict[str, Any] = {
        "source": "",
        "started_at": "",
        "settings": {},
        "fields": fields,
        "gate": gate,
    }
    return report.model_copy(update=update)


def _leave_out_names(document: dict[str, Any], name: str) -> None:
    film = document["film"]
    document["film"] = {
        "id": name,
        "state": film["state"],
        "review": film["review"],
        "amended": film["amended"],
    }
    _without(document["signatures"], ("user", "comment", "withdrawn_by", "withdrawn_why"))
    # The digest covers slide and patient, which could be guessed from it.
    _without(document["signatures"], ("signed_at", "withdrawn_at", "content_sha256"))
    # Changes refer to people and to each other; the cells above say what came of them.
    document["changes"] = []


def _without(records: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for each in records:
        for name in names:
            del each[name]
