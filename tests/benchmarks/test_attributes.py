"""The two experiments about attributes, in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from torch import nn, zeros

from benchmarks import attributes
from benchmarks.attributes import (
    DetectionSettings,
    HeadSettings,
    multiplications,
    run_detection,
    run_heads,
    spread,
)
from benchmarks.published import fill_readme

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]
FACTS = {"processor": "a processor", "date": "2026-01-01T00:00:00+00:00"}


def test_the_two_trainings_of_a_seed_differ_in_the_head_alone() -> None:
    settings = DetectionSettings()
    given, plain = (settings.recipe(Path(), 3, attributes=each) for each in (True, False))
    assert given.attributes is not False
    assert plain.attributes is False
    same = {"attributes", "name"}
    assert given.model_dump(exclude=same) == plain.model_dump(exclude=same)
    assert given.seed == 3


def test_multiplications_of_known_layers() -> None:
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), grouped, nn.Flatten(), nn.Linear(128, 5))
    found = multiplications(network, zeros(1, 3, 4, 4))
    assert found == 16 * 8 * 3 * 9 + 16 * 8 * 9 + 128 * 5


def test_spread_of_seeds() -> None:
    assert spread([0.1, 0.2, 0.3]) == {"mean": 0.2, "sd": 0.1}
    assert spread([0.5]) == {"mean": 0.5, "sd": None}


@pytest.mark.realdata
def test_detection_with_and_without_the_head(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DetectionSettings(pictures=16, judged=8, epochs=1, size=64, batch=8)
    work = tmp_path / "work"
    result = run_detection(settings, (0,), shared_data, work, facts=FACTS)
    row = result["seeds"]["0"]
    assert row["without"]["attribute_macro_f1"] is None
    assert 0 <= row["with"]["attribute_macro_f1"] <= 1
    assert result["summary"]["difference"]["ap"]["mean"] == pytest.approx(
        row["with"]["ap"] - row["without"]["ap"], abs=1e-4
    )
    saved = json.loads((work / "detection-seed0" / "seed.json").read_text())
    assert saved["machine"] == FACTS

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished seed was trained again")

    monkeypatch.setattr(attributes, "train_attridet", never)
    assert run_detection(settings, (0,), shared_data, work, facts=FACTS) == result
    with pytest.raises(AssertionError, match="again"):
        run_detection(DetectionSettings(pictures=17), (0,), shared_data, work, facts=FACTS)
    check_table(tmp_path, "attributes_detection", result, "with the attribute head")


@pytest.mark.realdata
def test_shared_head_against_crop_network(
    shared_data: Path, repository: Path, tmp_path: Path
) -> None:
    settings = HeadSettings(cells=16, judged=8, epochs=1, batch=8, channels=(8, 8, 8, 8), rounds=2)
    detector = repository / "models" / "wbc-detector.pt"
    result = run_heads(settings, (0,), shared_data, detector, tmp_path / "work", facts=FACTS)
    row = result["seeds"]["0"]
    assert set(row["shared_head"]["attributes"]) == set(row["crop_network"]["attributes"])
    for name in ("shared_head", "crop_network"):
        assert 0 <= row[name]["macro_f1"] <= 1
        assert all(row[name]["cost"][key] > 0 for key in ("macs_per_cell", "parameters"))
    times = [row[name]["cost"]["median_ms_per_cell"] for name in ("crop_network", "shared_head")]
    assert row["time_ratio"] == pytest.approx(times[0] / times[1], rel=0.05)
    check_table(tmp_path, "attributes_heads", result, "resnet10t on crops")


def check_table(folder: Path, name: str, result: dict[str, Any], words: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"machine": FACTS, **result}))
    filled = fill_readme(f"<!-- {name} -->\n<!-- /{name} -->\n", folder)
    assert words in filled
    assert "one seed" in filled
