"""How well a bundle's domain score tells fields of other microscopes from its own.

Owns leaving domains out in turn, pictures nobody fitted anything on, and drawn-out shifts of
known fields. Does not own the score (``edge_runtime.domain_score``) nor fitting
(``calibration``, ``export.domain_export``).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.domain_fields import DomainFields, Split, VirtualDomains, pooled_features
from calibration.domain_statistics import DISTANCES, auroc
from edge_runtime.bundle import Bundle, DistanceKind, DomainSpec
from edge_runtime.domain_score import (
    DomainStatistics,
    FieldDomain,
    Float64Array,
    judge_film,
    nearest_domain,
    parse_statistics,
)
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from edge_runtime.types import Int64Array, UInt8Image
from export.domain_export import DomainFit, Vectors, fit_domain, vectors_of

CAVEAT = (
    "The detector's weights saw all of these domains in training, wbc-masks as cut-out cells; "
    "only the statistics did not. A microscope whose pictures the weights never saw may score "
    "higher or lower. Films of ten are drawn from all test fields of a domain, so fields of one "
    "of them are less alike than those of a real film; virtual_films counts whole ones."
)
FILM_FIELDS = 10
FILMS = 200
VIRTUAL = "virtual:"


@dataclass(frozen=True, slots=True)
class MaskPictures:
    """The pictures of wbc-masks, each of its two microscopes a domain; all are test pictures.

    They show one cell each, so they differ from fields in more than microscope and stain.
    """

    root: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The two."""
        return ("wbc-masks:1", "wbc-masks:2")

    def fields(self, split: Split) -> Iterator[tuple[str, UInt8Image]]:
        """All of them, whatever the split.

        Raises:
            DataError: the table or a picture is missing.
        """
        table = self.root / "labels.csv"
        try:
            with table.open(encoding="utf-8", newline="") as file:
                rows = [(row["dataset"], self.root / row["file"]) for row in csv.DictReader(file)]
        except OSError as error:
            raise DataError(f"{table}: {error.strerror}; give --data where it lies") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{table}: no table with the columns file and dataset") from error
        for dataset, picture in rows:
            try:
                yield f"wbc-masks:{dataset}", read_image(picture)
            except FrameError as error:
                raise DataError(f"{picture}: {error}; copy the data again") from error


def colour_cast(pixels: UInt8Image, strength: float) -> UInt8Image:
    """Red gained and blue lost by this share, as by a lamp of another colour."""
    gains = np.array([1 + strength, 1.0, 1 - strength], np.float32)
    return _eight_bits(pixels * gains)


def darkened(pixels: UInt8Image, strength: float) -> UInt8Image:
    """This share of the light gone."""
    return _eight_bits(pixels * np.float32(1 - strength))


def blurred(pixels: UInt8Image, strength: float) -> UInt8Image:
    """Out of focus: a Gaussian whose width is this share of the field's longer side."""
    sigma = strength * max(pixels.shape[:2])
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)


# Each from what a careful eye just sees to what nobody would work with.
SHIFTS: Mapping[str, tuple[Callable[[UInt8Image, float], UInt8Image], tuple[float, ...]]] = {
    "colour cast": (colour_cast, (0.05, 0.1, 0.2)),
    "darkening": (darkened, (0.1, 0.2, 0.4)),
    "blur": (blurred, (0.003, 0.006, 0.012)),
}


