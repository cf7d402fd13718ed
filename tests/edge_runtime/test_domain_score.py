"""Pooling, the statistics file, and what a film of fields is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import FeatureMapSpec, InputSpec, open_bundle
from edge_runtime.domain_score import (
    FARTHEST,
    DomainStatistics,
    FieldDomain,
    feature_count,
    judge_film,
    nearest_domain,
    parse_statistics,
    pool_features,
)
from edge_runtime.errors import BundleError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array, UInt8Image
from tests.support import MODEL_NAME, SIDE, manifest_of, paint_field, toy_detector, write_bundle

SPEC = InputSpec(name="images", width=64, height=64, scale=1 / 255, pad_value=114)
MAPS = (FeatureMapSpec(name="early", channels=2, stride=4),)
FILE = "domain.f32"
FEATURES = 6  # three colours' means and deviations


def statistics(domains: int = 2, features: int = FEATURES) -> DomainStatistics:
    rng = np.random.default_rng(3)
    lower = np.tril(rng.normal(0, 1, (domains, features, features)))
    lower[:, range(features), range(features)] = rng.uniform(0.5, 2, (domains, features))
    return DomainStatistics(
        rng.normal(0, 1, (domains, features)), rng.uniform(0.5, 2, (domains, features)), lower
    )


def domain_part(**changes: Any) -> dict[str, Any]:
    domains = [
        {
            "name": name,
            "training_fields": 20,
            "validation_fields": 10,
            "shrinkage": 0.1,
            "borders": {"mahalanobis": 2.0, "standardised_euclidean": 3.0},
        }
        for name in ("here", "there")
    ]
    part = {
        "reads": ["early"],
        "statistics": FILE,
        "quantile": 0.99,
        "fitted_on": MODEL_NAME,
        "borders_hold_for": [MODEL_NAME],
        "domains": domains,
    }
    return part | changes


@pytest.fixture(scope="module")
def model() -> bytes:
    pytest.importorskip("onnx")
    return toy_detector(maps=[("early", 8)])


@pytest.fixture
def written(model: bytes, tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle with a domain part and whatever the file is to hold."""

    def write(content: bytes, **changes: Any) -> Path:
        files = {MODEL_NAME: model, FILE: content}
        document = manifest_of(files)
        document["detector"]["feature_maps"] = [{"name": "early", "channels": 3, "stride": 8}]
        document["domain"] = domain_part(**changes)
        return write_bundle(tmp_path / "bundle", files, document)

    return write


def checked_map(width: int, height: int, inside: float, outside: float) -> Float32Array:
    """A map with one value where cells lie in the field entirely and another elsewhere."""
    whole = fit_window(width, height, SPEC)
    left, top, right, bottom = whole.placed
    values = np.full((1, 2, 16, 16), outside, np.float32)
    values[:, :, -(-top // 4) : bottom // 4, -(-left // 4) : right // 4] = inside
    return values


@pytest.mark.parametrize(("width", "height"), [(64, 64), (640, 360), (90, 400), (33, 32)])
def test_pooling_ignores_the_padding(width: int, height: int) -> None:
    whole = fit_window(width, height, SPEC)
    pooled = [
        pool_features({"early": checked_map(width, height, 2.0, outside)}, whole, MAPS)
        for outside in (0.0, 1000.0)
    ]
    np.testing.assert_array_equal(pooled[0], pooled[1])
    np.testing.assert_allclose(pooled[0], [2, 2, 0, 0])


def test_pooling_is_mean_and_deviation_by_channel() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1, 2, 16, 16)).astype(np.float32)
    found = pool_features({"early": values}, fit_window(64, 64, SPEC), MAPS)
    flat = values[0].reshape(2, -1).astype(np.float64)
    np.testing.assert_allclose(found, [*flat.mean(1), *flat.std(1)], rtol=1e-5)
    assert len(found) == feature_count(MAPS) == 4


@pytest.mark.parametrize(("width", "height"), [(4000, 40), (40, 4000)])
def test_a_field_thinner_than_one_cell_is_pooled_over_what_it_touches(
    width: int, height: int
) -> None:
    values = np.ones((1, 2, 16, 16), np.float32)
    found = pool_features({"early": values}, fit_window(width, height, SPEC), MAPS)
    np.testing.assert_allclose(found, [1, 1, 0, 0])


def block_means(pixels: UInt8Image) -> dict[str, Float32Array]:
    tensor = tensor_of(pixels, fit_window(pixels.shape[1], pixels.shape[0], SPEC), SPEC)
    return {"early": tensor.reshape(1, 3, 16, 4, 16, 4).mean(axis=(3, 5))}


def test_a_field_scores_alike_whatever_the_cameras_resolution() -> None:
    cells = [(60.0, 50.0, 40.0), (140.0, 90.0, 30.0)]
    small = paint_field(200, 140, cells, seed=1)
    large = paint_field(800, 560, [(4 * x, 4 * y, 4 * d) for x, y, d in cells], seed=1)
    colours = (FeatureMapSpec(name="early", channels=3, stride=4),)
    vectors = [
        pool_features(block_means(p), fit_window(p.shape[1], p.shape[0], SPEC), colours)
        for p in (small, large)
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=0.01)
    purple = paint_field(200, 140, [(100.0, 70.0, 130.0)], seed=1)
    other = pool_features(block_means(purple), fit_window(200, 140, SPEC), colours)
    assert np.abs(other - vectors[0]).max() > 0.1


