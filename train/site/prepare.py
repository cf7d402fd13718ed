"""Everything that is settled before an adaptation trains: pictures, classes, plan.

Owns putting these together. Does not own reading (see ``train.datasets``), checks (see
``fields``) nor counts of an epoch (see ``plan``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import SettingsError
from train.datasets.class_names import NameRules, with_model_classes
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.site_fields import read_site_fields
from train.site.fields import (
    SiteFields,
    SourceSet,
    divide_site,
    divide_sources,
    read_source,
    refuse_shared,
)
from train.site.folder import folder_identity
from train.site.plan import EpochPlan, plan_epochs

if TYPE_CHECKING:
    from train.site.settings import SiteSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run works on.

    Attributes:
        rules: how class names of the folders become the model's.
        site_set: the site's folder in the model's classes.
        source_classes: the class lists that the source folders have themselves.
        background: cells per class name that nothing is learnt of, per folder with such.
    """

    rules: NameRules
    site_set: LabelledSet
    site: SiteFields
    sources: tuple[SourceSet, ...]
    source_classes: tuple[tuple[str, ...], ...]
    plan: EpochPlan
    background: dict[str, dict[str, int]]

    @property
    def replay(self) -> tuple[LabelledImage, ...]:
        """Source pictures to draw from, in the order of the plan's numbers."""
        if not self.plan.replay:
            return ()
        return tuple(each for source in self.sources for each in source.train)

    @property
    def identity(self) -> str:
        """A digest of all pictures and labels that training and early stopping see."""
        hashes = dict(self.site.hashes)
        for source in self.sources:
            hashes.update(source.hashes)
        return folder_identity(self.site.train, self.replay, self.site.held_out, hashes)


def prepare(settings: SiteSettings, classes: tuple[str, ...]) -> Prepared:
    """Reads and checks the site's folder and the source's.

    Args:
        settings: what to read.
        classes: the model's.

    Raises:
        DataError: something in them cannot be used; see ``divide_site``, ``read_source``.
        SettingsError: a rename means nothing, or a source is given twice.
    """
    own = read_site_fields(Path(settings.fields), settings.labels).require_clean()
    folders = [Path(each) for each in settings.replay]
    names = [each.resolve().name for each in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"--replay: two folders are called {twice[0]!r}; rename one")
    originals = [read_source(each, settings.check_split) for each in folders]
    rules = NameRules(classes, settings.renames, settings.others)
    rules.check(own, *originals)
    background: dict[str, dict[str, int]] = {}
    mapped: list[LabelledSet] = []
    for each in (own, *originals):
        in_model, strange = with_model_classes(each, rules)
        mapped.append(in_model)
        if strange:
            background[str(each.root)] = strange
    site = divide_site(
        mapped[0],
        minimum=settings.minimum_fields,
        share=settings.held_out_share,
        least_held_out=settings.held_out_minimum,
        most=settings.most_fields,
        seed=settings.seed,
    )
    site = replace(site, notes=(*own.notes, *site.notes))
    sources = divide_sources(mapped[1:], settings.check_split)
    refuse_shared(site, sources)
    plan = plan_epochs(
        len(site.train),
        sum(len(each.train) for each in sources) if settings.mix_replay else 0,
        ratio=settings.ratio if settings.mix_replay else None,
        pictures=settings.pictures_per_epoch,
        seed=settings.seed,
    )
    return Prepared(
        rules,
        mapped[0],
        site,
        sources,
        tuple(each.classes for each in originals),
        plan,
        background,
    )
