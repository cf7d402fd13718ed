"""From a detector's early feature maps and boxes to attribute logits.

Owns the tap on the detector, the pooling of cells and the head. Does not own the loss (see
``losses``) nor the training of both together (see ``models.attridet``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.ops import roi_align
from typing_extensions import Self

from edge_runtime.attributes import AttributeSchema
from edge_runtime.errors import SettingsError

# Height, width every cell is pooled to.
POOLED = (24, 30)
# Layers whose outputs the head reads, by detector family: one at stride 4, one at stride 8.
TAPPED_LAYERS = {"yolov5": (1, 4), "yolo11": (2, 4)}
# Samples per bin and axis when pooling: 2 keeps the result independent of the box's size.
_SAMPLES = 2
# Large enough for every stride of these detectors (32), small enough to cost nothing.
_PROBE_PX = 64

HeadOutputs = Literal["per_value", "per_attribute"]


@dataclass(frozen=True, slots=True)
class Tap:
    """One tapped layer, as found on the running network.

    Attributes:
        layer: index in the detector's layer list.
        channels: width of its output.
        stride: input pixels per feature pixel.
    """

    layer: int
    channels: int
    stride: int


class FeatureTap:
    """Records what some layers put out while a ``with`` block runs.

    Nothing stays behind on the network: hooks that stay would be copied with it, into the
    averaged model and into checkpoints, and fill the wrong object from there.
    """

    def __init__(self, layers: nn.Sequential, indices: Sequence[int]) -> None:
        self._layers = [layers[index] for index in indices]
        self._handles: list[RemovableHandle] = []
        self._maps: list[Tensor | None] = [None] * len(self._layers)

    def __enter__(self) -> Self:
        for place, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_hook(self._recorder(place)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Outputs ``(batch, channels, height, width)`` of the last forward pass, in order.

        Raises:
            RuntimeError: no forward pass went through every tapped layer.
        """
        found = tuple(each for each in self._maps if each is not None)
        if len(found) != len(self._layers):
            raise RuntimeError("a tapped layer has not run yet: pass an image through the network")
        return found

    def _recorder(self, place: int) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._maps[place] = output

        return record


def tapped_layers(model_name: str) -> tuple[int, ...]:
    """The layers to tap in an ultralytics detector.

    Args:
        model_name: its name or file name, such as ``yolo11n.yaml``; what follows the size
            letter, as in ``yolo11n-relu.yaml`` or ``yolov5xu.pt``, does not matter.

    Raises:
        SettingsError: a family without a row in the table.
    """
    stem = model_name.replace("\\", "/").rpartition("/")[2].partition(".")[0]
    # No digit after the size letter: yolov5x6 is another network.
    match = re.match(r"([a-z]+\d+)[nsmlx](?!\d)", stem)
    family = match.group(1) if match else stem
    if family not in TAPPED_LAYERS:
        known = ", ".join(f"{name}n to x" for name in TAPPED_LAYERS)
        raise SettingsError(
            f"model {model_name!r}: no known layers for an attribute head; use one of {known}"
        )
    return TAPPED_LAYERS[family]


