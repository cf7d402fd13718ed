"""Weights that a training of a cell classifier may begin with, from a local file.

Owns telling the kinds of files apart and seeing that a whole backbone fits. Does not own
getting the files. Kinds: a classifier of an own run, a DinoBloom teacher (see ``dinobloom``),
and a plain table of weights under the network's own names, as timm and torchvision publish
ResNets. Nothing in a file is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge_runtime.errors import DataError
from train.models.cell_classifier import load_weights, read_checkpoint
from train.models.dinobloom import is_teacher, teacher_backbone

# Counts batches; older published files lack it and nothing here reads it.
_COUNTER = "num_batches_tracked"


def read_start_weights(file: Path, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights in a file, under timm's names.

    Args:
        file: local.
        classes: of the network to be trained; the last layer of an own checkpoint is kept
            only when it has the same ones in the same order.

    Raises:
        DataError: missing, damaged, or not plain weights.
    """
    document: Any = load_weights(file)
    if not isinstance(document, dict):
        raise DataError(f"{file}: holds no table of weights; give a checkpoint")
    if document.get("kind") == "classifier":
        checkpoint, state = read_checkpoint(file)
        if checkpoint.classes != classes:
            state = {k: v for k, v in state.items() if not _of_last_layer(k)}
        return state
    if is_teacher(document):
        return teacher_backbone(document, file)
    table = document.get("state_dict", document)
    if not isinstance(table, dict) or not all(isinstance(v, Tensor) for v in table.values()):
        raise DataError(
            f"{file}: not the weights of a classifier; give classifier.pt of a run, a DinoBloom "
            f"file or a timm model's state"
        )
    # A published last layer names a thousand things, none of them a cell.
    return {key: v for key, v in table.items() if not _of_last_layer(key)}


def put_start_weights(network: nn.Module, given: dict[str, Tensor], where: str) -> tuple[str, ...]:
    """Loads a whole backbone, and the last layer where it fits.

    Args:
        network: a timm network.
        given: see ``read_start_weights``.
        where: what to call them in an error.

    Returns:
        Names of the weights that stay random.

    Raises:
        DataError: a weight of the backbone is missing, of another shape, or unknown.
    """
    last: Any = network
    head = {id(parameter) for parameter in last.get_classifier().parameters()}
    loose = {name for name, parameter in network.named_parameters() if id(parameter) in head}
    wanted = network.state_dict()
    for token in ("cls_token", "pos_embed"):
        if token in given and token in wanted and given[token].shape != wanted[token].shape:
            raise DataError(
                f"{where}: {token} is {tuple(given[token].shape)}, {given[token].shape[-1]} wide; "
                f"this network's is {tuple(wanted[token].shape)}, {wanted[token].shape[-1]} wide: "
                f"take the file of the other size, or another architecture"
            )
    strange = sorted(set(given) - set(wanted))
    if strange:
        raise DataError(f"{where}: weights of another architecture: {strange[0]!r} is unknown")
    chosen: dict[str, Tensor] = {}
    for name, tensor in wanted.items():
        if name in given and given[name].shape == tensor.shape:
            chosen[name] = given[name]
        elif name not in loose and not (name not in given and name.endswith(_COUNTER)):
            found = f"is {tuple(given[name].shape)}" if name in given else "is missing"
            raise DataError(
                f"{where}: weights of another architecture: {name!r} {found}, "
                f"this network's is {tuple(tensor.shape)}"
            )
    network.load_state_dict(chosen, strict=False)
    return tuple(name for name in wanted if name not in chosen)


def _of_last_layer(name: str) -> bool:
    return name.partition(".")[0] in ("fc", "head", "classifier")
