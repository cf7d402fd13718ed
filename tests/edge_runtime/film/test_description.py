"""The description says what the votes say, and nothing where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.attributes import MISSING, Attribute, AttributeSchema
from edge_runtime.errors import BundleError
from edge_runtime.film.bank import BankSummary, MorphologyBank
from edge_runtime.film.description import default_template, describe_film, parse_template
from edge_runtime.film_report import RESEARCH_USE

SCHEMA = AttributeSchema(
    name="test",
    attributes=(
        Attribute(name="nuclear_chromatin", values=("open", "coarse")),
        Attribute(name="chromatin_density", values=("densely", "loosely")),
    ),
)
TYPES = ("immature_granulocyte", "lymphocyte")

TEMPLATE = """
name = "short"
not_assessable = "n/a"
type = "{answer}"
type_tied = "{answer} or other"
type_missing = "type {missing}"
attribute = "{attribute} {answer}"
attribute_tied = "{attribute} {answer} or other"
attribute_missing = "{attribute} {missing}"
attribute_without_type = "{attribute} {missing}"
"""


def film(*cells: tuple[int, int, int]) -> BankSummary:
    bank = MorphologyBank(SCHEMA, TYPES)
    table = np.array(cells, np.int64).reshape(-1, 3)
    bank.add(table[:, 0], np.ones(len(table), np.float32), table[:, 1:])
    return bank.summary()


def test_votes_become_sentences_with_their_numbers() -> None:
    described = describe_film(film(*[(0, 1, 0)] * 18, *[(0, 0, MISSING)] * 4, *[(1, 0, 1)] * 5))
    assert described.template == "english-1"
    assert described.sentences == (
        "Most frequent white cell type: immature granulocyte (22 of 27 cells).",
        "Nuclear chromatin: coarse (18 of 22 immature granulocyte cells).",
        "Chromatin density: dense (18 of 18 immature granulocyte cells).",
        RESEARCH_USE,
    )
    assert described.text == "\n".join(described.sentences)


def test_ties_are_said() -> None:
    described = describe_film(film(*[(0, 0, 0)] * 5, *[(0, 1, 0)] * 5, *[(1, 0, 0)] * 10))
    assert described.sentences[:2] == (
        "Most frequent white cell type: immature granulocyte "
        "(10 of 20 cells, as many as of another type).",
        "Nuclear chromatin: open (5 of 10 immature granulocyte cells, as many as another value).",
    )


def test_unjudged_attribute_is_not_assessable() -> None:
    described = describe_film(film(*[(1, 1, MISSING)] * 20))
    assert described.sentences[2] == (
        "Chromatin density: not assessable (0 lymphocyte cells judged, 10 needed)."
    )


def test_thin_film_names_no_type_and_no_value() -> None:
    described = describe_film(film(*[(1, 1, 1)] * 19))
    assert described.sentences == (
        "Most frequent white cell type: not assessable (19 cells counted, 20 needed).",
        "Nuclear chromatin: not assessable.",
        "Chromatin density: not assessable.",
        RESEARCH_USE,
    )
    for word in ("lymphocyte", "coarse", "loose"):
        assert word not in described.text


def test_empty_film_is_described_too() -> None:
    assert "(0 cells counted, 20 needed)" in describe_film(film()).text


def test_same_film_same_text_whatever_the_order() -> None:
    cells = [(0, 1, 0)] * 12 + [(0, 0, 1)] * 9 + [(1, 1, 1)] * 7
    assert describe_film(film(*cells)) == describe_film(film(*reversed(cells)))


def test_a_bundles_own_template_is_used_and_cannot_drop_the_notice() -> None:
    template = parse_template(TEMPLATE, where="film.toml")
    described = describe_film(film(*[(1, 1, 0)] * 20), template)
    assert described.template == "short"
    assert described.sentences == (
        "Lymphocyte",
        "Nuclear chromatin coarse",
        "Chromatin density densely",
        RESEARCH_USE,
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "short"', "name = ", "not TOML"),
        ('name = "short"', "", "name: Field required"),
        ('name = "short"', 'name = "a"\ndiagnosis = "x"', "diagnosis: Extra inputs"),
        ('"{answer}"', '"{answer} {needed}"', r"type: .*slot \{needed\} is not one of"),
        ('"{answer}"', '"acute leukemia"', r"type: .*slot \{answer\} is missing"),
        ('"type {missing}"', '"normal film"', r"type_missing: .*slot \{missing\} is missing"),
        ('"{answer}"', '"{answer.__class__}"', r"slot \{answer.__class__\} is not one of"),
        ('"{answer}"', '"{answer:>9999999}"', "is not one of"),
        ('"{answer}"', '"{answer!r}"', "is not one of"),
        ('"{answer}"', '"{answer} {}"', r"slot \{\} is not one of"),
        ('"{answer}"', '"{answer"', "type: "),
    ],
)
def test_bad_templates_name_the_file_and_the_key(old: str, new: str, message: str) -> None:
    with pytest.raises(BundleError, match=r"description template film\.toml: ") as caught:
        parse_template(TEMPLATE.replace(old, new, 1), where="film.toml")
    assert "\n" not in str(caught.value)
    caught.match(message)


def test_words_that_look_like_slots_stay_words() -> None:
    schema = AttributeSchema(name="s", attributes=(Attribute(name="a", values=("{of}", "no")),))
    bank = MorphologyBank(schema, ("cell",))
    bank.add(np.zeros(20, np.int64), np.ones(20, np.float32), np.zeros((20, 1), np.int64))
    assert describe_film(bank.summary()).sentences[1] == "A: {of} (20 of 20 cell cells)."


def test_default_template_makes_no_diagnosis() -> None:
    text = default_template().model_dump_json().lower()
    for word in ("leuk", "diagnos", "blast", "malign", "normal", "patient"):
        assert word not in text
