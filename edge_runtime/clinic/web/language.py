"""What the page says, in every language it speaks.

Owns the catalogues and how a message is found and filled. Does not own which language a
person chose (see ``pages``). The PDF report reads the same catalogues.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LANGUAGES: Mapping[str, str] = {"en": "English", "es": "Español"}
DEFAULT_LANGUAGE = "en"
_FOLDER = Path(__file__).parent / "catalogue"


@dataclass(frozen=True)
class Catalogue:
    """The messages of one language.

    Attributes:
        language: its two letters.
        messages: by id, such as ``film.title``; may hold ``{name}``s.
    """

    language: str
    messages: Mapping[str, str]

    def text(self, message: str, **values: Any) -> str:
        """A message with its values.

        Raises:
            KeyError: no such message, or a value is missing; both are faults of the program,
                and a test looks for them.
        """
        return self.messages[message].format(**values)

    def count(self, message: str, number: int, **values: Any) -> str:
        """A message about a number: ``ID.one`` for one, else ``ID.other``."""
        form = "one" if number == 1 else "other"
        return self.text(f"{message}.{form}", number=self.number(number), **values)

    def one_of(self, group: str, name: str) -> str:
        """A name that comes from outside: a later store may hold one that is not known here."""
        return self.messages.get(f"{group}.{name}", name.replace("_", " "))

    def class_name(self, name: str) -> str:
        """A class of cells as people write it; a class no catalogue knows keeps its name."""
        return self.one_of("class", name)

    def number(self, value: float, decimals: int = 0) -> str:
        """A number with the language's signs."""
        said = f"{value:,.{decimals}f}"
        if self.language == "es":
            # A point between thousands would be read as a decimal point by half the readers.
            return said.replace(",", "\u202f").replace(".", ",")
        return said

    def starting(self, prefix: str) -> dict[str, str]:
        """The messages of one group, such as ``js.``."""
        return {name: text for name, text in self.messages.items() if name.startswith(prefix)}


@cache
def catalogue(language: str) -> Catalogue:
    """The catalogue of a language; English for one that is not spoken here."""
    known = language if language in LANGUAGES else DEFAULT_LANGUAGE
    return Catalogue(known, read_messages(known))


def read_messages(name: str) -> dict[str, str]:
    """The messages of one file, by id."""
    with (_FOLDER / f"{name}.toml").open("rb") as file:
        return dict(_flat("", tomllib.load(file)))


def _flat(prefix: str, group: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in group.items():
        if isinstance(value, str):
            found.append((prefix + name, value))
        else:
            found += _flat(f"{prefix}{name}.", value)
    return found
