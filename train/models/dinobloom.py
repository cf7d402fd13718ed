"""DinoBloom: vision transformers trained on blood cells without labels (Koch et al. 2024).

Owns the form of their published files and how their names map to timm's networks. Does not
own downloading (see docs/how-to/two-stage.md) nor training. A file holds the training's
teacher: ``backbone.`` weights in DINOv2's names beside two projection heads, for 224 px, so
257 positions. The feature of a cell is the normalised class token; pictures are normalised
as ImageNet's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edge_runtime.errors import DataError
from train.models.cell_classifier import NetworkSpec

SIZE_PX, PATCH_PX = 224, 14
POSITIONS = 1 + (SIZE_PX // PATCH_PX) ** 2
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEADS = ("dino_head", "ibot_head")


@dataclass(frozen=True, slots=True)
class Variant:
    """One published size."""

    letter: str
    architecture: str
    width: int


VARIANTS: tuple[Variant, ...] = (
    Variant("S", "vit_small_patch14_dinov2", 384),
    Variant("B", "vit_base_patch14_dinov2", 768),
    Variant("L", "vit_large_patch14_dinov2", 1024),
    Variant("G", "vit_giant_patch14_dinov2", 1536),
)


def dinobloom_network(letter: str) -> NetworkSpec:
    """The network a file of that size goes into.

    Raises:
        KeyError: no such size.
    """
    variant = {each.letter: each for each in VARIANTS}[letter]
    return NetworkSpec(
        architecture=variant.architecture,
        args={"img_size": SIZE_PX},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def is_teacher(document: dict[Any, Any]) -> bool:
    """Whether a file's content has the form of DinoBloom's."""
    return isinstance(document.get("teacher"), dict)


def teacher_backbone(document: dict[Any, Any], file: Path) -> dict[str, Tensor]:
    """The backbone's weights under timm's names.

    Args:
        document: the file's content, see ``is_teacher``.
        file: for errors.

    Raises:
        DataError: not the tensors of a DinoBloom backbone, or one of an unknown width.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in document["teacher"].items():
        if any(head in name for head in _HEADS):
            continue
        if not isinstance(tensor, Tensor):
            raise DataError(f"{file}: {name!r} is no tensor; this is no DinoBloom file")
        # A wrapped training leaves the word behind as well.
        plain = str(name).replace("_fsdp_wrapped_module.", "").removeprefix("backbone.")
        # Training keeps blocks in chunks, blocks.<chunk>.<block>; published code does not.
        plain = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", plain)
        # The giant's gated layer: the same packed product under other names in timm.
        plain = plain.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        # Stood in for hidden patches in training only.
        if plain != "mask_token":
            state[plain] = tensor
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        raise DataError(f"{file}: no pos_embed among its weights; this is no DinoBloom file")
    known = {each.width: each.letter for each in VARIANTS}
    if positions.shape[1] != POSITIONS or positions.shape[2] not in known:
        sizes = ", ".join(f"{width} ({letter})" for width, letter in known.items())
        raise DataError(
            f"{file}: pos_embed is {tuple(positions.shape)}; DinoBloom's is 1 x {POSITIONS} by "
            f"{sizes}"
        )
    return state
