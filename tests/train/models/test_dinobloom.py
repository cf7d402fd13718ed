"""DinoBloom's files: names, widths, and the class token as the feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import DataError

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from train.models.cell_classifier import build_network  # noqa: E402
from train.models.dinobloom import VARIANTS, dinobloom_network, teacher_backbone  # noqa: E402
from train.models.start_weights import put_start_weights, read_start_weights  # noqa: E402

pytestmark = pytest.mark.train

CLASSES = ("a", "b", "c")
HIDDEN = {"S": 1536, "B": 3072, "L": 4096, "G": 4096}


def teacher(letter: str, depth: int = 2, chunk: int | None = None) -> dict[str, Any]:
    """A published file's content with random numbers, names as DINOv2 writes them."""
    width = {each.letter: each.width for each in VARIANTS}[letter]
    hidden, gated = HIDDEN[letter], letter == "G"
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 257, width), "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    for block in range(depth):
        at = f"blocks.{block}" if chunk is None else f"blocks.{block // chunk}.{block}"
        shapes |= {
            f"{at}.attn.qkv.weight": (3 * width, width), f"{at}.attn.qkv.bias": (3 * width,),
            f"{at}.attn.proj.weight": (width, width), f"{at}.attn.proj.bias": (width,),
            f"{at}.ls1.gamma": (width,), f"{at}.ls2.gamma": (width,),
        }  # fmt: skip
        for norm in ("norm1", "norm2"):
            shapes |= {f"{at}.{norm}.weight": (width,), f"{at}.{norm}.bias": (width,)}
        first, second = ("w12", "w3") if gated else ("fc1", "fc2")
        outer = 2 * hidden if gated else hidden
        shapes |= {
            f"{at}.mlp.{first}.weight": (outer, width), f"{at}.mlp.{first}.bias": (outer,),
            f"{at}.mlp.{second}.weight": (width, hidden), f"{at}.mlp.{second}.bias": (width,),
        }  # fmt: skip
    state = {f"backbone.{name}": torch.randn(shape) * 0.02 for name, shape in shapes.items()}
    state["dino_head.mlp.0.weight"] = torch.randn(4, width)
    state["ibot_head.last_layer.weight_v"] = torch.randn(4, 4)
    return {"teacher": state, "iteration": 5}


def network(letter: str, depth: int = 2) -> Any:
    spec = dinobloom_network(letter)
    return build_network(spec.architecture, {**spec.args, "depth": depth}, len(CLASSES))


def saved(content: Any, file: Path) -> Path:
    torch.save(content, file)
    return file


def test_a_file_fills_the_whole_backbone_and_leaves_the_head(tmp_path: Path) -> None:
    content = teacher("S")
    file = saved(content, tmp_path / "DinoBloom-S.pth")
    model = network("S")
    random = put_start_weights(model, read_start_weights(file, CLASSES), str(file))
    assert random == ("head.weight", "head.bias")
    state = model.state_dict()
    for name, tensor in content["teacher"].items():
        plain = name.removeprefix("backbone.")
        if "head" not in name and plain != "mask_token":
            assert torch.equal(state[plain], tensor), name


def test_the_feature_is_the_normalised_class_token() -> None:
    model = network("S").eval()
    pictures = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        tokens = model.forward_features(pictures)
        assert tokens.shape == (2, 257, 384)
        assert torch.allclose(model(pictures), model.head(tokens[:, 0]))
    # The norm is the last thing that touches it.
    assert torch.allclose(tokens[:, 0].mean(1), torch.zeros(2), atol=1e-4)


@pytest.mark.parametrize("chunk", [None, 1])
def test_the_giants_names_are_mapped(chunk: int | None) -> None:
    with torch.device("meta"):
        content, model = teacher("G", 1, chunk), network("G", 1)
    state = teacher_backbone(content, Path("g.pth"))
    wanted = {
        name: each.shape
        for name, each in model.state_dict().items()
        if not name.startswith("head.")
    }
    assert {name: each.shape for name, each in state.items()} == wanted


@pytest.mark.parametrize("letter", ["B", "L"])
def test_names_and_shapes_of_the_other_sizes(letter: str) -> None:
    with torch.device("meta"):
        content, model = teacher(letter, 1), network(letter, 1)
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("head.")}
    found = {k: v.shape for k, v in teacher_backbone(content, Path("x.pth")).items()}
    assert found == wanted


def test_the_wrong_size_is_named_with_both_widths(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = network("B", 1)
    file = saved(teacher("S", 1), tmp_path / "DinoBloom-S.pth")
    with pytest.raises(DataError, match=r"DinoBloom-S\.pth.*384 wide.*768 wide") as caught:
        put_start_weights(model, read_start_weights(file, CLASSES), str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"backbone.pos_embed": torch.zeros(1, 1370, 384)}, r"\(1, 1370, 384\); DinoBloom's is"),
        ({"backbone.pos_embed": torch.zeros(1, 257, 512)}, r"512\); .*384 \(S\), 768 \(B\)"),
        ({"backbone.pos_embed": None}, "no pos_embed"),
        ({"backbone.norm.weight": "x"}, "is no tensor"),
    ],
)
def test_what_is_no_dinobloom_file(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    content = teacher("S", 1)
    for name, value in change.items():
        content["teacher"].pop(name)
        if value is not None:
            content["teacher"][name] = value
    file = saved(content, tmp_path / "x.pth")
    with pytest.raises(DataError, match=why):
        read_start_weights(file, CLASSES)


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    file = saved(teacher("S", 1), tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"another architecture: 'blocks\.1\.norm1\.weight' is mis"):
        put_start_weights(network("S", 2), read_start_weights(file, CLASSES), str(file))


def test_a_published_resnet_begins_with_its_backbone(tmp_path: Path) -> None:
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    published = build_network("resnet50", args, 1000)
    # As torchvision writes them: plain names, and old files lack the counters.
    state = {k: v for k, v in published.state_dict().items() if "num_batches" not in k}
    file = saved(state, tmp_path / "resnet50.pth")
    model = build_network("resnet50", args, len(CLASSES))
    random = put_start_weights(model, read_start_weights(file, CLASSES), str(file))
    assert {name for name in random if "num_batches" not in name} == {"fc.weight", "fc.bias"}
    assert torch.equal(model.state_dict()["layer4.0.conv3.weight"], state["layer4.0.conv3.weight"])


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": 3}])
def test_files_without_weights(tmp_path: Path, content: Any) -> None:
    file = saved(content, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"x\.pt"):
        read_start_weights(file, CLASSES)


def test_torchvisions_resnet50_has_timms_names() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        published, ours = resnet50().state_dict(), build_network("resnet50", {}, 1000).state_dict()
    assert {k: v.shape for k, v in published.items()} == {k: v.shape for k, v in ours.items()}