def test_the_file_gives_back_what_was_put_in() -> None:
    made = statistics()
    content = made.to_bytes()
    assert content == made.to_bytes()
    read = parse_statistics(content, domains=2, features=FEATURES)
    np.testing.assert_allclose(read.means, made.means, rtol=1e-6)
    np.testing.assert_allclose(read.whitening, made.whitening, rtol=1e-6)
    assert read.to_bytes() == content
    probe = np.arange(6.0)
    for kind in ("mahalanobis", "standardised_euclidean"):
        np.testing.assert_allclose(
            read.distances(probe, kind), made.distances(probe, kind), rtol=1e-5
        )


def test_distance_is_that_of_the_covariance() -> None:
    made, probe = statistics(1), np.arange(6.0)
    covariance = np.linalg.inv(made.whitening[0].T @ made.whitening[0])
    away = probe - made.means[0]
    expected = np.sqrt(away @ np.linalg.solve(covariance, away))
    assert made.distances(probe, "mahalanobis")[0] == pytest.approx(expected)


def spoilt(position: int, value: float) -> bytes:
    table = np.frombuffer(statistics().to_bytes(), "<f4").copy()
    table[position] = value
    return bytes(table.tobytes())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes, 2 domains of 6 features take 264"),
        (statistics().to_bytes()[:-4], "260 bytes"),
        (statistics(3).to_bytes(), "396 bytes"),
        (spoilt(0, np.nan), "not finite"),
        (spoilt(20, np.inf), "not finite"),
        (spoilt(FEATURES, 0.0), "standard deviation is not above 0"),
        (spoilt(2 * FEATURES, -1.0), "not positive definite"),
        (spoilt(2 * FEATURES + 2, 0.0), "not positive definite"),
    ],
)
def test_bad_statistics_are_refused_when_the_bundle_is_opened(
    written: Callable[..., Path], content: bytes, why: str
) -> None:
    with pytest.raises(BundleError, match=why) as caught:
        open_bundle(written(content))
    assert FILE in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reads": ["late"]}, "domain reads 'late', which the detector does not put out"),
        ({"reads": ["early", "early"]}, "read twice"),
        ({"statistics": "absent.f32"}, "absent.f32"),
        ({"distance": "cosine"}, "distance"),
        ({"domains": [domain_part()["domains"][0]] * 2}, "listed twice"),
        (
            {"domains": [domain_part()["domains"][0] | {"borders": {"mahalanobis": 0.0}}]},
            "not above 0",
        ),
        (
            {"domains": [domain_part()["domains"][0] | {"borders": {}}]},
            "no border of mahalanobis",
        ),
        ({"quantile": 1.0}, "quantile"),
        ({"threshold": 0.0}, "threshold"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(
    written: Callable[..., Path], changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(BundleError, match=why):
        open_bundle(written(statistics().to_bytes(), **changes))


def test_tampered_statistics_are_refused_by_their_hash(written: Callable[..., Path]) -> None:
    folder = written(statistics().to_bytes())
    assert open_bundle(folder).manifest.domain is not None
    content = bytearray((folder / FILE).read_bytes())
    content[5] ^= 1
    (folder / FILE).write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"domain\.f32.*altered"):
        open_bundle(folder)


def test_nearest_is_counted_in_borders_not_in_distance() -> None:
    judged = nearest_domain(np.array([3.0, 8.0]), np.array([1.0, 10.0]))
    assert judged == FieldDomain(0.8, 1)


def test_features_that_are_no_numbers_are_outside() -> None:
    judged = nearest_domain(np.array([np.nan, np.inf]), np.array([1.0, 1.0]))
    assert judged.score == FARTHEST


def test_a_film_is_the_median_of_its_fields() -> None:
    fields = [FieldDomain(score, near) for score, near in ((0.5, 1), (9.0, 0), (0.7, 1))]
    film = judge_film(fields, 1.0)
    assert film is not None
    assert (film.score, film.nearest, film.outside, film.fields_outside) == (0.7, 1, False, 1)
    film = judge_film([*fields, FieldDomain(5.0, 0), FieldDomain(1.5, 0)], 1.0)
    assert film is not None
    assert (film.score, film.nearest, film.outside, film.fields_outside) == (1.5, 0, True, 3)
    on_the_border = judge_film([FieldDomain(1.0, 0)], 1.0)
    assert on_the_border is not None
    assert not on_the_border.outside
    assert judge_film([], 1.0) is None


def test_old_bundles_hold_no_statistics_and_stay_valid(toy_bundle_folder: Path) -> None:
    assert open_bundle(toy_bundle_folder).manifest.domain is None
    assert open_bundle(toy_bundle_folder).manifest.detector.input.width == SIDE
