"""The domain benchmark on drawn laboratories: what it counts and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.domain import SHIFTS, MaskPictures, measure_domain
from calibration.domain_fields import Split
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import DataError
from edge_runtime.types import UInt8Image
from export.bundle_writer import draft_of, write_bundle
from export.domain_export import with_domain
from tests.support import MODEL_NAME, manifest_of, paint_field, toy_detector, write_image
from tests.support import write_bundle as write_files

pytest.importorskip("onnx")

_FIRST: dict[Split, tuple[int, int]] = {"train": (0, 30), "val": (100, 20), "test": (200, 20)}


@dataclass(frozen=True)
class Drawn:
    """A laboratory whose films are tinted by so much."""

    name: str
    tinted: float

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    def fields(self, split: Split) -> Iterator[tuple[str, UInt8Image]]:
        """Fields with cells anywhere, a little lighter or darker."""
        first, count = _FIRST[split]
        for seed in range(first, first + count):
            rng = np.random.default_rng([seed, int(1000 * abs(self.tinted))])
            cells = [(rng.uniform(20, 140), rng.uniform(20, 100), 24.0) for _ in range(3)]
            pixels = paint_field(160, 120, cells, seed=seed) * rng.uniform(0.93, 1.02)
            tinted = pixels * np.array([1 + self.tinted, 1, 1 - self.tinted])
            yield self.name, np.asarray(np.clip(tinted, 0, 255), np.uint8)


OWN = [Drawn("north", 0.0), Drawn("south", -0.2), Drawn("virtual:east", -0.5)]


def bundle(folder: Path) -> Path:
    files = {MODEL_NAME: toy_detector(maps=[("later", 8)])}
    document = manifest_of(files)
    document["detector"]["feature_maps"] = [{"name": "later", "channels": 3, "stride": 8}]
    return write_files(folder, files, document)


def test_a_stranger_is_told_and_a_known_laboratory_is_not(tmp_path: Path) -> None:
    draft = with_domain(draft_of(open_bundle(bundle(tmp_path / "bare"))), OWN)
    made = write_bundle(draft, tmp_path / "made")
    alike, strange = Drawn("alike", 0.001), Drawn("strange", 0.4)
    result = measure_domain(made, OWN, [alike, strange], seed=1)
    assert result == measure_domain(made, OWN, [alike, strange], seed=1)
    assert set(result["left_out"]) == {"north", "south", "virtual:"}
    for row in result["left_out"].values():
        assert row["mahalanobis"]["field"]["auroc"] > 0.95
        assert row["mahalanobis"]["film"]["detected"] > 0.95
    assert result["left_out"]["virtual:"]["mahalanobis"]["field"]["false_alarms"].keys() == {
        "north",
        "south",
    }
    far = result["never_fitted"]["strange"]
    near = result["never_fitted"]["alike"]
    for kind in ("mahalanobis", "standardised_euclidean"):
        assert far[kind]["film"]["auroc"] == 1.0
        assert 0.2 < near[kind]["field"]["auroc"] < 0.8
        assert near[kind]["film"]["detected"] == 0.0
    alarms = result["false_alarms_by_artifact"][MODEL_NAME]
    assert set(alarms) == {"north", "south", "virtual:east"}
    assert max(alarms.values()) <= 0.25
    for name, (_, strengths) in SHIFTS.items():
        rows = result["shifts"][name]
        assert [row["strength"] for row in rows] == list(strengths)
        found = [row["mahalanobis"]["auroc"] for row in rows]
        assert found[-1] >= found[0]
    cast = result["shifts"]["colour cast"][-1]["mahalanobis"]
    assert set(cast["detected_by_domain"]) == {"north", "south"}


@dataclass(frozen=True)
class Drifting(Drawn):
    """One whose lamp was changed before its test fields were taken."""

    def fields(self, split: Split) -> Iterator[tuple[str, UInt8Image]]:
        """Test fields are yellow."""
        for name, pixels in super().fields(split):
            gains = [1.0, 1.0, 0.4] if split == "test" else [1.0, 1.0, 1.0]
            yield name, np.asarray(pixels * np.array(gains), np.uint8)


def test_false_alarms_are_those_of_test_fields(tmp_path: Path) -> None:
    own = [Drifting("north", 0.0), Drawn("south", -0.2)]
    draft = with_domain(draft_of(open_bundle(bundle(tmp_path / "bare"))), own)
    result = measure_domain(write_bundle(draft, tmp_path / "made"), own, [Drawn("strange", 0.4)])
    assert result["false_alarms_by_artifact"][MODEL_NAME]["north"] == 1.0
    for row in (result["left_out"]["south"], result["never_fitted"]["strange"]):
        for unit in ("field", "film"):
            assert row["mahalanobis"][unit]["false_alarms"]["north"] == 1.0


def test_another_bundles_domains_are_refused(tmp_path: Path) -> None:
    plain = open_bundle(bundle(tmp_path / "bare"))
    with pytest.raises(DataError, match="no domain statistics"):
        measure_domain(plain, OWN, [])
    made = write_bundle(with_domain(draft_of(plain), OWN[:2]), tmp_path / "made")
    with pytest.raises(DataError, match="measure it on its own"):
        measure_domain(made, OWN, [])


def test_mask_pictures_are_two_domains(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["file,dataset"]
    for index, dataset in enumerate((1, 2, 2)):
        write_image(tmp_path / "images" / f"{index}.png", paint_field(60, 60, [(30, 30, 20)]))
        lines.append(f"images/{index}.png,{dataset}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    named = [name for name, _ in MaskPictures(tmp_path).fields("test")]
    assert named == ["wbc-masks:1", "wbc-masks:2", "wbc-masks:2"]
    with pytest.raises(DataError, match="No such file"):
        list(MaskPictures(tmp_path / "images").fields("test"))
    (tmp_path / "images" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/1\.png: empty file .*; copy the data again"):
        list(MaskPictures(tmp_path).fields("test"))
    (tmp_path / "labels.csv").write_text("picture;set\n1;2\n")
    with pytest.raises(DataError, match="no table with the columns file and dataset"):
        list(MaskPictures(tmp_path).fields("test"))
