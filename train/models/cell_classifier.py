"""The networks that name a cell from its crop, and their checkpoints.

Owns building a timm network from a recipe, which parameters belong to the backbone, and the
checkpoint's form. Does not own training (see ``train.classify``).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import DataError, SettingsError

CHECKPOINT_NAME = "classifier.pt"


class NetworkSpec(BaseModel):
    """Which network.

    Attributes:
        architecture: a timm model name.
        args: for its constructor, such as widths; lists are taken as tuples.
        dropout: before the last layer.
        mean, std: that tensor values are normalised with; of tensors in 0..1, RGB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    args: dict[str, Any] = Field(default_factory=dict)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


class Checkpoint(BaseModel):
    """Everything but the weights; those lie beside it under ``state``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["classifier"] = "classifier"
    architecture: str
    model_args: dict[str, Any]
    classes: tuple[str, ...] = Field(min_length=2)
    input: CropInputSpec
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Normalised(nn.Module):
    """A network behind the normalisation of its input."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        # Not in the state: the checkpoint has them in words.
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of crops ``(n, 3, h, w)`` in 0..1."""
        logits: Tensor = self.network((crops - self.mean) / self.std)
        return logits


def build_network(
    architecture: str, args: dict[str, Any], classes: int, dropout: float = 0.0
) -> nn.Module:
    """A timm network with random weights.

    Raises:
        SettingsError: timm has no such model, or it refuses the arguments.
    """
    import timm

    # Its signature names options that no architecture here shares.
    create: Any = timm.create_model

    if architecture not in timm.list_models():
        raise SettingsError(
            f"architecture {architecture!r}: not one of timm {timm.__version__}'s models; "
            "python -c 'import timm; print(timm.list_models())' lists them"
        )
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in args.items()}
    try:
        network: nn.Module = create(
            architecture, pretrained=False, num_classes=classes, drop_rate=dropout, **given
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"architecture {architecture!r} with {args}: {reason}") from error
    return network


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of a timm network's last, classifying layer."""
    last: Any = network
    return list(last.get_classifier().parameters())


def write_checkpoint(checkpoint: Checkpoint, state: dict[str, Tensor], file: Path) -> None:
    """Writes a checkpoint that loads without unpickling code."""
    document = checkpoint.model_dump(mode="json")
    partial = file.with_suffix(".partial")
    torch.save({**document, "state": state}, partial)
    partial.replace(file)


def read_checkpoint(file: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Reads a checkpoint; nothing in it is executed.

    Raises:
        DataError: missing, no checkpoint of a classifier, or one of another program.
    """
    document = load_weights(file)
    if not isinstance(document, dict) or document.get("kind") != "classifier":
        raise DataError(f"{file}: no classifier's checkpoint; give {CHECKPOINT_NAME} of a run")
    state = document.pop("state", None)
    try:
        checkpoint = Checkpoint.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the checkpoint"
        raise DataError(f"{file}: {where}: {first['msg']}") from error
    if not isinstance(state, dict):
        raise DataError(f"{file}: it has no weights; train again")
    return checkpoint, state


def load_weights(file: Path) -> Any:
    """What a file of weights holds; tensors and plain values only.

    Raises:
        DataError: missing, damaged, or a pickle that holds anything else.
    """
    try:
        with warnings.catch_warnings():
            # Torch warns of how a foreign pickle was written before it refuses it.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; give an existing file of weights") from error
    except Exception as error:  # what stumbles over foreign bytes can fail in any way
        raise DataError(
            f"{file}: not a file of plain weights; it is damaged, or holds code, which is never run"
        ) from error


def load_classifier(file: Path) -> tuple[Checkpoint, Normalised]:
    """A trained classifier in eval mode.

    Raises:
        DataError: no such checkpoint, or its weights are of another network or class list.
        SettingsError: its architecture is unknown here.
    """
    checkpoint, state = read_checkpoint(file)
    network = build_network(checkpoint.architecture, checkpoint.model_args, len(checkpoint.classes))
    put_weights(network, state, file)
    return checkpoint, Normalised(network, checkpoint.mean, checkpoint.std).eval()


def put_weights(network: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Loads weights that must fit wholly.

    Raises:
        DataError: a tensor is missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise DataError(f"{file}: weights of another network: {name!r} is missing")
        if not bool(torch.isfinite(state[name]).all()):
            raise DataError(f"{file}: {name!r} holds numbers that are not finite; train again")
        if state[name].shape != tensor.shape:
            raise DataError(
                f"{file}: {name!r} is {tuple(state[name].shape)}, this network's is "
                f"{tuple(tensor.shape)}; another architecture or class list"
            )
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise DataError(f"{file}: weights of another network: {extra[0]!r} is unknown")
    network.load_state_dict(state)
