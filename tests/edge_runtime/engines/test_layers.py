"""Reading an engine's layers: both lists, several releases, and what is not told."""

from __future__ import annotations

import json

import pytest

from edge_runtime.engines.layers import (
    EngineLayer,
    Precision,
    convolution_table,
    in_int8,
    layers_from_json,
    layers_from_log,
)

# In the form of releases 8.6 and 10: type and layout in one phrase, weights described.
OLD = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to a/Conv",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide Int8 format"}],
        },
        {
            "Name": "a/Conv + a/Relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel Int8 format"}],
            "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP16 format"}],
            "Weights": {"Type": "Int8", "Count": 432},
            "TacticName": "sm80_i8i8",
        },
        {
            "Name": "b/Conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "z", "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "o", "Format/Datatype": "Row major linear FP32"}],
            "Weights": {"Type": "Half", "Count": 432},
        },
    ]
}
# In the form of release 11 and TensorRT-RTX: types alone, constants listed, nodes named.
NEW = {
    "Layers": [
        {
            "Name": "a/Conv_myl0_2",
            "LayerType": "correlation",
            "Inputs": [{"Name": "q", "Dimensions": [1, 4, 8, 8], "Datatype": "Int8"}],
            "Constants": [
                {"Name": "s", "Dimensions": [1, 8, 1, 1], "Datatype": "Float"},
                {"Name": "t", "Dimensions": [2, 2], "Datatype": "Half"},
                {"Name": "w", "Dimensions": [8, 4, 3, 3], "Datatype": "Int8"},
            ],
            "Outputs": [{"Name": "o", "Dimensions": [1, 8, 8, 8], "Datatype": "Float"}],
            "Metadata": "[ONNX Layer: a/Conv][ONNX Layer: a/DQ]",
        },
        {
            "Name": "kgen_3",
            "LayerType": "kgen",
            "Inputs": [{"Name": "o", "Dimensions": [1, 8, 8, 8], "Datatype": "Float"}],
            "Outputs": [{"Name": "p", "Dimensions": [1, 8, 8, 8], "Datatype": "Int8"}],
            "Metadata": "[ONNX Layer: a/Conv][ONNX Layer: a/Relu]",
        },
    ]
}
LOG = """Layers:
Name: wait, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
EventId: 1, Metadata:\x20
Name: a/Conv_2, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [-1,4,8,8], Strides: \
[1,2,3,4], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: s, \
Dimensions: [1,8,1,1], Datatype: Float, Format: x }, { Name: t, Dimensions: [2,2], Datatype: \
Half, Format: x }, { Name: w, Dimensions: [8,4,3,3], Datatype: \
Int8, Format: x }], Outputs: [ { Name: o, Dimensions: [-1,8,8,8], Datatype: Float, Format: x }], \
TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: a/Conv][ONNX Layer: a/DQ]

I/O Tensors:
 Name: q, IOMode: Input, DataType: Float
"""
ASKED: list[tuple[str, Precision]] = [("a/Conv", "int8"), ("b/Conv", "float32")]


def test_old_releases_are_read() -> None:
    layers = layers_from_json(json.dumps(OLD))
    assert [layer.precision for layer in layers] == ["float32", "int8", "float16"]
    table = convolution_table(ASKED, layers)
    assert [(row.name, row.asked, row.runs) for row in table] == [
        ("a/Conv", "int8", "int8"),
        ("b/Conv", "float32", "float16"),
    ]
    assert in_int8(table) == "1 of 2 convolutions in int8, 1 in float16"


def test_new_releases_are_read_and_glue_is_no_convolution() -> None:
    layers = layers_from_json(json.dumps(NEW))
    assert layers[0].weights == ("int8", "float16")
    assert layers[0].onnx == ("a/Conv", "a/DQ")
    assert not layers[1].multiplies
    table = convolution_table(ASKED, layers)
    assert [(row.runs, row.kind) for row in table] == [("int8", "correlation"), ("not told", "")]
    assert in_int8(table) == "1 of 2 convolutions in int8, 1 not told"


def test_the_builders_log_tells_the_same() -> None:
    wait, convolution = layers_from_log(LOG)
    assert wait.kind == "signal"
    assert wait.precision == "not told"
    expected = layers_from_json(json.dumps(NEW))[0]
    assert convolution.model_copy(update={"name": expected.name, "tactic": ""}) == expected
    assert layers_from_log("Engine generation completed in 2 seconds") == ()


def test_an_engine_built_without_details_tells_names_only() -> None:
    layers = layers_from_json('{"Layers": ["a/Conv + a/Relu", "b/Conv"]}')
    assert [layer.name for layer in layers] == ["a/Conv + a/Relu", "b/Conv"]
    table = convolution_table(ASKED, layers)
    assert in_int8(table) == "types of its 2 convolutions not told"


def test_int8_input_with_float_weights_is_not_called_int8() -> None:
    layer = EngineLayer(name="x", kind="gemm", inputs=("int8",), weights=("float32",))
    assert layer.precision == "mixed"
    assert EngineLayer(name="x", kind="conv").precision == "not told"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 3}'])
def test_an_answer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layers_from_json(text)
