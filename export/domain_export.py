"""A bundle learns which films it was validated on: statistics of its domains join a draft.

Owns the order of the steps and what of a draft changes. Does not own fitting nor the fields
(see ``calibration``) nor the decision to write. The detector's files stay as they are, byte
for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.domain_fields import DomainFields, Split, pooled_features
from calibration.domain_statistics import DEFAULT_QUANTILE, find_borders, fit_statistics
from edge_runtime.bundle import Artifact, DetectorSpec, DomainSpec, ValidatedDomain
from edge_runtime.domain_score import Float64Array
from edge_runtime.errors import DataError, SettingsError
from export.bundle_writer import BundleDraft
from export.cards import with_card

STATISTICS_NAME = "domain.f32"
_SAY_EVERY = 200
# Six digits of a distance are more than any border can be known to.
_BORDER_DIGITS = 6

# By domain and artifact.
Vectors = Mapping[str, Mapping[str, Float64Array]]


@dataclass(frozen=True, slots=True)
class DomainFit:
    """Statistics as they go into a bundle: the manifest's part and its file."""

    spec: DomainSpec
    statistics: bytes


def default_reads(detector: DetectorSpec) -> tuple[str, ...]:
    """The detector's coarsest feature map.

    Raises:
        DataError: it puts out none.
    """
    if not detector.feature_maps:
        raise DataError(
            "bundle: its detector puts out no feature map, so nothing can be pooled; "
            "add an attribute head first (leukoscope export add-heads)"
        )
    return (max(detector.feature_maps, key=lambda each: each.stride).name,)


def with_domain(
    draft: BundleDraft,
    sources: Sequence[DomainFields],
    *,
    reads: Sequence[str] = (),
    quantile: float = DEFAULT_QUANTILE,
    say: Callable[[str], None] = lambda line: None,
) -> BundleDraft:
    """Fits the domains' statistics on training fields, their borders on validation fields.

    Means and covariances come from the processors' artifact. Borders are set so that they
    hold for every artifact of the detector.

    Args:
        draft: with a detector that puts out feature maps; older statistics are replaced.
        sources: the domains.
        reads: feature maps to pool [default: the coarsest].
        quantile: share of held-out fields inside a border.
        say: told every step.

    Raises:
        DataError: no domain, the same one twice, too few fields, or no feature map.
        SettingsError: ``reads`` names a map that is not there.
        BackendError: a backend refuses an artifact.
    """
    detector = draft.detector
    chosen = tuple(reads) or default_reads(detector)
    given = [each.name for each in detector.feature_maps]
    for name in chosen:
        if name not in given:
            raise SettingsError(f"--reads {name!r}: the detector puts out {', '.join(given)}")
    names = [name for source in sources for name in source.names]
    if len(set(names)) != len(names):
        raise DataError(f"domains {', '.join(names)}: one is given twice; name each once")
    main, models = _models(draft)
    training = vectors_of(sources, "train", detector, chosen, {main: models[main]}, say)
    validation = vectors_of(sources, "val", detector, chosen, models, say)
    fit = fit_domain(training, validation, main, reads=chosen, quantile=quantile)
    for each in fit.spec.domains:
        say(
            f"{each.name}: {each.training_fields} training and {each.validation_fields} "
            f"validation fields, shrinkage {each.shrinkage:.3f}, "
            f"border {each.borders[fit.spec.distance]:.2f}"
        )
    return _joined(draft, fit)


def vectors_of(
    sources: Sequence[DomainFields],
    split: Split,
    detector: DetectorSpec,
    reads: Sequence[str],
    models: Mapping[str, bytes],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Float64Array]]:
    """Pooled features of one split of all sources, by domain and artifact."""

    def told(done: int) -> None:
        if done % _SAY_EVERY == 0:
            say(f"{split}: {done} fields")

    fields = (item for source in sources for item in source.fields(split))
    return pooled_features(fields, detector, reads, models, progress=told)


def fit_domain(
    training: Vectors,
    validation: Vectors,
    main: str,
    *,
    reads: Sequence[str],
    quantile: float = DEFAULT_QUANTILE,
) -> DomainFit:
    """Statistics and borders out of features that are there already.

    Args:
        training: features of training fields, of ``main`` at least.
        validation: features of validation fields, of all artifacts the borders are to hold for.
        main: the artifact whose features give means and covariances.
        reads: the maps they were pooled from.
        quantile: share of held-out fields inside a border.

    Raises:
        DataError: too few fields of a domain, none to set its border on, or the same field for
            both.
    """
    absent = [name for name in training if name not in validation]
    if absent:
        raise DataError(f"domain {absent[0]!r}: no validation field to set its border on")
    for name, seen_by in training.items():
        # The same pixels give the same features, to the last bit.
        known = {each.tobytes() for each in seen_by[main]}
        again = sum(each.tobytes() in known for each in validation[name].get(main, ()))
        if again:
            raise DataError(
                f"domain {name!r}: {again} validation fields are training fields as well, so its "
                "border would be too narrow; remove them from one of the two"
            )
    statistics, shrinkage = fit_statistics({name: each[main] for name, each in training.items()})
    borders = find_borders(
        statistics, {name: list(validation[name].values()) for name in training}, quantile
    )
    domains = tuple(
        ValidatedDomain(
            name=name,
            training_fields=len(training[name][main]),
            validation_fields=len(validation[name][main]),
            shrinkage=round(shrinkage[name], _BORDER_DIGITS),
            borders={
                # Up, so that rounding puts no field outside.
                kind: float(np.ceil(border * 10**4) / 10**4)
                for kind, border in borders[name].items()
            },
        )
        for name in training
    )
    spec = DomainSpec(
        reads=tuple(reads),
        statistics=STATISTICS_NAME,
        quantile=quantile,
        fitted_on=main,
        borders_hold_for=tuple(next(iter(validation.values()))),
        domains=domains,
    )
    return DomainFit(spec, statistics.to_bytes())


def _models(draft: BundleDraft) -> tuple[str, dict[str, bytes]]:
    """The processors' first artifact, and the first of every runtime by path."""
    firsts: dict[str, Artifact] = {}
    for artifact in draft.detector.artifacts:
        firsts.setdefault(artifact.runtime, artifact)
    if "cpu" not in firsts:
        raise DataError("bundle: its detector has no artifact for processors; export it again")
    return firsts["cpu"].path, {each.path: draft.contents[each.path] for each in firsts.values()}


def _joined(draft: BundleDraft, fit: DomainFit) -> BundleDraft:
    gone = {draft.domain.statistics} if draft.domain is not None else set()
    kept = {path: content for path, content in draft.contents.items() if path not in gone}
    contents = {**kept, fit.spec.statistics: fit.statistics}
    return with_card(replace(draft, domain=fit.spec, contents=contents))
