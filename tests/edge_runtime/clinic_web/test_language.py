"""Every message that is used stands in every language, with the same values."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from edge_runtime.clinic import web
from edge_runtime.clinic.web.language import LANGUAGES, Catalogue, catalogue

WEB = Path(web.__file__).parent
CLINIC = WEB.parent
# Who says a message: templates and Python by its id, scripts without the group.
_IN_TEMPLATES = re.compile(r"""\btn?\(\s*"([a-z_.]+)"(?!\s*\+)""")
_GROUPS_IN_TEMPLATES = re.compile(r"""\btn?\(\s*"([a-z_.]+\.)"\s*\+""")
_COUNTED = re.compile(r"""(?:\btn|\.count)\(\s*"([a-z_.]+)\"""")
_TABS = re.compile(r"""\btab\([^,]+,\s*"([a-z_.]+)\"""")
_IN_SCRIPTS = re.compile(r"""\bt\(\s*"([a-z_]+)\"""")
# Python names messages in plain strings; what begins like a group is one.
_STRINGS = re.compile(r"""["']([a-z_]+\.[a-z_.]+)["']""")


def used() -> tuple[set[str], set[str]]:
    """Ids, and groups of which a member is chosen while running."""
    ids: set[str] = set()
    groups: set[str] = {"js.", "class."}
    counted: set[str] = set()
    known = catalogue("en")
    heads = {name.partition(".")[0] for name in known.messages}
    for file in [*(CLINIC / "templates" / "web").glob("*.html")]:
        text = file.read_text(encoding="utf-8")
        ids |= set(_IN_TEMPLATES.findall(text)) | set(_TABS.findall(text))
        groups |= set(_GROUPS_IN_TEMPLATES.findall(text))
        counted |= set(_COUNTED.findall(text))
    for file in (WEB / "static").glob("*.js"):
        ids |= {f"js.{name}" for name in _IN_SCRIPTS.findall(file.read_text(encoding="utf-8"))}
    for file in [*CLINIC.rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        counted |= set(re.findall(r"""\.count\(\s*"([a-z_.]+)\"""", text))
        ids |= {
            name
            for name in _STRINGS.findall(text)
            if name.partition(".")[0] in heads and not name.endswith((".html", ".js", ".css", "."))
        }
    ids -= counted
    ids |= {f"{name}.{form}" for name in counted for form in ("one", "other")}
    return ids, groups


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_that_is_used_is_there(language: str) -> None:
    ids, groups = used()
    assert len(ids) > 15
    messages = catalogue(language).messages
    assert sorted(ids - messages.keys()) == []
    for group in groups:
        assert any(name.startswith(group) for name in messages), group


def test_no_message_is_left_over() -> None:
    ids, groups = used()
    left = {name for name in catalogue("en").messages if name not in ids}
    assert sorted(x for x in left if not x.startswith(tuple(groups))) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_say_the_same_with_the_same_values(language: str) -> None:
    english, other = catalogue("en").messages, catalogue(language).messages
    assert list(other) == list(english)
    for name, text in other.items():
        assert text.strip(), name
        assert _values(text) == _values(english[name]), name


def test_spanish_is_not_english() -> None:
    english, spanish = catalogue("en").messages, catalogue("es").messages
    same = [name for name in english if english[name] == spanish[name]]
    assert len(same) <= 0.15 * len(english), same


def test_a_message_with_values() -> None:
    spoken = Catalogue("en", {"a.one": "{number} cell", "a.other": "{number} cells"})
    assert spoken.count("a", 1) == "1 cell"
    assert spoken.count("a", 1234) == "1,234 cells"
    with pytest.raises(KeyError):
        spoken.text("a.other")


def test_numbers_of_a_language() -> None:
    assert catalogue("en").number(1234.5, 1) == "1,234.5"
    assert catalogue("es").number(1234.5, 1) == "1\u202f234,5"


def test_an_unknown_language_is_english() -> None:
    assert catalogue("xx") == catalogue("en")


def test_a_class_that_no_catalogue_knows_keeps_its_name() -> None:
    assert catalogue("es").class_name("odd_cell") == "odd cell"


def _values(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
