"""A film as FHIR R4: a DiagnosticReport and the Observations of its differential.

Owns the mapping and its codes. Only elements that R4 (4.0.1) and R4B (4.3.0) share are used;
the validator knows R4B. Does not own the numbers (see ``store.corrected``).

LOINC 26464-8 is leukocytes per volume, which no film tells; the cells counted are given
without a code. Classes without a code in the table below are given by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from edge_runtime.clinic.atomic_file import utf8
from edge_runtime.clinic.film_view import say
from edge_runtime.clinic.store.records import Signature, StoredFilm
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.errors import StoreError
from edge_runtime.film.blasts import blast_classes
from edge_runtime.film.differential import exact_interval
from edge_runtime.film_report import RESEARCH_USE, ClassShareRecord, FilmReport

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
# "Differential panel, method unspecified - Blood": neither a machine's nor quite by hand.
PANEL = "69738-3"
BLASTS = "26446-5"
# Per 100 leukocytes in blood; variant, atypical and reactive lymphocytes are one to LOINC.
CODES: Mapping[str, str] = {
    "basophil": "30180-4",
    "eosinophil": "26450-7",
    "monocyte": "26485-3",
    "band": "26508-2",
    "band_neutrophil": "26508-2",
    "neutrophil_band": "26508-2",
    "variant_lymphocyte": "13046-8",
    "atypical_lymphocyte": "13046-8",
    "reactive_lymphocyte": "13046-8",
}
_TERMS = "http://terminology.hl7.org/CodeSystem"
_UNSIGNED = "Preliminary: proposed by software, not reviewed by a person."


def fhir_bundle(store: ClinicStore, film: int, by: User | None) -> bytes:
    """A film as a FHIR Bundle of type collection, JSON, validated.

    Args:
        store: open.
        film: its number; it has ended.
        by: who exports; None when it is the device's owner on the command line.

    Returns:
        UTF-8.

    Raises:
        AccessError: ``by`` may not export.
        RecordError: no such film.
        StoreError: what is stored cannot be read, or does not make a valid document.
    """
    if by is not None:
        require(by, "export")
    found = store.films.get(film)
    standing = [x for x in store.review.signatures(film) if x.withdrawn_at is None]
    document = _document(
        UUID(store.uuid), found, store.reports.corrected(film), standing[-1] if standing else None
    )
    _validate(document, film)
    store.note_export(film, by, "FHIR")
    return utf8(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def status(film: StoredFilm) -> str:
    """The report's status: preliminary until signed, amended when signed anew."""
    if film.review == "preliminary":
        return "preliminary"
    return "amended" if film.amended else "final"


def _document(
    store: UUID, film: StoredFilm, report: FilmReport, signature: Signature | None
) -> dict[str, Any]:
    observations = _observations(film, report, signature)
    urls = [f"urn:uuid:{uuid5(store, f'film {film.id} {name}')}" for name in observations]
    issued = film.finished_at or film.started_at
    sentences = [] if report.description is None else list(report.description.sentences)
    words = [*([] if signature else [_UNSIGNED]), *sentences]
    if signature is not None and signature.comment:
        words.append(signature.comment)
    # A template cannot leave it out, nor a bundle without one.
    if RESEARCH_USE not in words:
        words.append(RESEARCH_USE)
    diagnostic = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": f"urn:uuid:{store}", "value": f"film {film.id}"}],
        "status": status(film),
        "category": [{"coding": [{"system": f"{_TERMS}/v2-0074", "code": "HM"}]}],
        "code": {
            "coding": [{"system": LOINC, "code": PANEL}],
            "text": "White-cell differential of a stained blood film",
        },
        **_whose(film),
        "effectiveDateTime": _time(film.started_at),
        "issued": _time(issued if signature is None else signature.signed_at),
        "result": [{"reference": url} for url in urls],
        "conclusion": " ".join(words),
    }
    if film.slide:
        diagnostic["specimen"] = [diagnostic.pop("specimen")]
    if signature is not None:
        diagnostic["resultsInterpreter"] = [{"type": "Practitioner", "display": signature.user}]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": _time(issued if signature is None else signature.signed_at),
        "entry": [
            {
                "fullUrl": f"urn:uuid:{uuid5(store, f'film {film.id}')}",
                "resource": diagnostic,
            },
            *(
                {"fullUrl": url, "resource": each}
                for url, each in zip(urls, observations.values(), strict=True)
            ),
        ],
    }


