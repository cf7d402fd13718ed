"""What the data sets mean: classes, attributes, columns, mappings, read from ``schemas.yaml``.

Owns the form of that file and the translation of a label's code or word into a value index.
Does not own any list itself (they are data) nor the reading of a data set's own files.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from edge_runtime.attributes import MISSING, Attribute, AttributeSchema
from edge_runtime.errors import DataError, SettingsError

SCHEMAS = Path(__file__).parent / "schemas.yaml"
IGNORED = "-"
BOX_COLUMNS = ("class", "cx", "cy", "w", "h")
PATCH_COLUMNS = ("patch_1", "patch_2", "patch_3", "patch_4")

PatchOrder = Literal["x1,y1,x2,y2", "x1,x2,y1,y2"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassMapping(_Strict):
    """Every class of a data set to one of other ``classes``, or to None: left out."""

    classes: tuple[str, ...] = Field(min_length=1)
    of: dict[str, str | None]

    @model_validator(mode="after")
    def _known_targets(self) -> Self:
        strangers = {to for to in self.of.values() if to is not None} - set(self.classes)
        if strangers:
            raise ValueError(f"maps to unknown classes {sorted(strangers)}")
        return self


class DatasetSpec(_Strict):
    """One data set as ``schemas.yaml`` describes it.

    Attributes:
        classes: class ``i`` of the records is ``classes[i]``.
        missing_code: the number that stands for "not judged" in attribute columns.
        layouts: accepted column lists of text label files, each of another width.
        json_keys: attribute name to the keys that annotations in JSON may use for it.
        patch_frame_px: side of the picture that patch columns in pixels refer to.
        patch_order: order of the four patch columns where the labels alone cannot tell it.
        published: how much there is, as its source says it.
    """

    name: str
    title: str
    classes: tuple[str, ...] = Field(min_length=1)
    attributes: AttributeSchema | None = None
    missing_code: int | None = None
    layouts: tuple[tuple[str, ...], ...] = ()
    json_keys: dict[str, tuple[str, ...]] = {}
    patch_frame_px: int | None = None
    patch_order: PatchOrder | None = None
    published: str | None = None
    mappings: dict[str, ClassMapping] = {}

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """In the order of the records' attribute columns; empty without attributes."""
        return tuple(each.name for each in self.attributes.attributes) if self.attributes else ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is listed twice")
        if len({len(columns) for columns in self.layouts}) != len(self.layouts):
            raise ValueError("two layouts of one width cannot be told apart")
        for columns in self.layouts:
            self._check_layout(columns)
        for name, mapping in self.mappings.items():
            if set(mapping.of) != set(self.classes):
                odd = sorted(set(mapping.of) ^ set(self.classes))
                raise ValueError(f"mapping {name}: not total over the classes, see {odd}")
        if set(self.json_keys) - set(self.attribute_names):
            raise ValueError(f"json_keys: no such attribute in {sorted(self.json_keys)}")
        return self

    def _check_layout(self, columns: tuple[str, ...]) -> None:
        tail = tuple(name for name in columns[len(BOX_COLUMNS) :] if name != IGNORED)
        patch = tail[: len(PATCH_COLUMNS)] == PATCH_COLUMNS
        attributes = tail[len(PATCH_COLUMNS) :] if patch else tail
        if columns[: len(BOX_COLUMNS)] != BOX_COLUMNS or attributes != self.attribute_names:
            raise ValueError(
                f"layout of {len(columns)} columns: expected {', '.join(BOX_COLUMNS)}, "
                f"perhaps a patch, then the attributes in their order"
            )

    def mapping(self, name: str) -> ClassMapping:
        """A mapping by name.

        Raises:
            SettingsError: this data set has none of that name.
        """
        if name not in self.mappings:
            known = ", ".join(self.mappings) or "none"
            raise SettingsError(f"mapping {name!r}: not one of {self.name}; it has: {known}")
        return self.mappings[name]


def load_spec(name: str, path: Path = SCHEMAS) -> DatasetSpec:
    """The description of one data set.

    Raises:
        SettingsError: the file is no such YAML, holds a bad value, or has no such data set.
    """
    specs = load_specs(path)
    if name not in specs:
        raise SettingsError(f"data set {name!r}: unknown; choose one of {', '.join(specs)}")
    return specs[name]


@lru_cache(maxsize=4)
def load_specs(path: Path = SCHEMAS) -> dict[str, DatasetSpec]:
    """All descriptions by name, in the order of the file.

    Raises:
        SettingsError: the file is no such YAML or holds a bad value.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        schemas = {
            name: AttributeSchema(
                name=name,
                attributes=tuple(
                    Attribute(name=each, values=tuple(values)) for each, values in listed.items()
                ),
            )
            for name, listed in document["attribute_schemas"].items()
        }
        return {name: _spec(name, entry, schemas) for name, entry in document["data_sets"].items()}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: {error.title} {where}: {first['msg']}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path}: needs attribute_schemas and data_sets, each a table: {error}"
        ) from error


def _spec(name: str, entry: dict[str, Any], schemas: dict[str, AttributeSchema]) -> DatasetSpec:
    wanted = entry.get("attributes")
    attributes = None if wanted is None else schemas[wanted]
    return DatasetSpec.model_validate({**entry, "name": name, "attributes": attributes})


def index_of_code(attribute: Attribute, text: str, missing_code: int | None) -> int:
    """Value index of a number in a label file, or ``MISSING``.

    Raises:
        DataError: no whole number, or no value of this attribute.
    """
    try:
        value = float(text)
        code = int(value)
    except (ValueError, OverflowError):
        code, value = -1, float("nan")
    if code == value:
        if code == missing_code:
            return MISSING
        if 0 <= code < len(attribute.values):
            return code
    meanings = [f"{i} ({meaning})" for i, meaning in enumerate(attribute.values)]
    if missing_code is not None:
        meanings.append(f"{missing_code} (not judged)")
    raise DataError(f"{attribute.name} {text!r}: unknown value; known: {', '.join(meanings)}")


def index_of_word(attribute: Attribute, text: str) -> int:
    """Value index of a word in a table, or ``MISSING`` for an empty cell.

    Raises:
        DataError: no value of this attribute.
    """
    if not text:
        return MISSING
    if text in attribute.values:
        return attribute.values.index(text)
    raise DataError(
        f"{attribute.name} {text!r}: unknown value; known: {', '.join(attribute.values)}"
    )
