"""The report of a film as its run wrote it, and as it stands after people's corrections.

Owns putting both together from what is stored. Counts, intervals, votes and sentences come from
the same code as in a run (see ``film_record``). Does not own how they are shown.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from pydantic import ValidationError
from sqlalchemy import Connection, select

from edge_runtime.attributes import Attribute, AttributeSchema
from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.store import rows
from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.films import FilmClasses, film_classes, read_header
from edge_runtime.clinic.store.on_film import together
from edge_runtime.clinic.store.pictures import Pictures
from edge_runtime.clinic.store.records import StoredCell, StoredField
from edge_runtime.clinic.store.tables import films
from edge_runtime.errors import StoreError
from edge_runtime.film.bank import BankRules
from edge_runtime.film.differential import count_differential
from edge_runtime.film_record import (
    bank_of,
    description_record,
    differential_record,
    morphology_record,
)
from edge_runtime.film_report import (
    AttributeRecord,
    CellRecord,
    FieldRecord,
    FilmReport,
    TotalsRecord,
)
from edge_runtime.guided_record import field_place, tally_again


class Reports:
    """Film reports made of what is stored."""

    def __init__(self, database: Database, pictures: Pictures) -> None:
        self._database = database
        self._pictures = pictures

    def examined(self, film: int) -> FilmReport:
        """The report as the run wrote it, or would have, had the power not gone.

        Raises:
            RecordError: no such film.
            StoreError: what is stored cannot be read.
        """
        with self._database.reading() as connection:
            rows.get_film(connection, film)
            name = connection.execute(
                select(films.c.report_file).where(films.c.id == film)
            ).scalar()
            if name is None:
                found = [x for x in rows.get_cells(connection, film, every=True) if not x.added]
                return _put_together(connection, film, found, corrected=False)
        try:
            return FilmReport.model_validate_json(gzip.decompress(self._pictures.read(film, name)))
        except (ValidationError, OSError, EOFError) as error:
            raise StoreError(f"film {film}: its report cannot be read; {error}") from error

    def corrected(self, film: int) -> FilmReport:
        """The report as it stands: people's classes, without rejected finds, with added cells.

        A cell that a person added has the score 1: nothing in doubt was left by whoever drew
        it. A person's class takes the place of the model's, and its probabilities with it.

        Raises:
            RecordError: no such film.
            StoreError: what is stored cannot be read.
        """
        with self._database.reading() as connection:
            rows.get_film(connection, film)
            found = [x for x in rows.get_cells(connection, film, every=True) if not x.rejected]
            return _put_together(connection, film, found, corrected=True)


def _put_together(
    connection: Connection, film: int, found: Sequence[StoredCell], *, corrected: bool
) -> FilmReport:
    """The report of some finds, repeats and those without a place among them."""
    header = read_header(connection, film)
    stored = rows.get_fields(connection, film)
    per_field = Counter(cell.field for cell in found)
    records = [_field_record(each, per_field[each.index]) for each in stored]
    counted = [each for each in found if each.counts]
    cells = [_cell_record(each, header, corrected=corrected) for each in counted]
    by_class = Counter(dict.fromkeys(header.totals.cells_by_class, 0))
    by_class.update(cell.class_name for cell in cells)
    done = sum(each.reason is None for each in stored)
    changes: dict[str, Any] = {
        "fields": records,
        "cells": cells,
        "totals": TotalsRecord(
            fields=done,
            fields_skipped=sum(each.frames for each in stored if each.reason is not None),
            cells=len(cells),
            cells_by_class=dict(by_class),
        ),
    }
    changes |= together(stored, found, cells)
    changes |= _counted(connection, film, header, cells, by_class, film_classes(connection, film))
    made = changes.get("differential")
    if header.tally is not None and made is not None:
        changes["tally"] = tally_again(header.tally, by_class, made.total)
    return header.model_copy(update=changes)


def _counted(
    connection: Connection,
    film: int,
    header: FilmReport,
    cells: Sequence[CellRecord],
    by_class: Counter[str],
    classes: FilmClasses,
) -> dict[str, Any]:
    """Differential, morphology and description, as far as the bundle has them."""
    named, head = header.classifier, header.attribute_head
    if named is None and head is None:
        return {}
    own = [name for name in header.totals.cells_by_class if name != UNCLASSIFIED]
    # A class that nobody gave would be a row of zeros, and a claim that it was looked for.
    types = [*own, *(name for name in classes.names if name not in own and by_class[name])]
    types = [name for name in types if name != UNCLASSIFIED]
    outside = [name for name in classes.outside if name in types]
    made: dict[str, Any] = {}
    if named is not None:
        made["differential"] = differential_record(
            count_differential(
                {name: by_class[name] for name in types},
                outside=outside,
                unclassified=by_class[UNCLASSIFIED],
            )
        )
    schema = None
    if head is not None:
        schema = AttributeSchema(
            name=head.schema_name,
            attributes=tuple(
                Attribute(name=name, values=tuple(values))
                for name, values in head.attributes.items()
            ),
        )
    rules = BankRules()
    bank = bank_of(cells, schema, types, artefacts=outside, rules=rules)
    summary = bank.summary()
    made["morphology"] = morphology_record(summary, schema, rules)
    template = connection.execute(select(films.c.template).where(films.c.id == film)).scalar()
    made["description"] = description_record(summary, _template(template))
    return made


def _template(document: Any) -> Any:
    if document is None:
        return None
    from edge_runtime.film.description import DescriptionTemplate

    return DescriptionTemplate.model_validate(document)


def _field_record(field: StoredField, cells: int) -> FieldRecord:
    return FieldRecord(
        index=field.index,
        name=field.name,
        width=field.width,
        height=field.height,
        skipped=field.reason is not None,
        reason=field.reason,
        cells=cells,
        tiles=field.tiles,
        domain_score=field.domain_score,
        age_ms=field.age_ms,
        place=field_place(field.place),
        lost=field.lost,
        frames=field.frames,
    )


def _cell_record(cell: StoredCell, header: FilmReport, *, corrected: bool) -> CellRecord:
    judged = cell.attributes
    attributes = None
    if judged is not None:
        attributes = {
            name: None
            if each is None
            else AttributeRecord(value=each.value, probability=each.probability)
            for name, each in judged.items()
        }
    name = cell.shown_class if corrected else cast(str, cell.class_name)
    head = header.attribute_head
    if attributes is not None and head is not None and name in head.not_for_classes:
        attributes = dict.fromkeys(attributes)
    changed = corrected and cell.given_class is not None
    return CellRecord(
        field=cell.field,
        box_xyxy=cell.box_xyxy,
        score=1.0 if cell.score is None else cell.score,
        class_name=name,
        best_class=None if changed else cell.best_class,
        class_probability=None if changed else cell.class_probability,
        class_probabilities=None
        if changed or cell.class_probabilities is None
        else dict(cell.class_probabilities),
        attributes=attributes,
    )
