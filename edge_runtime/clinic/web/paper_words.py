"""The words of the printed report in the page's languages.

Owns finding them. The report asks with its English sentences (see ``paper.words``); a file beside
the catalogues has them under the names that those sentences have there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from edge_runtime.clinic.paper import words
from edge_runtime.clinic.web.language import DEFAULT_LANGUAGE, Catalogue, read_messages


def paper_words(spoken: Catalogue) -> Callable[..., str]:
    """Says a message of ``paper.words``, a class of cells, or why something was not done.

    A sentence that is new there and not here yet stays English rather than being left out.
    """
    translated = in_language(spoken.language)

    def say(message: str, /, **values: object) -> str:
        if message not in _names():
            # A reason why screening keeps silent or a field was skipped, or a class.
            why = spoken.messages.get(
                f"screening.why_{message.replace(' ', '_')}",
                spoken.messages.get(f"skipped.{message}"),
            )
            return spoken.class_name(message) if why is None else why
        said = translated.get(_names()[message], message)
        return said.format(**values) if values else said

    return say


@cache
def in_language(language: str) -> Mapping[str, str]:
    """The messages of ``paper.words`` by their names; none for English, which stands there."""
    return {} if language == DEFAULT_LANGUAGE else read_messages(f"paper_{language}")


@cache
def _names() -> Mapping[str, str]:
    """By message: its name in ``paper.words``, in small letters."""
    return {
        text: name.lower()
        for name, text in vars(words).items()
        if name.isupper() and isinstance(text, str)
    }
