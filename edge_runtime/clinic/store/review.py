"""Review and signature: a film is preliminary until a person signs it.

Owns signing, reopening and what exactly was signed. A signed film takes no correction; who
reopens it says why, and the withdrawn signature stays on record. Does not own the report.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, update

from edge_runtime.clinic.store import rows
from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.films import film_classes, read_header
from edge_runtime.clinic.store.records import Signature, stamp
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.tables import signatures
from edge_runtime.clinic.store.trail import record
from edge_runtime.clinic.store.users import User, Users
from edge_runtime.errors import RecordError


class Review:
    """Signatures of one store's films."""

    def __init__(self, database: Database, people: Users, now: Callable[[], datetime]) -> None:
        self._database = database
        self._users = people
        self._now = now

    def sign(
        self, film: int, by: User, *, content_sha256: str | None = None, comment: str | None = None
    ) -> Signature:
        """Makes a film's report final.

        Args:
            film: ended and not signed.
            by: a reviewer.
            content_sha256: of what ``by`` had before the eyes (see ``content``); refused when
                the film has changed since.
            comment: the reviewer's own words.

        Raises:
            AccessError: ``by`` may not sign.
            RecordError: the film runs, is signed, has changed, or is not there.
        """
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "sign")
            found = rows.get_open_film(connection, film)
            if found.state == "running":
                raise RecordError(f"film {film}: still running; end it before it is signed")
            content = _content(connection, film)
            if content_sha256 is not None and content_sha256 != content:
                raise RecordError(f"film {film}: changed since it was shown; look at it again")
            connection.execute(
                insert(signatures).values(
                    film=film,
                    user=by.id,
                    signed_at=stamp(self._now()),
                    comment=(comment or "").strip() or None,
                    content_sha256=content,
                )
            )
            after = {"content_sha256": content}
            record(connection, self._now(), by.id, "film_signed", film=film, after=after)
            return rows.get_signatures(connection, film)[-1]

    def reopen(self, film: int, by: User, why: str) -> None:
        """Withdraws a film's signature, so that it can be corrected.

        Raises:
            AccessError: ``by`` may not sign.
            RecordError: no reason is given, or the film is not signed.
        """
        if not why.strip():
            raise RecordError(f"film {film}: say why it is reopened")
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "sign")
            if rows.get_film(connection, film).review != "final":
                raise RecordError(f"film {film}: not signed, so it needs no reopening")
            connection.execute(
                update(signatures)
                .where(signatures.c.film == film, signatures.c.withdrawn_at.is_(None))
                .values(
                    withdrawn_at=stamp(self._now()), withdrawn_by=by.id, withdrawn_why=why.strip()
                )
            )
            # The reason stands with the signature: it may name what the trail must not keep.
            record(connection, self._now(), by.id, "signature_withdrawn", film=film)

    def signatures(self, film: int) -> list[Signature]:
        """A film's signatures, withdrawn ones too, oldest first."""
        with self._database.reading() as connection:
            return rows.get_signatures(connection, film)

    def content(self, film: int) -> str:
        """SHA-256 of everything a signature vouches for, as it stands now.

        That is everything that page and report show: the film's label and times, the run's record
        (bundle, settings, screening, camera), fields with their places, and every cell with box,
        class, picture, attributes, and what people said. Not that fields are kept at full size,
        which retention changes.
        """
        with self._database.reading() as connection:
            return _content(connection, film)

    def holds(self, signature: Signature) -> bool:
        """Whether the film is still what was signed."""
        return self.content(signature.film) == signature.content_sha256


def _content(connection: Connection, film: int) -> str:
    found = rows.get_film(connection, film)
    header = read_header(connection, film)
    classes = film_classes(connection, film)
    document: dict[str, Any] = {
        "film": found.id,
        "state": found.state,
        "slide": found.slide,
        "patient": found.patient,
        "note": found.note,
        "operator": found.operator,
        "times": [stamp(each) for each in (found.started_at, found.finished_at) if each],
        "run": header.model_dump(mode="json"),
        "outside": list(classes.outside),
        "fields": [
            [
                each.index,
                each.name,
                each.reason,
                each.frames,
                each.checked,
                each.preview_file,
                each.domain_score,
                each.place,
                each.lost,
            ]
            for each in rows.get_fields(connection, film)
        ],
        "cells": [
            [
                each.id,
                each.field,
                each.number,
                *each.box_xyxy,
                each.class_name,
                each.given_class,
                each.rejected,
                each.score,
                each.class_probability,
                each.crop_file,
                None
                if each.attributes is None
                else {
                    name: None if judged is None else [judged.value, judged.probability]
                    for name, judged in sorted(each.attributes.items())
                },
            ]
            for each in rows.get_cells(connection, film)
        ],
    }
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