def _observations(
    film: StoredFilm, report: FilmReport, signature: Signature | None
) -> dict[str, dict[str, Any]]:
    """By a name that stays the same from export to export."""
    common = {
        "resourceType": "Observation",
        "status": status(film),
        "category": [
            {"coding": [{"system": f"{_TERMS}/observation-category", "code": "laboratory"}]}
        ],
        **_whose(film),
        "effectiveDateTime": _time(film.started_at),
        "device": {
            "display": f"Leukoscope {report.leukoscope_version}, model bundle {report.bundle.id}"
        },
        "note": [{"text": RESEARCH_USE}],
    }
    if signature is not None:
        common["performer"] = [{"type": "Practitioner", "display": signature.user}]
    made: dict[str, dict[str, Any]] = {}

    def count(name: str, text: str, value: int) -> None:
        made[name] = {**common, "code": {"text": text}, "valueInteger": value}

    differential = report.differential
    if differential is None:
        count("cells", "Cells found on the film", report.totals.cells)
        return made
    count("total", "Leukocytes counted in the differential", differential.total)
    named = [each.class_name for each in differential.classes]
    blasts = blast_classes(named)
    shares = {each.class_name: _Share.of(each) for each in differential.classes}
    for name, share in shares.items():
        code = CODES.get(_key(name))
        if blasts == (name,):
            code = BLASTS
        made[name] = {
            **common,
            "code": _code(f"{say(name)} per 100 leukocytes", code),
            **share.value(differential.total, differential.confidence),
        }
    if len(blasts) > 1:
        total = sum(shares[name].count for name in blasts)
        low, high = exact_interval(total, differential.total, confidence=differential.confidence)
        together = _Share(total, round(100 * low, 2), round(100 * high, 2))
        made["all blasts"] = {
            **common,
            "code": _code(f"blasts per 100 leukocytes ({', '.join(map(say, blasts))})", BLASTS),
            **together.value(differential.total, differential.confidence),
        }
    for name, number in differential.outside.items():
        count(f"outside {name}", f"{say(name)}, counted beside the differential", number)
    text = "Cells without a sure class, beside the differential"
    count("unclassified", text, differential.unclassified)
    return made


class _Share:
    """A count with its interval in percent."""

    def __init__(self, count: int, low: float, high: float) -> None:
        self.count = count
        self.low = low
        self.high = high

    @classmethod
    def of(cls, record: ClassShareRecord) -> _Share:
        return cls(record.count, record.low_percent, record.high_percent)

    def value(self, total: int, confidence: float) -> dict[str, Any]:
        """Value and components of an Observation."""
        interval = f"exact {100 * confidence:g} % interval"
        shown: dict[str, Any] = {
            "component": [
                {"code": {"text": "cells of this class"}, "valueInteger": self.count},
                {"code": {"text": f"{interval}, lower end"}, "valueQuantity": _percent(self.low)},
                {"code": {"text": f"{interval}, upper end"}, "valueQuantity": _percent(self.high)},
            ]
        }
        if total:
            shown["valueQuantity"] = _percent(round(100 * self.count / total, 2))
        else:
            reason = {"system": f"{_TERMS}/data-absent-reason", "code": "not-performed"}
            shown["dataAbsentReason"] = {"coding": [reason]}
        return shown


def _whose(film: StoredFilm) -> dict[str, Any]:
    whose: dict[str, Any] = {}
    if film.patient is not None:
        whose["subject"] = {"type": "Patient", "identifier": {"value": film.patient}}
    if film.slide:
        whose["specimen"] = {"type": "Specimen", "identifier": {"value": film.slide}}
    return whose


def _code(text: str, code: str | None) -> dict[str, Any]:
    coded: dict[str, Any] = {"text": text}
    if code is not None:
        coded["coding"] = [{"system": LOINC, "code": code}]
    return coded


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_").removesuffix("s")


def _percent(value: float) -> dict[str, Any]:
    return {"value": value, "unit": "%", "system": UCUM, "code": "%"}


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _validate(document: dict[str, Any], film: int) -> None:
    # Its models take a second to load; only an export needs them.
    from fhir.resources.R4B.bundle import Bundle
    from pydantic import ValidationError

    try:
        Bundle.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"film {film}: not valid as FHIR at {where}: {first['msg']}; "
            "this is a fault of the program, please report it"
        ) from error
