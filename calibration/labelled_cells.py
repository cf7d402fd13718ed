"""Pictures whose cells have a class and attributes, as a training run leaves them for export.

Owns the record's form, writing and strict reading. Does not own where the labels come from
(see ``train.datasets``) nor what is measured on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from calibration.fields import xywhn_to_xyxy
from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from edge_runtime.types import Float32Array, Int64Array, UInt8Image

CellSplit = Literal["train", "val", "test"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CellRow(_Record):
    """One labelled cell.

    Attributes:
        box_xywhn: centre x, centre y, width, height as fractions of the picture.
        class_id: index into the record's classes.
        attributes: value indices in the schema's order, ``MISSING`` where nobody judged;
            empty without a schema.
    """

    box_xywhn: tuple[float, float, float, float]
    class_id: int = Field(ge=0)
    attributes: tuple[int, ...] = ()


class CellPicture(_Record):
    """One picture; ``file`` is relative to the data root, with forward slashes."""

    file: str
    split: CellSplit
    domain: str
    cells: tuple[CellRow, ...]

    @property
    def boxes_xywhn(self) -> Float32Array:
        """float32 ``(n, 4)``."""
        return np.array([cell.box_xywhn for cell in self.cells], np.float32).reshape(-1, 4)

    @property
    def class_ids(self) -> Int64Array:
        """int64 ``(n,)``."""
        return np.array([cell.class_id for cell in self.cells], np.int64)

    @property
    def attributes(self) -> Int64Array:
        """int64 ``(n, A)``."""
        rows = [cell.attributes for cell in self.cells]
        return np.array(rows, np.int64).reshape(len(rows), -1 if rows else 0)

    def read(self, root: Path) -> UInt8Image:
        """The pixels, RGB uint8 ``(H, W, 3)``, read as the device reads files.

        Raises:
            DataError: missing or unreadable.
        """
        try:
            return read_image(root / self.file)
        except FrameError as error:
            raise DataError(f"{root / self.file}: {error}; copy the data again") from error

    def boxes_xyxy(self, width: int, height: int) -> Float32Array:
        """Corners in pixels of a picture of ``width`` x ``height``, float32 ``(n, 4)``."""
        return xywhn_to_xyxy(self.boxes_xywhn, width, height)


class LabelledCells(_Record):
    """All splits of what one head was trained and is to be judged on."""

    schema_version: Literal[1] = 1
    name: str
    classes: tuple[str, ...] = Field(min_length=1)
    attributes: AttributeSchema | None
    pictures: tuple[CellPicture, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        widths = self.attributes.widths if self.attributes else ()
        for picture in self.pictures:
            for cell in picture.cells:
                if cell.class_id >= len(self.classes):
                    raise ValueError(f"{picture.file}: class {cell.class_id} is not in the list")
                if len(cell.attributes) != len(widths) or any(
                    not MISSING <= value < width
                    for value, width in zip(cell.attributes, widths, strict=True)
                ):
                    raise ValueError(f"{picture.file}: attributes {cell.attributes} do not fit")
        return self

    def of_split(self, split: CellSplit) -> tuple[CellPicture, ...]:
        """Pictures of one split, in the record's order."""
        return tuple(each for each in self.pictures if each.split == split)

    def attributed(self, split: CellSplit) -> list[tuple[CellPicture, int]]:
        """Cells of a split with at least one known attribute: picture and number in it."""
        return [
            (picture, number)
            for picture in self.of_split(split)
            for number, cell in enumerate(picture.cells)
            if any(value != MISSING for value in cell.attributes)
        ]


@dataclass(frozen=True, slots=True)
class OpenedCells:
    """A record and the folder its files are relative to."""

    cells: LabelledCells
    root: Path

    def files(self, split: CellSplit) -> Sequence[Path]:
        """Paths of one split's pictures."""
        return [self.root / each.file for each in self.cells.of_split(split)]


def write_cells(cells: LabelledCells, file: Path) -> None:
    """Writes a record; the same record gives the same bytes."""
    file.write_text(cells.model_dump_json() + "\n", encoding="utf-8")


def open_cells(file: Path, root: Path) -> OpenedCells:
    """Reads a record.

    Args:
        file: as ``write_cells`` left it.
        root: the data root its file names are relative to.

    Raises:
        DataError: missing, not a record, or its pictures are not under ``root``.
    """
    try:
        cells = LabelledCells.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; give a finished training run") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(f"{file}: {where}: {first['msg']}; train again") from error
    for picture in cells.pictures:
        if not (root / picture.file).is_file():
            raise DataError(
                f"{root / picture.file}: no such file; give --data the folder the data lies in"
            )
    return OpenedCells(cells, root)
