"""Counts of rounding layers and reductions, against counts by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sagan_deploy.errors import InputError
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.depth import Depth, rounding_layers
from sagan_deploy.parity.emulation import emulated
from tests.exports import export_once
from tests.generators import tiny_checkpoint


def model(nodes, given, weights=()):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_the_longest_path_counts_and_not_the_number_of_nodes():
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["x", "w1"], ["b"]),  # beside a, not behind it
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"]),
        helper.make_node("Add", ["a", "d"], ["y"]),
        helper.make_node("Conv", ["y", "w2"], ["dead end"]),
    ]
    payload = model(nodes, {"x": ["n", 5, 4, 4]}, {"w1": (7, 5, 1, 1), "w2": (7, 7, 1, 1)})
    assert rounding_layers(payload) == Depth(2, 7)


def test_what_depends_on_no_input_is_no_layer():
    nodes = [
        helper.make_node("MatMul", ["w", "w"], ["square"]),
        helper.make_node("MatMul", ["x", "square"], ["y"]),
    ]
    assert rounding_layers(model(nodes, {"x": ["n", 6]}, {"w": (6, 6)})) == Depth(1, 6)


@pytest.mark.parametrize(
    ("op", "x", "w", "attributes", "expected"),
    [
        ("Conv", ["n", 6, 8, 8], (4, 6, 3, 5), {}, 6 * 15),
        ("Conv", ["n", 6, 8, 8], (4, 3, 3, 5), {"group": 2}, 3 * 15),
        ("ConvTranspose", ["n", 6, 8, 8], (6, 4, 3, 3), {}, 6 * 9),
        ("ConvTranspose", ["n", 6, 8, 8], (6, 4, 4, 4), {"strides": [2, 2]}, 6 * 4),
        ("ConvTranspose", ["n", 6, 8, 8], (6, 4, 3, 3), {"strides": [2, 2], "group": 3}, 2 * 4),
        ("Gemm", ["n", 9], (9, 4), {}, 9),
        ("Gemm", ["n", 9], (4, 9), {"transB": 1}, 9),
        ("MatMul", ["n", 3, 9], (9, 4), {}, 9),
        ("MatMul", ["n", 9], (9,), {}, 9),
    ],
)
def test_products_per_output_element(op, x, w, attributes, expected):
    payload = model([helper.make_node(op, ["x", "w"], ["y"], **attributes)], {"x": x}, {"w": w})
    assert rounding_layers(payload) == Depth(1, expected)


def test_products_of_activations_count_where_their_size_is_known():
    node = helper.make_node("MatMul", ["x", "z"], ["y"])
    assert rounding_layers(model([node], {"x": ["n", 2, "k"], "z": ["n", 31, 2]})) == Depth(1, 31)
    assert rounding_layers(model([node], {"x": ["n", 2, 31], "z": ["n", "k", 2]})) == Depth(1, 31)
    assert rounding_layers(model([node], {"x": ["n", 2, "k"], "z": ["n", "k", 2]})) == Depth(1, 0)


def test_the_tiny_generator_by_hand():
    """Stem 1; stage 0 has two convolutions in a row, its attention adds projection, scores, mix and output; stage 1
    has two convolutions; the tail has one. The longest sum is the 3x3 convolution over 24 channels in stage 0.
    """
    payload = export_once(tiny_checkpoint()).payload
    expected = Depth(1 + 2 + 4 + 2 + 1, 24 * 9)
    assert rounding_layers(payload) == expected
    half = export_once(tiny_checkpoint(), InferenceOptions(precision="fp16", upsample_conv="transposed")).payload
    assert rounding_layers(half) == expected
    assert rounding_layers(emulated(half)) == expected


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(InputError, match="no ONNX model"):
        rounding_layers(b"\x01nothing")