def measure_domain(
    bundle: Bundle,
    own: Sequence[DomainFields],
    strangers: Sequence[DomainFields],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """AUROC, false alarms and detections, for both distances.

    Args:
        bundle: with statistics of the domains of ``own``.
        own: its domains with training, validation and test fields.
        strangers: pictures that no statistics were fitted on; their test split is taken.
        seed: of the films that are drawn.
        progress: told every step.

    Raises:
        DataError: the bundle has no statistics, or other domains than ``own``.
    """
    spec = bundle.manifest.domain
    if spec is None:
        raise DataError(f"bundle {bundle.id}: no domain statistics; leukoscope export add-domain")
    named = [name for source in own for name in source.names]
    if sorted(named) != sorted(each.name for each in spec.domains):
        raise DataError(
            f"bundle {bundle.id}: its domains are {', '.join(e.name for e in spec.domains)}, "
            f"the data's {', '.join(named)}; measure it on its own"
        )
    detector, main = bundle.manifest.detector, spec.fitted_on
    one = {main: bundle.contents[main]}
    every = {path: bundle.contents[path] for path in spec.borders_hold_for}
    training = vectors_of(own, "train", detector, spec.reads, one, progress)
    validation = vectors_of(own, "val", detector, spec.reads, every, progress)
    test = vectors_of(own, "test", detector, spec.reads, every, progress)
    strange = {
        name: group[main]
        for name, group in vectors_of(strangers, "test", detector, spec.reads, one).items()
    }
    progress("features are there")
    mine = {name: group[main] for name, group in test.items()}
    shipped = _Judge(spec, _statistics(bundle.contents[spec.statistics], spec, mine))
    rng = np.random.default_rng(seed)
    shifted = _shifts(bundle, spec, own, shipped, mine)
    progress("shifts are done")
    return {
        "bundle": bundle.id,
        "bundle_sha256": bundle.sha256,
        "artifact": main,
        "reads": list(spec.reads),
        "quantile": spec.quantile,
        "caveat": CAVEAT,
        "fields": {
            name: {
                "train": len(training[name][main]),
                "val": len(validation[name][main]),
                "test": len(test[name][main]),
            }
            for name in training
        },
        "film": {"fields": FILM_FIELDS, "films_per_domain": FILMS, "seed": seed},
        "left_out": {
            left: _left_out(left, training, validation, mine, main, spec, rng)
            for left in [*(n for n in mine if not n.startswith(VIRTUAL)), VIRTUAL]
            if any(_belongs(name, left) for name in mine)
        },
        "never_fitted": {
            name: _compared(shipped, mine, {name: group}, rng) for name, group in strange.items()
        },
        "false_alarms_by_artifact": {
            path: {
                name: _share_outside(shipped.scores(group[path], spec.distance))
                for name, group in test.items()
            }
            for path in every
        },
        "virtual_films": {
            name: _whole_films(shipped.fields(mine[name], spec.distance), source.fields_per_film)
            for source in own
            if isinstance(source, VirtualDomains)
            for name in source.names
        },
        "shifts": shifted,
    }


@dataclass(frozen=True, slots=True)
class _Judge:
    """Statistics and borders that fields are judged by."""

    spec: DomainSpec
    statistics: DomainStatistics

    def fields(self, vectors: Float64Array, kind: DistanceKind) -> list[FieldDomain]:
        borders = np.array([each.borders[kind] for each in self.spec.domains])
        return [nearest_domain(self.statistics.distances(each, kind), borders) for each in vectors]

    def scores(self, vectors: Float64Array, kind: DistanceKind) -> Float64Array:
        return np.array([each.score for each in self.fields(vectors, kind)])


def _statistics(
    content: bytes, spec: DomainSpec, vectors: Mapping[str, Float64Array]
) -> DomainStatistics:
    features = next(iter(vectors.values())).shape[1]
    return parse_statistics(content, domains=len(spec.domains), features=features)


def _left_out(
    left: str,
    training: Vectors,
    validation: Vectors,
    test: Mapping[str, Float64Array],
    main: str,
    spec: DomainSpec,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Fitted without one domain, or without all virtual ones, and measured on it."""
    kept = [name for name in training if not _belongs(name, left)]
    fit: DomainFit = fit_domain(
        {name: training[name] for name in kept},
        {name: validation[name] for name in kept},
        main,
        reads=spec.reads,
        quantile=spec.quantile,
    )
    judge = _Judge(fit.spec, _statistics(fit.statistics, fit.spec, test))
    outside = {name: group for name, group in test.items() if name not in kept}
    return _compared(judge, {name: test[name] for name in kept}, outside, rng)


def _belongs(name: str, group: str) -> bool:
    return name.startswith(VIRTUAL) if group == VIRTUAL else name == group


def _compared(
    judge: _Judge,
    inside: Mapping[str, Float64Array],
    outside: Mapping[str, Float64Array],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Fields and films of known domains against those of others, by both distances."""
    films_in = {name: _draws(len(group), rng) for name, group in inside.items()}
    films_out = {name: _draws(len(group), rng) for name, group in outside.items()}
    result: dict[str, Any] = {}
    for kind in DISTANCES:
        own = {name: judge.fields(group, kind) for name, group in inside.items()}
        other = {name: judge.fields(group, kind) for name, group in outside.items()}
        real = [name for name in own if not name.startswith(VIRTUAL)]
        row: dict[str, Any] = {}
        for unit, low, high in (
            ("field", _field_scores(own), _field_scores(other)),
            ("film", _film_scores(own, films_in), _film_scores(other, films_out)),
        ):
            far = np.concatenate(list(high.values()))
            row[unit] = {
                "auroc": round(auroc(np.concatenate(list(low.values())), far), 4),
                "auroc_real_inside": round(
                    auroc(np.concatenate([low[name] for name in real]), far), 4
                )
                if real
                else None,
                "detected": _share_outside(far),
                "false_alarms": {name: _share_outside(scores) for name, scores in low.items()},
                "median_score": round(float(np.median(far)), 3),
            }
        result[kind] = row
    return result


def _draws(count: int, rng: np.random.Generator) -> Int64Array:
    """Films of one domain as rows of field numbers; no field twice in a film if it can be."""
    size = min(FILM_FIELDS, count)
    return np.array([rng.choice(count, size, replace=False) for _ in range(FILMS)])


def _field_scores(groups: Mapping[str, list[FieldDomain]]) -> dict[str, Float64Array]:
    return {name: np.array([each.score for each in group]) for name, group in groups.items()}


def _film_scores(
    groups: Mapping[str, list[FieldDomain]], films: Mapping[str, Int64Array]
) -> dict[str, Float64Array]:
    scores = {}
    for name, group in groups.items():
        judged = [judge_film([group[i] for i in film], 1.0) for film in films[name]]
        scores[name] = np.array([film.score for film in judged if film is not None])
    return scores


def _whole_films(fields: Sequence[FieldDomain], each: int) -> dict[str, Any]:
    """Films as they were rendered: a stain that is odd is odd in all fields of its film."""
    films = [judge_film(fields[i : i + each], 1.0) for i in range(0, len(fields), each)]
    outside = [film.outside for film in films if film is not None]
    return {"films": len(outside), "fields_per_film": each, "outside": sum(outside)}


def _share_outside(scores: Float64Array) -> float:
    return round(float(np.mean(scores > 1.0)), 4)


def _shifts(
    bundle: Bundle,
    spec: DomainSpec,
    own: Sequence[DomainFields],
    judge: _Judge,
    plain: Mapping[str, Float64Array],
) -> dict[str, Any]:
    """Real test fields, changed by strength, under the bundle's own statistics."""
    fields = [item for source in own if not _is_virtual(source) for item in source.fields("test")]
    names = sorted({name for name, _ in fields})
    unchanged = {
        kind: np.concatenate([judge.scores(plain[name], kind) for name in names])
        for kind in DISTANCES
    }
    model = {spec.fitted_on: bundle.contents[spec.fitted_on]}
    result: dict[str, Any] = {}
    for shift, (change, strengths) in SHIFTS.items():
        rows = []
        for strength in strengths:
            vectors = pooled_features(
                ((name, change(pixels, strength)) for name, pixels in fields),
                bundle.manifest.detector,
                spec.reads,
                model,
            )
            row: dict[str, Any] = {"strength": strength}
            for kind in DISTANCES:
                scores = {
                    name: judge.scores(group[spec.fitted_on], kind)
                    for name, group in vectors.items()
                }
                far = np.concatenate(list(scores.values()))
                row[kind] = {
                    "auroc": round(auroc(unchanged[kind], far), 4),
                    "detected": _share_outside(far),
                    "detected_by_domain": {
                        name: _share_outside(group) for name, group in scores.items()
                    },
                }
            rows.append(row)
        result[shift] = rows
    return result


def _is_virtual(source: DomainFields) -> bool:
    return all(name.startswith(VIRTUAL) for name in source.names)


def _eight_bits(values: Any) -> UInt8Image:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
