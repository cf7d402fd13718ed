"""The store's tables, as the newest schema version has them.

Owns names and types of columns. Does not own how an older store becomes this one (see
``migrations``) nor who may change what (see ``corrections``, ``review`` and ``users``).
Times are ISO 8601 in UTC; order is told by row numbers, for a device's clock may jump.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# One row: what sets this store apart from every other.
identity = Table(
    "identity",
    metadata,
    Column("uuid", Text, primary_key=True),
    Column("created_at", Text, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSON, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    # Case and width folded: nobody can be mistaken for another.
    Column("name_key", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("secret_kind", Text, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("locked_until", Text),
    # Counts up when the secret, the role or the account changes; a session made under an
    # older number is over.
    Column("epoch", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    sqlite_autoincrement=True,
)

films = Table(
    "films",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", Text, nullable=False),
    Column("slide", Text, nullable=False),
    Column("patient", Text),
    Column("note", Text),
    Column("operator", Integer, ForeignKey("users.id")),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("bundle", Text, nullable=False),
    # The film report without fields and cells, which have rows of their own.
    Column("header", JSON, nullable=False),
    # Classes a person may give, and which of them are counted beside the differential, as
    # they were when the film began: a later setting must not change a signed differential.
    Column("classes", JSON, nullable=False),
    # Template of the description, when the bundle has its own.
    Column("template", JSON(none_as_null=True)),
    # The report as the run wrote it, gzip; null when the run never came to its end.
    Column("report_file", Text),
    sqlite_autoincrement=True,
)

fields = Table(
    "fields",
    metadata,
    Column("film", Integer, ForeignKey("films.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("tiles", Integer, nullable=False),
    Column("reason", Text),
    Column("domain_score", Float),
    Column("preview_file", Text),
    Column("preview_scale", Float),
    Column("frame_file", Text),
    # A person has looked at the whole field: every white cell in it has its box.
    Column("checked_by", Integer, ForeignKey("users.id")),
    Column("stored_at", Text, nullable=False),
    # Null when the camera was not live.
    Column("age_ms", Float),
    # Upper left corner on the film, frame pixels of the fragment; null without a mosaic, and
    # where nobody knows: ``lost`` then says why.
    Column("fragment", Integer),
    Column("film_x", Float),
    Column("film_y", Float),
    Column("lost", Text),
    Column("pixel_size_um", Float),
    # Refused frames in a row that a skipped field stands for.
    Column("frames", Integer, nullable=False, server_default="1"),
)

cells = Table(
    "cells",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("film", Integer, nullable=False),
    Column("field", Integer, nullable=False),
    # As the report counts them, from 1; cells that a person added come after them.
    Column("number", Integer, nullable=False),
    Column("x1", Float, nullable=False),
    Column("y1", Float, nullable=False),
    Column("x2", Float, nullable=False),
    Column("y2", Float, nullable=False),
    # Null where a person added the cell.
    Column("score", Float),
    Column("class_name", Text),
    Column("best_class", Text),
    Column("class_probability", Float),
    Column("class_probabilities", JSON(none_as_null=True)),
    Column("attributes", JSON(none_as_null=True)),
    Column("crop_file", Text),
    # What a person says instead; null where nobody has said anything.
    Column("given_class", Text),
    Column("rejected", Boolean, nullable=False),
    # Cell of the film that it shows, where fields were put together. One row of each counts, and
    # keeps its id for good; should a better look come, the two rows change what the model found.
    Column("film_cell", Integer),
    Column("counts", Boolean, nullable=False, server_default="1"),
    ForeignKeyConstraint(["film", "field"], ["fields.film", "fields.index"], ondelete="CASCADE"),
    UniqueConstraint("film", "field", "number"),
    Index("cells_of_film_cell", "film", "film_cell"),
    sqlite_autoincrement=True,
)

signatures = Table(
    "signatures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("film", Integer, ForeignKey("films.id", ondelete="CASCADE"), nullable=False),
    Column("user", Integer, ForeignKey("users.id"), nullable=False),
    Column("signed_at", Text, nullable=False),
    Column("comment", Text),
    Column("content_sha256", Text, nullable=False),
    Column("withdrawn_at", Text),
    Column("withdrawn_by", Integer, ForeignKey("users.id")),
    Column("withdrawn_why", Text),
    sqlite_autoincrement=True,
)

# The audit trail. Triggers refuse every change of it. It outlives the film, so it must hold
# nothing that names a patient or a slide, and refers to films and cells without foreign keys.
trail = Table(
    "trail",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("user", Integer),
    Column("action", Text, nullable=False),
    Column("film", Integer),
    Column("cell", Integer),
    Column("before", JSON(none_as_null=True)),
    Column("after", JSON(none_as_null=True)),
    # The change that this one takes back.
    Column("undoes", Integer, unique=True),
    # SHA-256 over the entry and the chain before it: a gap or a forged entry shows.
    Column("chain", Text, nullable=False),
    sqlite_autoincrement=True,
)
