"""Which domains a bundle's statistics are made of, as people say it.

Owns the spelling of ``--domain`` and reading the domains a training's record names. Does not
own the fields (see ``calibration.domain_fields``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from calibration.domain_fields import DomainFields, FolderDomain, VirtualDomains
from edge_runtime.errors import DataError, SettingsError


class _Record(BaseModel):
    # The trainer notes more than is needed here.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Domain(_Record):
    name: str
    path: str


class _Recipe(_Record):
    domains: tuple[_Domain, ...]
    leave_out: str | None = None


class _Phase(_Record):
    recipe: _Recipe


def domain_sources(
    spelled: Sequence[str], record: Path | None, *, data: Path, virtual: bool
) -> tuple[DomainFields, ...]:
    """The sources of fields.

    Args:
        spelled: ``NAME=FOLDER`` each.
        record: ``training.json`` of a run, or a list of several phases' records; all domains
            that any phase was trained on.
        data: what folders are relative to.
        virtual: with the virtual microscope.

    Raises:
        SettingsError: no domain, one that is not spelled so, or one that is named already.
        DataError: the record cannot be read.
    """
    found: dict[str, Path] = {} if record is None else _recorded(record)
    for each in spelled:
        name, is_said, folder = (part.strip() for part in each.partition("="))
        if not (name and is_said and folder):
            raise SettingsError(f"--domain {each!r}: write it as NAME=FOLDER")
        if name in found:
            raise SettingsError(
                f"--domain {each!r}: {name!r} is {found[name]} already; name each domain once"
            )
        found[name] = Path(folder)
    sources: list[DomainFields] = [
        FolderDomain(name, data / folder) for name, folder in found.items()
    ]
    if virtual:
        sources.append(VirtualDomains())
    if not sources:
        raise SettingsError("no domain: give --domain NAME=FOLDER, --record or --virtual")
    return tuple(sources)


def _recorded(record: Path) -> dict[str, Path]:
    try:
        document = json.loads(record.read_bytes())
        phases = [
            _Phase.model_validate(each)
            for each in (document if isinstance(document, list) else [document])
        ]
    except OSError as error:
        raise DataError(f"--record {record}: {error.strerror}; give a training's record") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(f"--record {record}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise DataError(
            f"--record {record}: not JSON ({error}); give a training's record"
        ) from error
    return {
        domain.name: Path(domain.path)
        for phase in phases
        for domain in phase.recipe.domains
        if domain.name != phase.recipe.leave_out
    }
