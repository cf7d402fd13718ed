"""Every message that is used stands in every language, with the same values."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import get_args

import pytest

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic import web
from edge_runtime.clinic.store.device_settings import ClinicSettings
from edge_runtime.clinic.store.roles import ROLES
from edge_runtime.clinic.web.language import LANGUAGES, Catalogue, catalogue
from edge_runtime.film.gate import Refusal
from edge_runtime.film.screening import ScreeningState, WhyAbstain

WEB = Path(web.__file__).parent
CLINIC = WEB.parent
# Templates, Python and scripts name messages in plain strings; what begins like a group is one.
_STRINGS = re.compile(r"""["']([a-z_]+\.[a-z_.]+)["'](?!\s*\+)""")
# Ids that are put together while running: their beginning.
_BEGINNINGS = re.compile(r"""\bt\(\s*"([a-z_.]+)"\s*\+""")
_COUNTED = re.compile(r"""(?:\btn|\.count)\(\s*"([a-z_.]+)\"""")
_IN_SCRIPTS = re.compile(r"""\bt\(\s*"([a-z_]+)\"""")
_FILES = (".html", ".js", ".css", ".json", ".svg")


def used() -> tuple[set[str], set[str]]:
    """Ids, and beginnings of ids of which the end is chosen while running."""
    heads = {name.partition(".")[0] for name in catalogue("en").messages}
    ids: set[str] = set()
    beginnings: set[str] = {"action.", "class.", "setting.", "skipped."}
    counted: set[str] = set()
    live = (CLINIC / "live").glob("*.py")
    for file in [*(CLINIC / "templates" / "web").glob("*.html"), *WEB.glob("*.py"), *live]:
        text = file.read_text(encoding="utf-8")
        found = {name for name in _STRINGS.findall(text) if name.partition(".")[0] in heads}
        ids |= {name for name in found if not name.endswith(_FILES)}
        beginnings |= set(_BEGINNINGS.findall(text))
        counted |= set(_COUNTED.findall(text))
    for file in (WEB / "static").glob("*.js"):
        ids |= {f"js.{name}" for name in _IN_SCRIPTS.findall(file.read_text(encoding="utf-8"))}
    ids -= counted
    ids |= {f"{name}.{form}" for name in counted for form in ("one", "other")}
    return ids, beginnings


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_that_is_used_is_there(language: str) -> None:
    ids, groups = used()
    assert len(ids) > 150
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


def test_every_setting_role_and_action_has_its_words() -> None:
    messages = catalogue("es").messages
    wanted = {f"setting.{name}" for name in ClinicSettings.model_fields}
    wanted |= {f"role.{name}" for name in ROLES}
    wanted |= {f"class.{name}" for name in (*ClinicSettings().extra_classes, UNCLASSIFIED)}
    wanted |= {f"screening.why_{why.replace(' ', '_')}" for why in get_args(WhyAbstain)}
    wanted |= {f"skipped.{why}" for why in get_args(Refusal)}
    states = [each.replace(": ", "_").replace(" ", "_") for each in get_args(ScreeningState)]
    wanted |= {f"screening.state_{each}" for each in states}
    store = [each.read_text() for each in (CLINIC / "store").glob("*.py")]
    # What is written into the trail: two words, the second of them past tense.
    ends = (
        "added|closed|changed|checked|confirmed|deleted|expired|finished|given|in|merged|opened|"
        "recovered|refused|rejected|reset|restored|signed|started|stopped|undone|withdrawn"
    )
    past = rf"""["']([a-z_]+_(?:{ends}))["']"""
    actions = {name for text in store for name in re.findall(past, text)}
    assert {"film_signed", "class_given", "user_added", "film_deleted"} <= actions
    wanted |= {f"action.{name}" for name in actions}
    assert sorted(wanted - messages.keys()) == []


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != "en"])
def test_the_printed_report_is_said_in_every_language(language: str) -> None:
    pytest.importorskip("fpdf", reason="leukoscope[clinic]")
    from edge_runtime.clinic.paper import words
    from edge_runtime.clinic.web.paper_words import in_language, paper_words

    names = {name: text for name, text in vars(words).items() if text in words.MESSAGES}
    english = {name.lower(): text for name, text in names.items() if name != "RESEARCH_USE"}
    translated = in_language(language)
    assert sorted(translated) == sorted(english)
    for name, text in english.items():
        assert _values(translated[name]) == _values(text), name
    # The report asks by the English text, so what is alike there must be alike here.
    pairs = {(text, translated[name]) for name, text in english.items()}
    assert len(pairs) == len(set(english.values()))
    say = paper_words(catalogue(language))
    assert say(words.PAGE, page=1, pages=2) == translated["page"].format(page=1, pages=2)
    assert say("lymphocyte") == catalogue(language).class_name("lymphocyte")
    assert say("out of domain") == catalogue(language).text("screening.why_out_of_domain")
    assert say("out of focus") == catalogue(language).text("skipped.out of focus")
    assert paper_words(catalogue("en"))(words.TITLE) == words.TITLE


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
