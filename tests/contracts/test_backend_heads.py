"""What every backend must keep for models of several inputs and any number of cells."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_runtime.backends import BackendRow, InferenceBackend, on_host
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array
from tests.contracts.conftest import OpenRow
from tests.support import SIDE, STAINS, toy_detector
from tests.toy_heads import CROP_SIDE, MAPS, toy_attribute_head, toy_classifier


@pytest.fixture
def classifier(row: BackendRow, open_row: OpenRow) -> Iterator[InferenceBackend]:
    with open_row(row, toy_classifier(), 2) as opened:
        yield opened


@pytest.fixture
def head(row: BackendRow, open_row: OpenRow) -> Iterator[InferenceBackend]:
    with open_row(row, toy_attribute_head(), 2) as opened:
        yield opened


def crops(n: int, seed: int) -> Float32Array:
    stains = np.array(list(STAINS.values()), np.float32) / 255
    kinds = np.random.default_rng(seed).integers(0, 3, n)
    return np.ascontiguousarray(
        np.broadcast_to(stains[kinds][:, :, None, None], (n, 3, CROP_SIDE, CROP_SIDE))
    )


def look(n: int, seed: int) -> dict[str, Float32Array]:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 80, (n, 2))
    boxes = np.concatenate([start, start + rng.uniform(10, 80, (n, 2))], axis=1)
    maps = {
        name: rng.random((1, 3, SIDE // stride, SIDE // stride)).astype(np.float32)
        for name, stride in MAPS
    }
    return maps | {"boxes": boxes.astype(np.float32)}


def test_free_sizes_are_told_as_free(classifier: InferenceBackend, head: InferenceBackend) -> None:
    assert classifier.inputs[0].shape == (-1, 3, CROP_SIDE, CROP_SIDE)
    assert {tensor.name: tensor.shape for tensor in head.inputs} == {
        "early": (1, 3, 40, 40),
        "later": (1, 3, 20, 20),
        "boxes": (-1, 4),
    }
    assert head.outputs[0].shape == (-1, 5)


def test_a_detector_gives_its_feature_maps_beside_its_finds(
    row: BackendRow, open_row: OpenRow
) -> None:
    picture = np.random.default_rng(1).random((1, 3, SIDE, SIDE)).astype(np.float32)
    with open_row(row, toy_detector(maps=MAPS), 1) as backend:
        answer = backend.infer({"images": picture})
    assert set(answer) == {"output", "early", "later"}
    means = picture.reshape(1, 3, 40, 4, 40, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(answer["early"], means, atol=1e-5)


def test_any_number_of_cells_one_call_after_another(
    classifier: InferenceBackend, head: InferenceBackend
) -> None:
    # 70 are more than an engine takes at once.
    for n in (3, 1, 16, 2, 70, 16, 5):
        together = classifier.infer({"crops": crops(n, n)})["logits"]
        alone = [classifier.infer({"crops": crop[None]})["logits"][0] for crop in crops(n, n)]
        np.testing.assert_allclose(together, np.array(alone), atol=1e-3)
        arrays = look(n, n)
        together = head.infer(arrays)["attributes"]
        assert together.shape == (n, 5)
        for number in range(n):
            one = arrays | {"boxes": arrays["boxes"][number : number + 1]}
            np.testing.assert_allclose(
                head.infer(one)["attributes"][0], together[number], atol=1e-3
            )


def test_threads_with_different_numbers_of_cells_do_not_mix(head: InferenceBackend) -> None:
    looks = [look(n, seed) for seed, n in enumerate((1, 4, 2, 9, 3, 7))]
    alone = [head.infer(arrays)["attributes"] for arrays in looks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: head.infer(looks[i % 6])["attributes"], range(48)))
    for number, answer in enumerate(together):
        np.testing.assert_allclose(answer, alone[number % 6], atol=1e-3)


def test_a_missing_input_is_a_backend_error_and_uses_nothing_up(head: InferenceBackend) -> None:
    arrays = look(2, 1)
    expected = head.infer(arrays)["attributes"]
    for absent in arrays:
        rest = {name: value for name, value in arrays.items() if name != absent}
        with pytest.raises(BackendError):
            head.infer(rest)
    with pytest.raises(BackendError):
        head.infer(arrays | {"boxes": arrays["boxes"][:, :3].copy()})
    np.testing.assert_array_equal(head.infer(arrays)["attributes"], expected)


def test_kept_maps_serve_the_head_and_whoever_looks_at_them(
    row: BackendRow, head: InferenceBackend, open_row: OpenRow
) -> None:
    pictures = np.random.default_rng(3).random((2, 1, 3, SIDE, SIDE)).astype(np.float32)
    boxes = look(4, 4)["boxes"]
    with open_row(row, toy_detector(maps=MAPS), 2) as detector:
        plain = [detector.infer({"images": picture}) for picture in pictures]
        # Both are held at once: the second look must not overwrite the first one's maps.
        kept = [
            detector.infer_keeping({"images": picture}, ["early", "later"]) for picture in pictures
        ]
        for before, after in zip(plain, kept, strict=True):
            maps = {name: after[name] for name, _ in MAPS}
            answer = head.infer(maps | {"boxes": boxes})["attributes"]
            expected = head.infer({name: before[name] for name in maps} | {"boxes": boxes})
            np.testing.assert_allclose(answer, expected["attributes"], atol=1e-5)
            for name, value in after.items():
                assert tuple(value.shape) == before[name].shape
                np.testing.assert_array_equal(on_host(value), before[name])
