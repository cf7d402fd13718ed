"""How far a field looks from the films a bundle was validated on.

Owns pooling of feature maps, the statistics file, distances, and the scores of fields and
films. Does not own fitting (see ``calibration.domain_statistics``) nor what the manifest says
of it (see ``bundle.DomainSpec``).

The Mahalanobis distance of pooled features to the nearest class, here the nearest imaging
domain, follows Lee et al., "A simple unified framework for detecting out-of-distribution
samples and adversarial attacks", NeurIPS 2018, with a covariance for each domain, because
laboratories differ in how much their fields vary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import Tensor, on_host
from edge_runtime.bundle import (
    DetectorSpec,
    DistanceKind,
    DomainSpec,
    FeatureMapSpec,
    Manifest,
)
from edge_runtime.errors import BundleError
from edge_runtime.preprocess import Window

Float64Array = NDArray[np.float64]

_STORED = np.dtype("<f4")
# A field so far away is outside whatever else is said; JSON knows no infinity.
FARTHEST = 1e6


@dataclass(frozen=True, slots=True)
class DomainStatistics:
    """Where the fields of each domain lie in the space of pooled features.

    Attributes:
        means: float64 ``(domains, features)``.
        spreads: float64 ``(domains, features)``, standard deviations.
        whitening: float64 ``(domains, features, features)``, lower triangular with a diagonal
            above 0. A matrix W stands for the covariance whose inverse is ``W.T @ W``, which
            is positive definite whatever else W holds.
    """

    means: Float64Array
    spreads: Float64Array
    whitening: Float64Array

    def distances(self, vector: Float64Array, kind: DistanceKind) -> Float64Array:
        """Distance of one vector ``(features,)`` to each domain's mean, ``(domains,)``.

        ``mahalanobis`` is the root of the quadratic form, not its square. The simpler
        ``standardised_euclidean`` takes every feature by itself, in standard deviations.
        """
        away = vector - self.means
        if kind == "mahalanobis":
            away = np.matmul(self.whitening, away[:, :, None])[:, :, 0]
        else:
            away = away / self.spreads
        return np.asarray(np.sqrt(np.square(away).sum(axis=1)), np.float64)

    def to_bytes(self) -> bytes:
        """The statistics file: for each domain mean, spread and W's lower triangle by rows.

        All are float32, little endian, one after another. Nothing says how many there are:
        the manifest does.
        """
        rows, columns = np.tril_indices(self.means.shape[1])
        table = np.concatenate([self.means, self.spreads, self.whitening[:, rows, columns]], axis=1)
        return table.astype(_STORED).tobytes()


def parse_statistics(content: bytes, *, domains: int, features: int) -> DomainStatistics:
    """Reads a statistics file.

    Raises:
        ValueError: another length, a number that is none, or a spread or diagonal not above 0.
    """
    rows, columns = np.tril_indices(features)
    width = 2 * features + len(rows)
    if len(content) != domains * width * _STORED.itemsize:
        raise ValueError(
            f"{len(content)} bytes, {domains} domains of {features} features take "
            f"{domains * width * _STORED.itemsize}"
        )
    table = np.frombuffer(content, _STORED).reshape(domains, width).astype(np.float64)
    if not np.isfinite(table).all():
        raise ValueError("it holds a number that is not finite")
    means, spreads = table[:, :features], table[:, features : 2 * features]
    whitening = np.zeros((domains, features, features))
    whitening[:, rows, columns] = table[:, 2 * features :]
    if not (spreads > 0).all():
        raise ValueError("a standard deviation is not above 0")
    if not (np.diagonal(whitening, axis1=1, axis2=2) > 0).all():
        raise ValueError("a covariance is not positive definite")
    return DomainStatistics(means, spreads, whitening)


def statistics_of(
    manifest: Manifest, contents: Mapping[str, bytes], *, where: str
) -> DomainStatistics:
    """The statistics of a bundle that has some.

    Args:
        manifest: with a ``domain`` part.
        contents: the bundle's files.
        where: how to call the bundle in an error.

    Raises:
        BundleError: they do not fit the manifest, or are no statistics.
    """
    spec = manifest.domain
    if spec is None:
        raise BundleError(f"{where}: it has no statistics of its domains")
    maps = read_maps(spec.reads, manifest.detector)
    try:
        return parse_statistics(
            contents[spec.statistics], domains=len(spec.domains), features=feature_count(maps)
        )
    except ValueError as error:
        raise BundleError(
            f"{where}: domain statistics {spec.statistics!r}: {error}; "
            "make them again with leukoscope export add-domain"
        ) from error


def read_maps(reads: Sequence[str], detector: DetectorSpec) -> tuple[FeatureMapSpec, ...]:
    """The feature maps of these names, in their order."""
    by_name = {each.name: each for each in detector.feature_maps}
    return tuple(by_name[name] for name in reads)


def feature_count(maps: Sequence[FeatureMapSpec]) -> int:
    """Length of the vector that these maps pool to."""
    return 2 * sum(each.channels for each in maps)


def pool_features(
    feature_maps: Mapping[str, Tensor], whole: Window, maps: Sequence[FeatureMapSpec]
) -> Float64Array:
    """Mean and standard deviation of every channel, over the field and not its padding.

    Args:
        feature_maps: of the look at the whole frame, each ``(1, channels, height, width)``.
        whole: how the frame lay in the input.
        maps: which maps, in which order.

    Returns:
        float64 ``(2 * channels of all maps,)``: for each map its means, then its deviations.
    """
    left, top, right, bottom = whole.placed
    parts = []
    for each in maps:
        values = on_host(feature_maps[each.name])[0]
        rows = _inside(top, bottom, each.stride, values.shape[1])
        columns = _inside(left, right, each.stride, values.shape[2])
        flat = values[:, rows, columns].reshape(each.channels, -1)
        mean = flat.mean(axis=1, dtype=np.float64)
        parts += [mean, np.sqrt(np.square(flat - mean[:, None]).mean(axis=1))]
    return np.concatenate(parts)


def _inside(start: int, end: int, stride: int, count: int) -> slice:
    """The map's cells that lie in the field entirely; those it touches if there are none."""
    first, behind = -(-start // stride), end // stride
    if behind <= first:
        first, behind = start // stride, -(-end // stride)
    first = min(first, count - 1)
    return slice(first, max(first + 1, min(behind, count)))


@dataclass(frozen=True, slots=True)
class FieldDomain:
    """How far one field looks from the validated domains.

    Attributes:
        score: least distance, in units of the border of the domain it is to.
        nearest: index of that domain.
    """

    score: float
    nearest: int


@dataclass(frozen=True, slots=True)
class FilmDomain:
    """The same of a film.

    Attributes:
        score: median of its fields' scores.
        nearest: the domain that most fields are nearest to; of equals the first.
        outside: whether the score is above the threshold.
        fields_outside: fields whose own score is.
    """

    score: float
    nearest: int
    outside: bool
    fields_outside: int


class DomainScorer:
    """Judges fields by a bundle's statistics. Safe to call from several threads."""

    def __init__(
        self, spec: DomainSpec, detector: DetectorSpec, statistics: DomainStatistics
    ) -> None:
        self.spec = spec
        self._maps = read_maps(spec.reads, detector)
        self._statistics = statistics
        self._borders = np.array([each.borders[spec.distance] for each in spec.domains])

    def judge(self, feature_maps: Mapping[str, Tensor], whole: Window) -> FieldDomain:
        """Of one field, from the detector's look at all of it."""
        return self.judge_vector(pool_features(feature_maps, whole, self._maps))

    def judge_vector(self, vector: Float64Array) -> FieldDomain:
        """Of one field, from its pooled features."""
        return nearest_domain(self._statistics.distances(vector, self.spec.distance), self._borders)


def nearest_domain(distances: Float64Array, borders: Float64Array) -> FieldDomain:
    """The domain in units of whose border a field is nearest; both ``(domains,)``."""
    # A map with a number that is none must not pass for a known one.
    shares = np.nan_to_num(distances / borders, nan=FARTHEST, posinf=FARTHEST)
    nearest = int(shares.argmin())
    return FieldDomain(min(float(shares[nearest]), FARTHEST), nearest)


def judge_film(fields: Sequence[FieldDomain], threshold: float) -> FilmDomain | None:
    """A film's judgement from its fields'; None when it has none."""
    if not fields:
        return None
    scores = np.array([each.score for each in fields])
    score = float(np.median(scores))
    votes = np.bincount([each.nearest for each in fields])
    return FilmDomain(
        score, int(votes.argmax()), score > threshold, int((scores > threshold).sum())
    )
