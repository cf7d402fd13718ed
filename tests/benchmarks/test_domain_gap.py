"""What a gap between microscopes is made of: each difference taken away by itself."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
from torch import Tensor, nn

from benchmarks import domain_gap
from benchmarks.domain_gap import over_runs, pseudo_label_figures, with_batch_statistics
from edge_runtime.bundle import InputSpec
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import fit_window
from train.datasets.labelled import LabelledImage, LabelledSet

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

SIZE = 64


def field(
    root: Path, name: str, colour: tuple[int, int, int], boxes: list[list[float]]
) -> LabelledImage:
    """A field 120 x 80 with noise around one colour, and labelled boxes."""
    rng = np.random.default_rng(0)
    pixels = np.clip(np.array(colour) + rng.normal(0, 12, (80, 120, 3)), 0, 255).astype(np.uint8)
    cv2.imwrite(str(root / name), pixels[:, :, ::-1])
    cells = np.array(boxes, np.float32).reshape(-1, 4)
    return LabelledImage(
        root / name,
        "train",
        "drawn",
        cells,
        np.zeros(len(cells), np.int64),
        np.zeros((len(cells), 0), np.int64),
    )


def test_colours_of_the_source_are_taken_on(tmp_path: Path) -> None:
    ours = field(tmp_path, "ours.png", (220, 180, 200), [])
    theirs = field(tmp_path, "theirs.png", (120, 110, 90), [])
    wanted = domain_gap._colour([ours])
    (painted,) = domain_gap._recoloured([theirs], wanted, tmp_path / "painted")
    means, deviations = domain_gap._colour([painted])
    assert means == pytest.approx(wanted[0], abs=1.0)
    assert deviations == pytest.approx(wanted[1], abs=1.0)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_cells_appear_larger_by_the_factor(tmp_path: Path, factor: float) -> None:
    image = field(tmp_path, "one.png", (200, 200, 200), [[0.4, 0.5, 0.25, 0.5]])
    (scaled,), side = domain_gap._rescaled([image], factor, SIZE, tmp_path / "scaled")
    assert side % 32 == 0
    spec = InputSpec(name="x", width=SIZE, height=SIZE, scale=1.0, pad_value=114)
    before = fit_window(120, 80, spec).to_input(np.array([[33, 20, 63, 60]], np.float32))[0]
    height, width = read_image(scaled.image).shape[:2]
    box = scaled.boxes_xywhn[0]
    after = (box[2] * width * side / width, box[3] * height * side / height)
    assert after[0] == pytest.approx(factor * (before[2] - before[0]), rel=0.03)
    assert after[1] == pytest.approx(factor * (before[3] - before[1]), rel=0.03)


def test_batch_statistics_become_those_of_the_pictures(tmp_path: Path) -> None:
    first, own = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    network = nn.Sequential(first, own).eval()
    images = [field(tmp_path, f"{i}.png", (200 - 40 * i, 150, 90), []) for i in range(3)]
    adapted = with_batch_statistics(network, images, SIZE, batch=3)
    (norm,) = (each for each in adapted.modules() if isinstance(each, nn.BatchNorm2d))
    tensors = torch.cat([domain_gap._tensor(each, SIZE)[0] for each in images])
    with torch.no_grad():
        seen = first(tensors)
    assert norm.running_mean is not None
    assert own.running_mean is not None
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    # The network that was given stays as it was.
    assert torch.equal(own.running_mean, torch.zeros(2))
    assert not adapted.training


class Finds(nn.Module):
    """Answers with fixed finds in the input's pixels: x, y, width, height, score."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.rows.T[None].repeat(len(images), 1, 1),)


def test_pseudo_labels_are_right_once_per_cell(tmp_path: Path) -> None:
    image = field(tmp_path, "one.png", (200, 200, 200), [[0.25, 0.5, 0.2, 0.3]])
    fields = LabelledSet("own", tmp_path, ("cell",), None, (image,))
    spec = InputSpec(name="x", width=SIZE, height=SIZE, scale=1.0, pad_value=114)
    corners = np.array([[18, 28, 42, 52]], np.float32)
    x1, y1, x2, y2 = fit_window(120, 80, spec).to_input(corners)[0].tolist()
    hit = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    shifted = [hit[0] + 7, *hit[1:]]
    model = Finds([[*hit, 0.9], [*shifted, 0.4], [50.0, 40.0, 6.0, 6.0, 0.3]])
    figures = pseudo_label_figures(model, fields, [image], SIZE)
    # The second covers the same cell less well than suppression asks, and cannot have it too.
    assert figures["0.25"]["cell"] == {
        "precision": pytest.approx(1 / 3),
        "recall": 1.0,
        "given": 3.0,
    }
    assert figures["0.5"]["cell"]["precision"] == 1.0
    empty = image.select(np.zeros(1, bool))
    assert pseudo_label_figures(model, fields, [empty], SIZE)["0.5"]["cell"]["recall"] is None


def test_runs_are_put_together_over_seeds() -> None:
    def run(ap: float) -> dict[str, object]:
        return {
            "colours": {},
            "cell_scale": {"factor": 1.2},
            "target": {"as it is": {"ap": ap, "ap50": ap}},
            "pseudo_labels": {"0.25": {"cell": {"precision": None, "recall": ap}}},
        }

    entry = over_runs([run(0.2), run(0.4)])
    assert entry["target"]["as it is"]["ap"]["mean"] == pytest.approx(0.3)
    assert entry["pseudo_labels"]["0.25"]["cell"]["precision"]["mean"] is None
