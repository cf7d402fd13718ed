"""Which layers of an engine run in int8: what the library says, as a table.

Owns reading the two lists of layers there are: the engine inspector's JSON, which needs
the GPU, and the list in the builder's log, which TensorRT-RTX writes on any machine. Does
not own asking for either (see ``builder``). What a list does not tell is told as such.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["int8", "float16", "float32", "bfloat16", "float8", "mixed", "not told"]

# Layers that multiply with weights, by any library's or release's word for them.
_MULTIPLIES = re.compile(r"conv|correlation|gemm|fusion|matrix|fullyconnected", re.IGNORECASE)
_ONNX_NAME = re.compile(r"\[ONNX Layer: (.*?)\]")
# One layer in the builder's log. The lists hold brackets of their own, so each ends where
# the next field begins.
_LINE = re.compile(
    r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>.*?), Inputs: \[(?P<Inputs>.*?)\]"
    r"(?:, Constants: \[(?P<Constants>.*?)\])?, Outputs: \[(?P<Outputs>.*?)\]"
    r", TacticName: (?P<TacticName>.*?), StreamId: .*?Metadata: (?P<Metadata>.*)"
)
# Order matters: "FP16" and "Half" both stand in some releases' longer phrases.
_TYPES: tuple[tuple[str, Precision], ...] = (
    (r"\bint8\b", "int8"),
    (r"\b(bf16|bfloat16)\b", "bfloat16"),
    (r"\b(fp8|float8)\b", "float8"),
    (r"\b(half|fp16|float16)\b", "float16"),
    (r"\b(float|fp32|float32)\b", "float32"),
)


class EngineLayer(BaseModel):
    """One layer of an engine, as the library describes it.

    Attributes:
        name: the library's.
        kind: the library's word for what it does; empty where it tells names only.
        inputs: types of its input tensors.
        weights: types of its constants of two or more dimensions, the largest first.
        outputs: types of its output tensors.
        onnx: names of the ONNX nodes it came from.
        tactic: the library's name of the kernel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str = ""
    inputs: tuple[Precision, ...] = ()
    weights: tuple[Precision, ...] = ()
    outputs: tuple[Precision, ...] = ()
    onnx: tuple[str, ...] = ()
    tactic: str = ""

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or a matrix product, rather than what lies between."""
        return bool(_MULTIPLIES.search(self.kind))

    @property
    def precision(self) -> Precision:
        """The type it multiplies in: its first input's, when its weights have the same."""
        told = [*self.inputs[:1], *self.weights[:1]]
        if not told or "not told" in told:
            return "not told"
        return told[0] if len(set(told)) == 1 else "mixed"


class ConvolutionRow(BaseModel):
    """One convolution of the model: what its graph asks for, and what the engine does.

    Attributes:
        name: the ONNX node's.
        asked: int8 when both its input and its weights come out of Q/DQ pairs.
        runs: the type in the engine.
        kind: the engine layer's kind, or empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    asked: Precision
    runs: Precision
    kind: str = ""


def layers_from_json(text: str) -> tuple[EngineLayer, ...]:
    """Reads the engine inspector's JSON, of any release.

    Releases differ: the type stands alone (``Datatype``) or in a phrase with the layout
    (``Format/Datatype``); weights are among the ``Constants`` or described in ``Weights``;
    an engine built without details lists bare names.

    Raises:
        ValueError: no JSON, or without a list of layers.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("Layers"), list):
        raise ValueError("no list of layers in it")  # noqa: TRY004 - a value, not a call
    return tuple(_layer(entry) for entry in document["Layers"])


def layers_from_log(text: str) -> tuple[EngineLayer, ...]:
    """Reads the list of layers in the builder's log, one line for each.

    Returns:
        The layers; empty when there is no such list.
    """
    return tuple(_layer(_fields(line)) for line in text.splitlines() if line.startswith("Name: "))


