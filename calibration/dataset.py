"""The calibration set: which pictures, of which domain, with which hash.

Owns its record and the check that the files are still those that were drawn. Does not
own drawing (see ``sampling``) nor what is measured on the pictures (see ``ranges``).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import decode_image
from edge_runtime.types import UInt8Image

MINIMUM_OF_SCHEMA_1 = 200


class CalibrationImage(BaseModel):
    """One picture; its folder is given when the set is used, so the record moves freely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    file: str = Field(description="relative to the domain's folder, with forward slashes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Stratum(BaseModel):
    """One part of a domain's pool, and how many pictures were drawn from it.

    The parts are numbered from the lowest values on; 0 of 1 where a trait does not vary or
    was not looked at.

    Attributes:
        focus: third of the domain by sharpness.
        density: half of the domain by mean optical density.
        hue: half of the domain by how much of that density is red, as of azure and methylene
            blue, instead of green, as of eosin.
        cells: third of the domain by number of cells.
        pool: pictures there were.
        drawn: pictures taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    focus: int = Field(ge=0)
    density: int = Field(ge=0)
    hue: int = Field(ge=0)
    cells: int = Field(ge=0)
    pool: int = Field(gt=0)
    drawn: int = Field(ge=0)


class CalibrationSet(BaseModel):
    """The pictures that set the int8 ranges of a model.

    Attributes:
        seed: of the draw.
        preprocessing: identity of the input spec the pictures are turned into tensors by.
        images: sorted by domain and file.
        minimum: fewer pictures would have been refused. Records of schema 1 do not say it;
            theirs was 200 unless a person asked for another.
        cells_from: what told the number of cells; None when the draw did not look at it.
        strata: parts of the pool; empty when only domains were told apart.
        passed_over: pictures of the pool that could not be drawn, by reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2] = 2
    seed: int
    preprocessing: str
    images: tuple[CalibrationImage, ...] = Field(min_length=1)
    minimum: int = Field(default=MINIMUM_OF_SCHEMA_1, ge=1)
    cells_from: str | None = None
    strata: tuple[Stratum, ...] = ()
    passed_over: dict[str, int] = Field(default_factory=dict)

    @property
    def domains(self) -> dict[str, int]:
        """Pictures per domain."""
        return dict(sorted(Counter(image.domain for image in self.images).items()))

    @property
    def digest(self) -> str:
        """SHA-256 over content, domains and preprocessing; file names do not matter."""
        lines = sorted(f"{image.domain} {image.sha256}" for image in self.images)
        text = "\n".join([self.preprocessing, *lines])
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """The record as text, the same for the same set."""
        document = self.model_dump(mode="json") | {"digest": self.digest}
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CalibrationSet:
        """Reads a record.

        Raises:
            DataError: it is not a record, or its digest is not that of its content.
        """
        try:
            document = json.loads(text)
            digest = document.pop("digest")
            loaded = cls.model_validate(document)
        except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"calibration set: not a record of one ({reason})") from error
        if loaded.digest != digest:
            raise DataError(
                f"calibration set: its content has digest {loaded.digest[:12]}…, it says "
                f"{str(digest)[:12]}…; draw the set again"
            )
        return loaded

    def pictures(self, folders: Mapping[str, Path]) -> Iterator[UInt8Image]:
        """Every picture, RGB uint8 ``(H, W, 3)``, read as the device reads files.

        Args:
            folders: per domain, what the file names are relative to.

        Raises:
            DataError: a domain has no folder, a file is missing, was altered or is one
                that the device would skip.
        """
        for image in self.images:
            if image.domain not in folders:
                raise DataError(f"calibration set: no folder given for domain {image.domain!r}")
            path = folders[image.domain] / image.file
            try:
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != image.sha256:
                    raise DataError(f"calibration image {path}: altered; draw the set again")
                yield decode_image(content)
            except OSError as error:
                raise DataError(
                    f"calibration image {path}: {error.strerror}; draw the set again"
                ) from error
            except FrameError as error:
                raise DataError(f"calibration image {path}: {error}") from error


def preprocessing_id(spec: InputSpec) -> str:
    """What identifies a way from frame to tensor: SHA-256 of the bundle's input spec.

    Ranges are only valid for tensors that are made the same way.
    """
    text = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
