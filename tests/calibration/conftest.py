"""Pictures the device would look at, drawn in code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration.sampling import Pool
from edge_runtime.bundle import InputSpec
from tests.support import paint_field, write_image

MakePool = Callable[..., Pool]


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec(name="images", width=64, height=64, scale=1 / 255, pad_value=114)


@pytest.fixture
def make_pool(tmp_path: Path) -> MakePool:
    """A domain of ``count`` different pictures; pictures of two domains differ too."""

    def make(domain: str, count: int) -> Pool:
        folder = tmp_path / domain
        folder.mkdir()
        seed = sum(domain.encode())
        rng = np.random.default_rng(seed)
        files = [
            write_image(
                folder / f"{index:03d}.png",
                paint_field(64, 48, [(*rng.uniform(10, 40, 2), 16)], seed=seed + index),
            )
            for index in range(count)
        ]
        return Pool(domain, folder, tuple(files))

    return make
