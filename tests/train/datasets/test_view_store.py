"""What does not fit in memory comes back from the file unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import StoreError
from train.datasets.cell_views import Surroundings

pytest.importorskip("torch")

from train.datasets.view_store import ViewStore

pytestmark = pytest.mark.train


def cells() -> list[Surroundings]:
    rng = np.random.default_rng(0)
    sides = (10, 14, 12, 9, 20)
    return [
        Surroundings(rng.integers(0, 256, (side, side, 3), np.uint8), side / 1.75) for side in sides
    ]


@pytest.mark.parametrize("in_memory", [0, 10 * 10 * 3 + 14 * 14 * 3, 1 << 20])
def test_every_cell_comes_back(tmp_path: Path, in_memory: int) -> None:
    store = ViewStore(tmp_path / "views.tmp", in_memory)
    kept = cells()
    assert [store.add(each) for each in kept] == [0, 1, 2, 3, 4]
    for place in (4, 0, 2, 2, 1, 3):
        assert (store[place].pixels == kept[place].pixels).all()
        assert store[place].side == kept[place].side
    assert (tmp_path / "views.tmp").exists() == (in_memory < 1 << 20)
    store.close()
    assert not (tmp_path / "views.tmp").exists()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    store = ViewStore(tmp_path / "none" / "views.tmp", 0)
    with pytest.raises(StoreError, match="cannot be written"):
        store.add(cells()[0])
