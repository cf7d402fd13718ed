"""What an admin sets for the whole device, kept in the store.

Owns names, bounds and defaults. Does not own the settings of a run (see
``edge_runtime.settings``), which come from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.tables import settings
from edge_runtime.clinic.store.trail import record
from edge_runtime.clinic.store.users import User, Users
from edge_runtime.errors import RecordError, SettingsError

ClassName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class ClinicSettings(BaseModel):
    """Everything that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clinic_name: str = Field(default="", max_length=200, description="stands on reports")
    language: str = Field(default="en", pattern="^[a-z]{2}$", description="of the page")
    blast_threshold_percent: float = Field(
        default=20, gt=0, lt=100, description="share of blasts that the stop rule decides about"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of that decision")
    # What reviewers name and few classifiers do.
    extra_classes: tuple[ClassName, ...] = Field(
        default=(
            "blast",
            "promyelocyte",
            "myelocyte",
            "metamyelocyte",
            "band_neutrophil",
            "variant_lymphocyte",
            "plasma_cell",
        ),
        description="classes a person may give beside the classifier's; for films begun later",
    )
    extra_outside: tuple[ClassName, ...] = Field(
        default=("erythroblast", "smudge_cell"),
        description="the same, counted beside the differential",
    )
    minimum_free_mb: int = Field(
        default=500, ge=20, description="a film does not begin with less free on the disk"
    )
    keep_frames: bool = Field(
        default=True,
        description="keep at full size the fields that show a new part of the film or a cell "
        "best; a training set is made of them",
    )
    retention_days: int | None = Field(
        default=None, ge=1, description="films older than this are deleted; unset: never"
    )
    frame_retention_days: int | None = Field(
        default=None, ge=1, description="the same for full-size fields alone"
    )
    session_minutes: int = Field(
        default=30, ge=1, le=1440, description="an unused session ends after this"
    )


class DeviceSettings:
    """Reads and changes them."""

    def __init__(self, database: Database, people: Users, now: Callable[[], datetime]) -> None:
        self._database = database
        self._users = people
        self._now = now

    def current(self) -> ClinicSettings:
        """What is in force; SettingsError when the store holds a value that is none."""
        with self._database.reading() as connection:
            return _current(connection)

    def current_with(self, account: int) -> tuple[ClinicSettings, User | None]:
        """The same with an account as it is now, for every request asks both; None without it."""
        with self._database.reading() as connection:
            try:
                user = self._users.get_in(connection, account)
            except RecordError:
                user = None
            return _current(connection), user

    def change(self, by: User, **values: Any) -> ClinicSettings:
        """Changes some; all of them or none.

        Raises:
            AccessError: ``by`` is no admin.
            SettingsError: no such name, or not a value of it.
        """
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "manage")
            before = _current(connection)
            after = _validated({**before.model_dump(), **values})
            old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
            changed = {name for name in new if new[name] != old[name]}
            for name in sorted(changed):
                made = insert(settings).values(name=name, value=new[name])
                connection.execute(
                    made.on_conflict_do_update(
                        index_elements=["name"], set_={"value": made.excluded.value}
                    )
                )
            if changed:
                record(
                    connection,
                    self._now(),
                    by.id,
                    "settings_changed",
                    before={name: old[name] for name in sorted(changed)},
                    after={name: new[name] for name in sorted(changed)},
                )
            return after


def _current(connection: Connection) -> ClinicSettings:
    rows = connection.execute(select(settings.c.name, settings.c.value))
    # A newer program may have left a name that this one does not know.
    known = {row.name: row.value for row in rows if row.name in ClinicSettings.model_fields}
    return _validated(known)


def _validated(values: dict[str, Any]) -> ClinicSettings:
    try:
        return ClinicSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(ClinicSettings.model_fields)
            raise SettingsError(f"device settings: unknown {name!r}; known: {known}") from error
        given = values.get(str(first["loc"][0]))
        raise SettingsError(f"device settings: {name} = {given!r}: {first['msg']}") from error