def describe_taps(detector: nn.Module, indices: Sequence[int]) -> tuple[Tap, ...]:
    """Widths and strides of tapped layers, from one small picture through the network.

    Args:
        detector: an ultralytics detector; its layers are ``detector.model``.
        indices: layers to describe.
    """
    first = next(detector.parameters())
    picture = torch.zeros(1, first.shape[1], _PROBE_PX, _PROBE_PX, device=first.device)
    # Every module's own mode is put back: a frozen batch norm must not wake up here.
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    layers = detector.model
    if not isinstance(layers, nn.Sequential):
        raise TypeError(f"detector.model is a {type(layers).__name__}, not a list of layers")
    try:
        with torch.no_grad(), FeatureTap(layers, indices) as tap:
            detector(picture.to(first.dtype))
        maps = tap.maps
    finally:
        for module, mode in modes:
            module.training = mode
    return tuple(
        Tap(layer=index, channels=each.shape[1], stride=_PROBE_PX // each.shape[2])
        for index, each in zip(indices, maps, strict=True)
    )


def pool_cells(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes_xyxy: Tensor,
    picture_index: Tensor,
    size: tuple[int, int] = POOLED,
) -> Tensor:
    """Every cell's part of each feature map, at one size, channels side by side.

    Args:
        maps: ``(batch, channels, height, width)`` each.
        strides: input pixels per feature pixel, one per map.
        boxes_xyxy: float ``(n, 4)``, corners in pixels of the network's input.
        picture_index: ``(n,)``, the picture of the batch each box lies in.
        size: height and width of the result.

    Returns:
        float32 ``(n, all channels, *size)``, whatever type the maps have: half precision
        rounds box corners to several pixels.
    """
    rois = torch.cat([picture_index.reshape(-1, 1).float(), boxes_xyxy.float()], dim=1)
    with _compiled_pooling():
        pooled = [
            roi_align(
                each.float(),
                rois,
                output_size=size,
                spatial_scale=1.0 / stride,
                sampling_ratio=_SAMPLES,
                aligned=True,
            )
            for each, stride in zip(maps, strides, strict=True)
        ]
    return torch.cat(pooled, dim=1)


@contextmanager
def _compiled_pooling() -> Iterator[None]:
    """Has torchvision take its own kernel where determinism is a wish, not a demand.

    On a GPU, torchvision answers any request for determinism with a pooling written in
    Python, which keeps every sample of every bin: gigabytes for the cells of one batch.
    Ultralytics requests it by default, with warnings in place of errors; the kernel's
    backward pass gives that warning. A strict request is honoured.
    """
    wished = torch.is_deterministic_algorithms_warn_only_enabled()
    if not (torch.are_deterministic_algorithms_enabled() and wished):
        yield
        return
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def logit_widths(schema: AttributeSchema, outputs: HeadOutputs = "per_value") -> tuple[int, ...]:
    """Logits per attribute.

    Args:
        schema: the attributes.
        outputs: ``per_value``, one logit for each value of each attribute (the reference
            code: 12 for six binary attributes), or ``per_attribute``, a single logit each
            (the paper's 6), which needs attributes of two values.

    Raises:
        SettingsError: ``per_attribute`` with an attribute of more than two values.
    """
    if outputs == "per_value":
        return schema.widths
    for attribute in schema.attributes:
        if len(attribute.values) != 2:
            raise SettingsError(
                f"attribute {attribute.name!r} has {len(attribute.values)} values; "
                "one output per attribute needs two, use per_value"
            )
    return (1,) * len(schema.attributes)


def chosen_values(logits: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The most likely value of each attribute, and its share of the probability.

    The share is the value's sigmoid over the sum of its group's: the loss trains every
    logit by itself, so a group does not add up to 1. It is not calibrated.

    Args:
        logits: ``(n, sum(widths))``.
        widths: logits per attribute; 1 means a binary attribute with one logit.

    Returns:
        ``(values, probabilities)``, int64 and float32, both ``(n, attributes)``. Of equal
        logits the lower value is taken.
    """
    values, shares = [], []
    for group in logits.float().split(list(widths), dim=1):
        sigmoid = torch.sigmoid(group)
        if group.shape[1] == 1:
            sigmoid = torch.cat([1 - sigmoid, sigmoid], dim=1)
        share, value = (sigmoid / sigmoid.sum(dim=1, keepdim=True)).max(dim=1)
        values.append(value)
        shares.append(share)
    return torch.stack(values, dim=1), torch.stack(shares, dim=1)


class AttriHead(nn.Module):
    """Convolutions and a small perceptron on pooled cells: AttriDet's head.

    Three times (3 x 3 convolution, LeakyReLU, 2 x 2 max pooling) to 128, 64 and 64 channels,
    then fully connected 1024, 256 and the outputs, with dropout before each. With 480
    channels in it has 1,520,140 parameters for 12 outputs.

    Args:
        channels: of the pooled maps together.
        outputs: logits per cell.
        dropout: the paper's 0.2; the authors' code has 0.5.
        convolutions: channels of the three convolutions, the paper's by default; the first
            costs most of the head's time.
    """

    CONVOLUTIONS = (128, 64, 64)
    _HIDDEN = (1024, 256)

    def __init__(
        self,
        channels: int,
        outputs: int,
        dropout: float = 0.2,
        convolutions: tuple[int, int, int] = CONVOLUTIONS,
    ) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for width in convolutions:
            stack += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.01), nn.MaxPool2d(2)]
            channels = width
        self.convolutions = nn.Sequential(*stack)
        shrink = 2 ** len(convolutions)
        features = channels * (POOLED[0] // shrink) * (POOLED[1] // shrink)
        layers: list[nn.Module] = []
        for width in self._HIDDEN:
            layers += [nn.Dropout(dropout), nn.Linear(features, width), nn.LeakyReLU(0.01)]
            features = width
        self.perceptron = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(features, outputs))

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits ``(n, outputs)`` of cells pooled to ``(n, channels, 24, 30)``; n may be 0."""
        # Not flatten(1): with no cells, it would have to guess the length of an axis.
        maps = self.convolutions(pooled)
        logits: Tensor = self.perceptron(maps.reshape(maps.shape[0], maps.shape[1:].numel()))
        return logits

    def reset_parameters(self) -> None:
        """Draws all weights anew, as for a second training phase that starts a fresh head."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
