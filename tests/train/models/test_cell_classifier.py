"""Checkpoints of classifiers: round trip, and what is refused without being run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import DataError, SettingsError

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from train.models.cell_classifier import (  # noqa: E402
    Checkpoint,
    Normalised,
    build_network,
    head_parameters,
    load_classifier,
    read_checkpoint,
    write_checkpoint,
)

pytestmark = pytest.mark.train

ARGS = {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 24]}
INPUT = CropInputSpec(name="c", width=32, height=32, scale=1 / 255, pad_value=114, margin=0.1)
CHECKPOINT = Checkpoint(
    architecture="resnet10t", model_args=ARGS, classes=("a", "b", "c"), input=INPUT,
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3),
)  # fmt: skip


def written(file: Path) -> Any:
    torch.manual_seed(0)
    network = build_network("resnet10t", ARGS, 3, 0.1)
    write_checkpoint(CHECKPOINT, network.state_dict(), file)
    return network


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    network = written(tmp_path / "classifier.pt")
    checkpoint, loaded = load_classifier(tmp_path / "classifier.pt")
    assert checkpoint == CHECKPOINT
    crops = torch.rand(2, 3, 32, 32)
    wanted = Normalised(network, CHECKPOINT.mean, CHECKPOINT.std).eval()(crops)
    assert torch.equal(loaded(crops), wanted)
    # The normalisation is part of the network: plain values give something else.
    assert not torch.allclose(network.eval()(crops), wanted)
    assert not (tmp_path / "classifier.partial").exists()


class Runs:
    """Unpickling it would leave a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_foreign_pickle_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    trap, file = tmp_path / "ran", tmp_path / "classifier.pt"
    document = {"kind": "classifier", "state": Runs(trap)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(document))
    else:
        torch.save(document, file)
    with pytest.raises(DataError, match="holds code, which is never run"):
        load_classifier(file)
    assert not trap.exists()
    # The trap works: unpickled without care, it springs.
    torch.load(file, weights_only=False) if how == "torch" else pickle.loads(file.read_bytes())
    assert trap.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"t...", b"PK\x03\x04", b"\x80\x04}."])
def test_no_checkpoint_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.pt"):
        read_checkpoint(tmp_path / "x.pt")


def test_missing_and_cut_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_checkpoint(tmp_path / "none.pt")
    written(tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:-3000])
    with pytest.raises(DataError, match="not a file of plain weights"):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "attribute_head"}, "no classifier's checkpoint"),
        ({"classes": ["a", "b"]}, r"'fc\.weight' is \(3, 24\), this network's is \(2, 24\)"),
        ({"classes": ["a"]}, "classes"),
        ({"model_args": {**ARGS, "channels": [8, 12, 16, 32]}}, "another architecture or class"),
        ({"architecture": "mobilenetv3_small_050", "model_args": {}}, "weights of another network"),
        ({"state": None}, "no weights"),
        ({"colour": "RGB"}, "colour"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    written(tmp_path / "c.pt")
    document = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save({**document, **change}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=why) as caught:
        load_classifier(tmp_path / "c.pt")
    assert "\n" not in str(caught.value)


def test_unknown_architectures_and_arguments() -> None:
    with pytest.raises(SettingsError, match="not one of timm"):
        build_network("resnet10", {}, 3)
    with pytest.raises(SettingsError, match="wings"):
        build_network("resnet10t", {"wings": 2}, 3)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_the_head_is_the_last_layer(name: str) -> None:
    network = build_network(name, {}, 3)
    assert {len(each) for each in head_parameters(network)} == {3}
