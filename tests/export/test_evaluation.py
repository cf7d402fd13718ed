"""Views of a field keep cells and boxes together, and the device's detector looks at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.accuracy import evaluate_detections
from calibration.fields import load_fields
from edge_runtime.bundle import Artifact
from edge_runtime.errors import DataError
from export.bundle_writer import DEFAULT_SCALE, detector_spec
from export.evaluation import find_in_domains, turned, views_to_tell
from tests.export.conftest import paint_square, write_fields

SPEC = detector_spec(
    architecture="toy",
    image_size=64,
    artifacts=[Artifact(path="a", runtime="cpu", precision="float32", quantisation="none")],
    working_scale=DEFAULT_SCALE.model_copy(update={"cell_px": 16, "min_cell_px": 4}),
)


@pytest.mark.parametrize("position", range(8))
def test_boxes_turn_with_their_cells(position: int) -> None:
    pixels = paint_square(1, 4)[:, :48]
    boxes = np.array([[8, 32, 24, 48]], np.float32)
    seen, where = turned(pixels, boxes, position)
    x1, y1, x2, y2 = where[0].astype(int)
    dark = (seen.astype(int).sum(axis=2) < 500).nonzero()
    assert (dark[1].min(), dark[0].min()) == (x1, y1)
    assert (dark[1].max() + 1, dark[0].max() + 1) == (x2, y2)
    assert boxes.tolist() == [[8, 32, 24, 48]], "the given boxes are left alone"


def test_the_eight_positions_all_differ() -> None:
    pixels = paint_square(1, 4)
    seen = {turned(pixels, np.zeros((0, 4), np.float32), p)[0].tobytes() for p in range(8)}
    assert len(seen) == 8


def test_small_domains_are_looked_at_more_often(tmp_path: Path) -> None:
    write_fields(tmp_path, "val", 60, seed=1)
    fields = load_fields(tmp_path, "val", domain="d", keep_classes=(0,), class_count=1)
    domains = {"few": fields[:3], "some": fields, "many": fields * 7}
    assert views_to_tell(domains) == {"few": 8, "some": 8, "many": 1}
    assert views_to_tell({"half": fields * 2}) == {"half": 4}


@pytest.mark.parametrize("threads", [1, 3])
def test_finds_come_in_order_with_their_truth(
    float_model: bytes, tmp_path: Path, threads: int
) -> None:
    write_fields(tmp_path, "val", 6, seed=2)
    fields = load_fields(tmp_path, "val", domain="d", keep_classes=(0,), class_count=1)
    found = find_in_domains(SPEC, float_model, {"d": fields}, threads=threads, views={"d": 4})
    truth, finds = found["d"]
    assert len(truth) == len(finds) == 24
    figures = evaluate_detections(truth, finds, score=0.5)
    assert (figures.ap, figures.recall, figures.precision) == pytest.approx((1, 1, 1))


def test_a_field_that_cannot_be_read_is_named(float_model: bytes, tmp_path: Path) -> None:
    write_fields(tmp_path, "val", 2, seed=3)
    fields = load_fields(tmp_path, "val", domain="d", keep_classes=(0,), class_count=1)
    fields[1].image.write_bytes(b"")
    with pytest.raises(DataError, match=r"f_001\.png: empty file"):
        find_in_domains(SPEC, float_model, {"d": fields})
