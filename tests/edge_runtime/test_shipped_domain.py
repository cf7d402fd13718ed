"""The shipped bundle's statistics on real fields: its own are within, spoilt ones are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import open_bundle, shipped_bundle_path
from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.domain_score import FieldDomain, judge_film
from edge_runtime.examiner import Examiner
from edge_runtime.film_run import load_bundle
from edge_runtime.image_file import read_image
from edge_runtime.settings import Settings
from edge_runtime.types import Frame, UInt8Image
from edge_runtime.virtual_film import PROFILES, FilmSpec, VirtualFilm

FIELDS = 7


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    settings = Settings(backend="onnxruntime", threads=1)
    with load_bundle(open_bundle(shipped_bundle_path()), settings) as loaded:
        assert loaded.domain is not None
        yield Examiner(loaded.detector, domain=loaded.domain)


def judged(examiner: Examiner, pictures: list[UInt8Image]) -> list[FieldDomain]:
    found = [
        examiner.examine(Frame(index, 0, pixels, str(index))).domain
        for index, pixels in enumerate(pictures)
    ]
    return [each for each in found if each is not None]


@pytest.mark.realdata
@pytest.mark.parametrize("domain", ["hcm_pbc", "lcm_raabin", "bccd"])
def test_its_own_domains_are_within_and_a_wrong_lamp_is_not(
    domain: str, examiner: Examiner, shared_data: Path
) -> None:
    folder = shared_data / "wbc-domains" / domain / "images" / "test"
    pictures = [read_image(path) for path in sorted(folder.iterdir())[:FIELDS]]
    film = judge_film(judged(examiner, pictures), 1.0)
    assert film is not None
    assert not film.outside, film
    gains = np.array([1.0, 0.7, 0.5])
    yellow = [np.asarray(pixels * gains, np.uint8) for pixels in pictures]
    spoilt = judge_film(judged(examiner, yellow), 1.0)
    assert spoilt is not None
    assert spoilt.outside, spoilt
    assert spoilt.score > film.score


def test_the_virtual_microscope_of_the_demonstration_is_within(examiner: Examiner) -> None:
    film = VirtualFilm.build(7, FilmSpec(size_um=(480.0, 320.0)))
    for profile in PROFILES.values():
        fields = [frame.pixels for frame in VirtualCamera(film, profile, 3)]
        verdict = judge_film(judged(examiner, fields), 1.0)
        assert verdict is not None
        assert not verdict.outside, (profile.name, verdict)
