"""From a head's checkpoint to a float ONNX graph: classifier and attribute head.

Owns reading these checkpoints, what is refused in them, and both graphs. Does not own the
detector's graph (see ``to_onnx``) nor anything after it: ``export`` reaches this module
through ``export.float_onnx`` and ``train.to_onnx`` only.

A head's checkpoint is a plain dict of numbers, names and tensors and is read as such: unlike
a detector's, it can run nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from calibration.float_heads import FloatAttributeHead, FloatClassifier, float_artifact
from edge_runtime.attributes import AttributeSchema
from edge_runtime.bundle import AttributeHeadSpec, ClassifierSpec, FeatureMapSpec
from edge_runtime.errors import DataError, SettingsError
from train.models.attribute_head import POOLED, AttriHead, HeadOutputs, logit_widths
from train.models.cell_classifier import (
    Checkpoint,
    load_classifier,
    load_weights,
    put_weights,
    read_checkpoint,
)

# The highest that TensorRT 8.6 reads in full; RoiAlign by half pixels needs 16.
OPSET = 17
# What ONNX Runtime 1.17 and later read.
_IR_VERSION = 8
# As in ``train.models.attribute_head``.
_SAMPLES = 2
_BOXES, _ATTRIBUTE_LOGITS, _LOGITS = "boxes", "attribute_logits", "logits"
# They make timm read files or its servers.
_FETCHING = frozenset({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"})


class _AttributeHeadDocument(BaseModel):
    # The trainer may note more than is needed here.
    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)

    kind: Literal["attribute_head"]
    attributes: AttributeSchema
    outputs: HeadOutputs
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    layers: tuple[int, ...] = Field(min_length=1)
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    convolutions: tuple[int, int, int]
    dropout: float
    not_for_classes: tuple[str, ...]
    detector_sha256: str
    state: dict[str, Tensor]


def export_classifier(checkpoint: Path) -> FloatClassifier:
    """The classifier of a checkpoint, normalisation inside, any number of crops per call.

    Args:
        checkpoint: ``classifier.pt`` of a training run.

    Raises:
        DataError: missing, of another kind, or its parts do not fit each other.
        SettingsError: an architecture that timm does not have, or would fetch weights for.
    """
    _refuse_fetching(checkpoint, read_checkpoint(checkpoint)[0])
    document, whole = load_classifier(checkpoint)
    name = document.input.name
    crops = torch.zeros(2, 3, document.input.height, document.input.width)
    # Not folded into the first convolution, whose padding is zero after normalisation: a bias
    # cannot know where the border is.
    with (
        tempfile.TemporaryDirectory(prefix="leukoscope-onnx-") as scratch,
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        written = Path(scratch) / "classifier.onnx"
        # The tracing exporter is deprecated; its successor leaves source paths in the graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            (crops,),
            written,
            opset_version=OPSET,
            dynamo=False,
            input_names=[name],
            output_names=[_LOGITS],
            dynamic_axes={name: {0: "cells"}, _LOGITS: {0: "cells"}},
        )
        model = _clean(written.read_bytes())
    spec = ClassifierSpec(
        architecture=_described(document),
        classes=document.classes,
        input=document.input,
        output=_LOGITS,
        abstain_below=0.0,
        artifacts=(float_artifact("classifier"),),
    )
    return FloatClassifier(model, spec)


def export_attribute_head(checkpoint: Path, detector: Path, image_size: int) -> FloatAttributeHead:
    """The attribute head of a checkpoint, pooling inside, any number of cells per call.

    Args:
        checkpoint: ``attribute_head.pt`` of a training run.
        detector: the checkpoint of the detector whose maps it is to read.
        image_size: side of that detector's input in pixels.

    Raises:
        DataError: missing, of another kind, trained on another detector, or its parts do
            not fit each other.
        SettingsError: outputs that the attributes do not allow.
    """
    document = _read_head(checkpoint)
    _check_detector(checkpoint, document, detector)
    head = _head(checkpoint, document)
    maps = tuple(
        FeatureMapSpec(name=f"features_s{stride}", channels=channels, stride=stride)
        for stride, channels in zip(document.strides, document.channels, strict=True)
    )
    spec = AttributeHeadSpec(
        architecture=_head_described(document),
        attributes=document.attributes,
        outputs=document.outputs,
        activation=document.activation,
        reads=tuple(each.name for each in maps),
        boxes=_BOXES,
        output=_ATTRIBUTE_LOGITS,
        not_for_classes=document.not_for_classes,
        artifacts=(float_artifact("attribute_head"),),
    )
    return FloatAttributeHead(_head_graph(head, maps, image_size), spec, maps, document.layers)


def _refuse_fetching(file: Path, checkpoint: Checkpoint) -> None:
    fetching = sorted(_FETCHING & set(checkpoint.model_args))
    if fetching:
        raise SettingsError(
            f"{file}: model argument {fetching[0]!r} reads weights from elsewhere; train without it"
        )


def _read_head(file: Path) -> _AttributeHeadDocument:
    document = load_weights(file)
    found = document.get("kind") if isinstance(document, dict) else None
    if found != "attribute_head":
        raise DataError(f"{file}: of kind {found!r}, no attribute head; give the run of one")
    try:
        return _AttributeHeadDocument.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(f"{file}: {where}: {first['msg']}; train again") from error


def _head(checkpoint: Path, document: _AttributeHeadDocument) -> AttriHead:
    lengths = {len(document.layers), len(document.strides), len(document.channels)}
    if len(lengths) != 1 or len(set(document.strides)) != len(document.strides):
        raise DataError(
            f"checkpoint {checkpoint}: layers {document.layers}, strides {document.strides} and "
            f"channels {document.channels} do not describe the same maps; train again"
        )
    outputs = sum(logit_widths(document.attributes, document.outputs))
    biases = [value for name, value in document.state.items() if name.endswith("bias")]
    width = len(biases[-1]) if biases else 0
    if width != outputs:
        raise DataError(
            f"checkpoint {checkpoint}: schema {document.attributes.name!r} needs {outputs} "
            f"outputs, its weights have {width}; train again"
        )
    head = AttriHead(sum(document.channels), outputs, document.dropout, document.convolutions)
    put_weights(head, document.state, checkpoint)
    return head.eval()


def _check_detector(checkpoint: Path, document: _AttributeHeadDocument, detector: Path) -> None:
    try:
        found = hashlib.sha256(detector.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"detector {detector}: {error.strerror}; give the checkpoint the head was trained on"
        ) from error
    if found != document.detector_sha256:
        raise DataError(
            f"checkpoint {checkpoint}: trained on the maps of detector "
            f"{document.detector_sha256[:12]}…, {detector} is {found[:12]}…; train the head on "
            "this one or give that one"
        )


def _described(document: Checkpoint) -> str:
    given = ", ".join(f"{key} {value}" for key, value in sorted(document.model_args.items()))
    return f"{document.architecture}, {given}" if given else document.architecture


def _head_described(document: _AttributeHeadDocument) -> str:
    layers = " and ".join(str(layer) for layer in document.layers)
    widths = ", ".join(str(width) for width in document.convolutions)
    return f"AttriDet head, layers {layers}, convolutions {widths}"


def _head_graph(head: AttriHead, maps: tuple[FeatureMapSpec, ...], image_size: int) -> bytes:
    """The head node by node: a trace would guess the length of an axis when n is 0."""
    from onnx import TensorProto, helper

    graph = _GraphParts()
    pooled = [graph.add_pooling(each, image_size // each.stride) for each in maps]
    source = graph.add("Concat", pooled, "pooled", axis=1)
    source = graph.add_layers(head.convolutions, source, "convolutions")
    source = graph.add("Flatten", [source], "flat", axis=1)
    graph.add_layers(head.perceptron, source, "perceptron", last=_ATTRIBUTE_LOGITS)
    outputs = next(reversed(head.state_dict().values())).shape[0]
    logits = helper.make_tensor_value_info(_ATTRIBUTE_LOGITS, TensorProto.FLOAT, ["cells", outputs])
    inputs = [
        helper.make_tensor_value_info(
            each.name,
            TensorProto.FLOAT,
            [1, each.channels, image_size // each.stride, image_size // each.stride],
        )
        for each in maps
    ]
    inputs.append(helper.make_tensor_value_info(_BOXES, TensorProto.FLOAT, ["cells", 4]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "attribute_head",
            inputs,
            [logits],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="leukoscope",
    )
    return _clean(model.SerializeToString())


class _GraphParts:
    """Nodes and weights in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"/{output}", **attributes))
        return output

    def add_pooling(self, feature_map: FeatureMapSpec, side: int) -> str:
        """ROIAlign of a square map as two products of matrices: the same numbers, sooner.

        Bilinear samples at fixed shares of a box are a matrix along each axis, whose row for
        a sample at ``p`` has ``max(0, 1 - |p - i|)`` in column ``i``. Runtimes multiply
        matrices several times faster than they sample, and none lacks it.
        """
        name = f"pooled_s{feature_map.stride}"
        if not any(node.output[0] == "x1" for node in self.nodes):
            self.add_split(_BOXES, ("x1", "y1", "x2", "y2"))
        columns = self._interpolation(name, "x", POOLED[1], side, 1.0 / feature_map.stride)
        rows = self._interpolation(name, "y", POOLED[0], side, 1.0 / feature_map.stride)
        channels = feature_map.channels
        lines = self.constant(f"{name}.lines", np.array([channels * side, side]))
        flat = self.add("Reshape", [feature_map.name, lines], f"{name}.flat")
        # All cells' columns in one product, which may as well have none.
        wide = self.constant(f"{name}.wide", np.array([-1, side]))
        columns = self.add("Reshape", [columns, wide], f"{name}.columns")
        turned = self.add("Transpose", [columns], f"{name}.turned", perm=[1, 0])
        narrow = self.add("MatMul", [flat, turned], f"{name}.narrow")
        shape = self.constant(f"{name}.shape", np.array([channels, side, -1, POOLED[1]]))
        narrow = self.add("Reshape", [narrow, shape], f"{name}.by_line")
        narrow = self.add("Transpose", [narrow], f"{name}.by_cell", perm=[2, 0, 1, 3])
        axis = self.constant(f"{name}.axis", np.array([1]))
        rows = self.add("Unsqueeze", [rows, axis], f"{name}.rows")
        return self.add("MatMul", [rows, narrow], name)

    def _interpolation(self, name: str, axis: str, bins: int, side: int, scale: float) -> str:
        """Weights ``(cells, bins, side)`` of the map's pixels in every bin along one axis."""
        own = f"{name}.{axis}"
        shares = (np.arange(bins * _SAMPLES) + 0.5) / (bins * _SAMPLES)
        low = self.constant(f"{own}.low", (scale * (1 - shares))[None].astype(np.float32))
        high = self.constant(f"{own}.high", (scale * shares)[None].astype(np.float32))
        half = self.constant(f"{own}.half", np.array(0.5, np.float32))
        first = self.add("Mul", [f"{axis}1", low], f"{own}.from_first")
        second = self.add("Mul", [f"{axis}2", high], f"{own}.from_second")
        at = self.add("Add", [first, second], f"{own}.sum")
        # Pixel i of a map covers i to i + 1: its centre is at i + 0.5.
        at = self.add("Sub", [at, half], f"{own}.at")
        zero = self.constant(f"{own}.zero", np.array(0, np.float32))
        last = self.constant(f"{own}.last", np.array(side - 1, np.float32))
        # A sample more than a pixel outside is nothing; between, the border's value.
        first_out = self.constant(f"{own}.first_out", np.array(-1, np.float32))
        last_out = self.constant(f"{own}.last_out", np.array(side, np.float32))
        kept = self.add("Clip", [at, first_out, last_out], f"{own}.kept")
        same = self.add("Equal", [at, kept], f"{own}.same")
        seen = self.add("Cast", [same], f"{own}.seen", to=1)
        at = self.add("Clip", [at, zero, last], f"{own}.inside")
        deeper = self.constant(f"{own}.deeper", np.array([2]))
        at = self.add("Unsqueeze", [at, deeper], f"{own}.samples")
        seen = self.add("Unsqueeze", [seen, deeper], f"{own}.seen_samples")
        grid = self.constant(f"{own}.grid", np.arange(side, dtype=np.float32)[None, None])
        one = self.constant(f"{own}.one", np.array(1, np.float32))
        far = self.add("Abs", [self.add("Sub", [at, grid], f"{own}.off")], f"{own}.distance")
        weights = self.add("Relu", [self.add("Sub", [one, far], f"{own}.near")], f"{own}.weights")
        weights = self.add("Mul", [weights, seen], f"{own}.seen_weights")
        pairs = self.constant(f"{own}.pairs", np.array([0, bins, _SAMPLES, side]))
        weights = self.add("Reshape", [weights, pairs], f"{own}.by_bin")
        return self.add("ReduceMean", [weights], f"{own}.mean", axes=[2], keepdims=0)

    def add_split(self, source: str, outputs: tuple[str, ...]) -> None:
        """Equal parts along the second axis."""
        from onnx import helper

        self.nodes.append(helper.make_node("Split", [source], list(outputs), name="/split", axis=1))

    def constant(self, name: str, value: np.ndarray) -> str:
        """A stored value."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add_layers(
        self, layers: nn.Sequential, source: str, prefix: str, *, last: str | None = None
    ) -> str:
        """Every layer as one node; dropout is none. Returns the name of the end."""
        kept = [
            (f"{prefix}.{index}", layer)
            for index, layer in enumerate(layers)
            if not isinstance(layer, nn.Dropout)
        ]
        for place, (name, layer) in enumerate(kept):
            output = last if last is not None and place == len(kept) - 1 else name
            source = self._add_layer(layer, source, name, output)
        return source

    def _add_layer(self, layer: nn.Module, source: str, name: str, output: str) -> str:
        if isinstance(layer, nn.Conv2d):
            pads = [*layer.padding, *layer.padding]
            return self.add("Conv", [source, *self._stored(layer, name)], output, pads=pads)
        if isinstance(layer, nn.Linear):
            return self.add("Gemm", [source, *self._stored(layer, name)], output, transB=1)
        if isinstance(layer, nn.LeakyReLU):
            return self.add("LeakyRelu", [source], output, alpha=layer.negative_slope)
        if isinstance(layer, nn.MaxPool2d):
            side = [layer.kernel_size] * 2
            return self.add("MaxPool", [source], output, kernel_shape=side, strides=side)
        raise TypeError(f"{name} is a {type(layer).__name__}, which has no node here yet")

    def _stored(self, layer: nn.Module, name: str) -> list[str]:
        from onnx import numpy_helper

        names = []
        for key, value in layer.named_parameters():
            array = value.detach().numpy()
            self.weights.append(numpy_helper.from_array(array, f"{name}.{key}"))
            names.append(f"{name}.{key}")
        return names


def _clean(model: bytes) -> bytes:
    """The graph without traces of its making, and every weight under one name."""
    import onnx

    graph = onnx.load_from_string(model)
    strip_traces(graph)
    _resolve_shared_weights(graph)
    onnx.checker.check_model(graph)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def strip_traces(graph: Any) -> None:
    """Removes dates, source lines and versions, which differ between equal exports."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _resolve_shared_weights(graph: Any) -> None:
    """The exporter stores equal weights once, behind nodes that hide them as weights."""
    stored = {tensor.name for tensor in graph.graph.initializer}
    aliases: dict[str, str] = {}
    kept = []
    for node in graph.graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:
            aliases[node.output[0]] = node.input[0]
            continue
        node.input[:] = [aliases.get(name, name) for name in node.input]
        kept.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
