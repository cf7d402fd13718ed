"""From a film's votes to a few English sentences, filled into a template.

Owns the template's form and the filling. Does not own the votes (see ``bank``). The text
holds nothing that the summary does not: no diagnosis, no finding; what could not be judged
is called not assessable. The same summary and template give the same text.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from edge_runtime.errors import BundleError
from edge_runtime.film.bank import BankSummary, Vote
from edge_runtime.film_report import RESEARCH_USE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What each sentence may name, and what it must: a sentence that hides the answer or the
# word for its absence would read as a finding.
_MAY_NAME = {
    "type": {"answer", "votes", "of"},
    "type_tied": {"answer", "votes", "of"},
    "type_missing": {"missing", "of", "needed"},
    "attribute": {"attribute", "type", "answer", "votes", "of"},
    "attribute_tied": {"attribute", "type", "answer", "votes", "of"},
    "attribute_missing": {"attribute", "type", "missing", "of", "needed"},
    "attribute_without_type": {"attribute", "missing"},
}
_MUST_NAME = {
    "type": {"answer"},
    "type_tied": {"answer"},
    "type_missing": {"missing"},
    "attribute": {"attribute", "answer"},
    "attribute_tied": {"attribute", "answer"},
    "attribute_missing": {"attribute", "missing"},
    "attribute_without_type": {"attribute", "missing"},
}


class DescriptionTemplate(BaseModel):
    """Sentences with slots in braces; which slots, the default file says beside each.

    Attributes:
        name: recorded beside every text it made.
        not_assessable: the word of the ``missing`` slot.
        words: how to write the name of a type, attribute or value that reads badly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    not_assessable: str = Field(min_length=1)
    type: str
    type_tied: str
    type_missing: str
    attribute: str
    attribute_tied: str
    attribute_missing: str
    attribute_without_type: str
    words: Mapping[str, str] = Field(default_factory=dict)

    @field_validator(*_MAY_NAME)
    @classmethod
    def _slots(cls, sentence: str, info: ValidationInfo) -> str:
        may, must = _MAY_NAME[str(info.field_name)], _MUST_NAME[str(info.field_name)]
        named = set()
        for _, slot, form, conversion in string.Formatter().parse(sentence):
            if slot is None:
                continue
            # Bare names only: "{type.__class__}" and "{of:99999}" are no words.
            if slot not in may or form or conversion:
                raise ValueError(f"slot {{{slot}}} is not one of {', '.join(sorted(may))}")
            named.add(slot)
        if must - named:
            raise ValueError(f"slot {{{min(must - named)}}} is missing")
        return sentence


@dataclass(frozen=True, slots=True)
class FilmDescription:
    """The description of one film.

    Attributes:
        template: name of the template.
        sentences: one on the cell type, one per attribute in the schema's order, and the
            notice on research use, which no template can leave out.
    """

    template: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """All sentences, one a line."""
        return "\n".join(self.sentences)


def parse_template(text: str, *, where: str) -> DescriptionTemplate:
    """A template from TOML.

    Args:
        text: the file's content.
        where: the file's name, for messages.

    Raises:
        BundleError: no TOML, an unknown or missing key, or a slot that is not there.
    """
    try:
        return DescriptionTemplate.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BundleError(f"description template {where}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"description template {where}: {key}: {first['msg']}") from error


@lru_cache(maxsize=1)
def default_template() -> DescriptionTemplate:
    """The template that comes with the package, for bundles without one."""
    resource = files("edge_runtime.film").joinpath("description.toml")
    return parse_template(resource.read_text(encoding="utf-8"), where=resource.name)


def describe_film(
    summary: BankSummary, template: DescriptionTemplate | None = None
) -> FilmDescription:
    """Fills the template with a film's votes.

    Args:
        summary: of the film's bank.
        template: the bundle's; None takes the package's own.
    """
    template = template or default_template()
    sentences = [_type_sentence(template, summary.dominant)]
    sentences += [
        _attribute_sentence(template, vote, summary.dominant.answer) for vote in summary.attributes
    ]
    return FilmDescription(
        template=template.name,
        sentences=(*(each[:1].upper() + each[1:] for each in sentences), RESEARCH_USE),
    )


def _type_sentence(template: DescriptionTemplate, vote: Vote) -> str:
    if vote.answer is None:
        return template.type_missing.format(
            missing=template.not_assessable, of=vote.of, needed=vote.needed
        )
    sentence = template.type_tied if vote.tied else template.type
    return sentence.format(answer=_word(template, vote.answer), votes=vote.votes, of=vote.of)


def _attribute_sentence(template: DescriptionTemplate, vote: Vote, cell_type: str | None) -> str:
    attribute = _word(template, vote.subject)
    if cell_type is None:
        return template.attribute_without_type.format(
            attribute=attribute, missing=template.not_assessable
        )
    named = {"attribute": attribute, "type": _word(template, cell_type), "of": vote.of}
    if vote.answer is None:
        return template.attribute_missing.format(
            missing=template.not_assessable, needed=vote.needed, **named
        )
    sentence = template.attribute_tied if vote.tied else template.attribute
    return sentence.format(answer=_word(template, vote.answer), votes=vote.votes, **named)


def _word(template: DescriptionTemplate, name: str) -> str:
    return template.words.get(name, name.replace("_", " "))
