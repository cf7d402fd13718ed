"""The words of the printed report in the page's languages.

Owns finding them. The report asks with its English sentences (see ``paper.words``); the catalogue
has them under the names that those sentences have there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from edge_runtime.clinic.paper import words
from edge_runtime.clinic.web.language import DEFAULT_LANGUAGE, Catalogue


def paper_words(spoken: Catalogue) -> Callable[..., str]:
    """Says a message of ``paper.words``, or a class of cells, in a language."""

    def say(message: str, /, **values: object) -> str:
        name = names().get(message)
        if name is None:
            return spoken.class_name(message) if not values else message.format(**values)
        if spoken.language == DEFAULT_LANGUAGE:
            said = message
        else:
            said = spoken.messages[f"paper.{name}"]
        return said.format(**values) if values else said

    return say


@cache
def names() -> Mapping[str, str]:
    """The name of every message of ``paper.words``, in small letters."""
    return {
        text: name.lower()
        for name, text in vars(words).items()
        if name.isupper() and isinstance(text, str)
    }