def convolution_table(
    asked: Sequence[tuple[str, Precision]], layers: Iterable[EngineLayer]
) -> tuple[ConvolutionRow, ...]:
    """What became of each convolution of the model.

    Args:
        asked: names of the convolutions, in the model's order, and what the graph asks for.
        layers: the engine's.
    """
    by_name: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        if layer.multiplies:
            # A release without metadata names a layer after the nodes it is made of.
            for name in layer.onnx or layer.name.split(" + "):
                by_name.setdefault(name, []).append(layer)
    return tuple(_row(name, wanted, by_name.get(name, [])) for name, wanted in asked)


def in_int8(table: Sequence[ConvolutionRow]) -> str:
    """One clause, such as ``81 of 88 convolutions in int8, 7 in float32``."""
    counts = Counter(row.runs for row in table)
    if not table:
        return "no convolutions"
    if set(counts) == {"not told"}:
        return f"types of its {len(table)} convolutions not told"
    rest = ", ".join(f"{n} {_said(kind)}" for kind, n in sorted(counts.items()) if kind != "int8")
    clause = f"{counts['int8']} of {len(table)} convolutions in int8"
    return f"{clause}, {rest}" if rest else clause


def _said(kind: str) -> str:
    return kind if kind == "not told" else f"in {kind}"


def _row(name: str, asked: Precision, layers: list[EngineLayer]) -> ConvolutionRow:
    precisions = {layer.precision for layer in layers}
    runs: Precision = "not told"
    if len(precisions) == 1:
        (runs,) = precisions
    elif precisions:
        runs = "mixed"
    kinds = dict.fromkeys(layer.kind for layer in layers)
    return ConvolutionRow(name=name, asked=asked, runs=runs, kind=" + ".join(kinds))


def _layer(entry: Any) -> EngineLayer:
    if not isinstance(entry, dict):
        return EngineLayer(name=str(entry))
    constants = [each for each in entry.get("Constants", ()) if _size(each) > 0]
    weights = [_type(each) for each in sorted(constants, key=_size, reverse=True)]
    described = entry.get("Weights")
    if not weights and isinstance(described, dict):
        weights = [_named_type(str(described.get("Type", "")))]
    return EngineLayer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", "")),
        inputs=tuple(_type(each) for each in entry.get("Inputs", ())),
        weights=tuple(weights),
        outputs=tuple(_type(each) for each in entry.get("Outputs", ())),
        onnx=tuple(_ONNX_NAME.findall(str(entry.get("Metadata", "")))),
        tactic=str(entry.get("TacticName", "")),
    )


def _size(tensor: Any) -> int:
    """Values of a constant of two or more dimensions; 0 for scales, biases and scalars."""
    dimensions = tensor.get("Dimensions", ()) if isinstance(tensor, dict) else ()
    size = 1
    for extent in dimensions:
        size *= max(int(extent), 1)
    # A bias or a row of scales has one long side only.
    return size if sum(int(extent) > 1 for extent in dimensions) > 1 else 0


def _type(tensor: Any) -> Precision:
    if not isinstance(tensor, dict):
        return "not told"
    return _named_type(str(tensor.get("Datatype") or tensor.get("Format/Datatype") or ""))


def _named_type(phrase: str) -> Precision:
    for pattern, precision in _TYPES:
        if re.search(pattern, phrase, re.IGNORECASE):
            return precision
    return "not told"


def _fields(line: str) -> dict[str, Any]:
    """One line of the log, in the shape of the JSON's entries."""
    found = _LINE.match(line)
    if found is None:
        return {"Name": line.removeprefix("Name: ").partition(", ")[0]}
    entry: dict[str, Any] = {name: text or "" for name, text in found.groupdict().items()}
    for part in ("Inputs", "Constants", "Outputs"):
        entry[part] = [_tensor(each) for each in entry[part].split("{ Name: ")[1:]]
    return entry


def _tensor(text: str) -> dict[str, Any]:
    dimensions = re.search(r"Dimensions: \[([-\d,]*)\]", text)
    datatype = re.search(r"Datatype: ([\w]+)", text)
    return {
        "Dimensions": [int(each) for each in dimensions[1].split(",") if each]
        if dimensions
        else [],
        "Datatype": datatype[1] if datatype else "",
    }
