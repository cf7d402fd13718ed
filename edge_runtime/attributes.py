"""Which morphological attributes a data set or a model knows, and their values.

Owns the schema; the code that uses it counts neither on a number of attributes nor on two
values each. Does not own any particular schema: those are data, in files and in bundles.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

# An attribute that nobody judged, in arrays of value indices.
MISSING = -1


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Attribute(_Strict):
    """One attribute: ``values[i]`` is what index ``i`` means."""

    name: str = Field(min_length=1)
    values: tuple[str, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"attribute {self.name!r}: a value is listed twice")
        # In cells.csv an empty value says that nobody judged the attribute.
        if not all(value.strip() for value in self.values):
            raise ValueError(f"attribute {self.name!r}: a value has no name")
        return self


class AttributeSchema(_Strict):
    """All attributes of a data set, in the order of its columns."""

    name: str = Field(min_length=1)
    attributes: tuple[Attribute, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len({each.name for each in self.attributes}) != len(self.attributes):
            raise ValueError(f"attribute schema {self.name!r}: an attribute is listed twice")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of values of every attribute: the logits a head has for it."""
        return tuple(len(each.values) for each in self.attributes)
