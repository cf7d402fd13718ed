"""What the store gives to its readers: frozen records, detached from the database.

Owns their fields and what follows from them. Does not own how they are stored (see
``tables``) nor changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from edge_runtime.types import JudgedAttribute

StoredState = Literal["running", "complete", "interrupted"]
ReviewState = Literal["preliminary", "final"]
SecretKind = Literal["pin", "password"]


@dataclass(frozen=True, slots=True)
class NewFilm:
    """What a person says of a film before it begins.

    Attributes:
        slide: number or word by which the slide is found again.
        patient: number by which the clinic knows the patient, never the name; None if unknown.
        note: free text.
    """

    slide: str
    patient: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class StoredFilm:
    """One film.

    Attributes:
        id: counts up, never given twice.
        state: running, or how the run ended; a power cut ends it as interrupted.
        review: preliminary until a person signs, and again after the film was reopened.
        amended: it was signed before, then reopened.
        operator: name of who examined it; None when nobody was signed in.
        started_at, finished_at: the latter None while it runs.
        bundle: that looked at it.
        fields, skipped, cells: counts; every refused frame is one of the skipped, and cells are
            without rejected ones.
    """

    id: int
    state: StoredState
    review: ReviewState
    amended: bool
    slide: str
    patient: str | None
    note: str | None
    operator: str | None
    started_at: datetime
    finished_at: datetime | None
    bundle: str
    fields: int
    skipped: int
    cells: int


@dataclass(frozen=True, slots=True)
class StoredField:
    """One field; ``reason`` says why it was skipped, None when it was examined.

    Attributes:
        preview_file, frame_file: names of pictures; None where there is none.
        preview_scale: preview pixels per frame pixel.
        checked: a person says that every white cell in it has its box.
        age_ms: from capture to result; None when the camera was not live.
        place: fragment and upper left corner on the film, frame pixels; None where fields were not
            put together, and where nobody knows.
        lost: why nobody knows its place; its cells do not count then.
        pixel_size_um: µm per frame pixel; None when unknown.
        frames: of a skipped one, how many refused frames in a row it stands for.
    """

    film: int
    index: int
    name: str
    width: int | None
    height: int | None
    tiles: int
    reason: str | None
    domain_score: float | None
    preview_file: str | None
    preview_scale: float | None
    frame_file: str | None
    checked: bool
    age_ms: float | None = None
    place: tuple[int, float, float] | None = None
    lost: str | None = None
    pixel_size_um: float | None = None
    frames: int = 1

    @property
    def shown(self) -> bool:
        """Whether people are to look at it: it was examined, and shows what no other field does."""
        return self.reason is None and self.preview_file is not None


@dataclass(frozen=True, slots=True)
class StoredCell:
    """One cell, as the model found it and as a person corrected it.

    Attributes:
        id: unique in the store.
        number: within the field, from 1.
        box_xyxy: frame pixels.
        score: None for a cell that a person added, as are ``class_name`` and all below it up
            to ``attributes``.
        class_name: as in ``film.json``.
        crop_file: name of its picture.
        given_class: what a person says; None where nobody said anything.
        rejected: a person says that it is no white cell.
        film_cell: of the film, which it shows; None where fields were not put together, where
            nobody knows the field's place, and of added cells.
        counts: False of a repeat, and where nobody knows the field's place.
    """

    id: int
    film: int
    field: int
    number: int
    box_xyxy: tuple[float, float, float, float]
    score: float | None
    class_name: str | None
    best_class: str | None
    class_probability: float | None
    class_probabilities: Mapping[str, float] | None
    attributes: Mapping[str, JudgedAttribute | None] | None
    crop_file: str | None
    given_class: str | None
    rejected: bool
    film_cell: int | None = None
    counts: bool = True

    @property
    def shown_class(self) -> str:
        """The class that counts: a person's, else the model's."""
        return self.given_class or self.class_name or ""

    @property
    def added(self) -> bool:
        """Whether a person added it."""
        return self.class_name is None

    @property
    def corrected(self) -> bool:
        """Whether it differs from what the model said."""
        return self.added or self.rejected or self.given_class not in (None, self.class_name)


@dataclass(frozen=True, slots=True)
class Signature:
    """A person's word that a film was reviewed.

    Attributes:
        user: name of who signed.
        content_sha256: of what was signed.
        withdrawn_at, withdrawn_by, withdrawn_why: None while it stands.
    """

    id: int
    film: int
    user: str
    signed_at: datetime
    comment: str | None
    content_sha256: str
    withdrawn_at: datetime | None
    withdrawn_by: str | None
    withdrawn_why: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the audit trail.

    Attributes:
        user: name; None when the program itself did it.
        before, after: the values that changed, by name.
        undoes: id of the change that this one takes back.
        undone: a later change took this one back.
    """

    id: int
    at: datetime
    user: str | None
    action: str
    film: int | None
    cell: int | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    undoes: int | None
    undone: bool


def stamp(moment: datetime) -> str:
    """A time as the store writes it."""
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone")
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
