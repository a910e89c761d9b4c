"""Multiplications and bytes of small graphs, counted by hand."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from exporters.cost import model_cost
from exporters.errors import InvalidOnnx


def one_node(op, shape, weight, out, kind=np.float32, **attributes):
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", number, ["n", *shape])],
        [helper.make_tensor_value_info("y", number, ["n", *out])],
        [numpy_helper.from_array(np.zeros(weight, kind), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("op", "shape", "weight", "out", "attributes", "expected"),
    [
        ("Conv", (4, 6, 6), (8, 4, 3, 3), (8, 6, 6), {"pads": [1, 1, 1, 1]}, 8 * 36 * 4 * 9),
        ("Conv", (4, 6, 6), (4, 1, 3, 3), (4, 6, 6), {"pads": [1, 1, 1, 1], "group": 4}, 4 * 36 * 9),
        ("ConvTranspose", (4, 6, 6), (4, 8, 2, 2), (8, 12, 12), {"strides": [2, 2]}, 8 * 144 * 4),
        ("MatMul", (5, 7), (7, 3), (5, 3), {}, 5 * 7 * 3),
        ("Gemm", (7,), (3, 7), (3,), {"transB": 1}, 7 * 3),
    ],
)
def test_multiplications(op, shape, weight, out, attributes, expected):
    for batch in (1, 3):
        cost = model_cost(one_node(op, shape, weight, out, **attributes), batch)
        assert cost.multiplications == batch * expected
        assert cost.weight_bytes == 4 * cost.weights == 4 * np.prod(weight)
        assert cost.io_bytes == 4 * batch * (np.prod(shape) + np.prod(out))


def test_half_precision_moves_half_the_bytes_and_large_weights_are_not_read():
    whole = model_cost(one_node("MatMul", (128,), (128, 128), (128,)))
    half = model_cost(one_node("MatMul", (128,), (128, 128), (128,), np.float16))
    assert (half.multiplications, half.weight_bytes) == (whole.multiplications, whole.weight_bytes // 2)


def test_what_is_no_model_is_refused():
    with pytest.raises(InvalidOnnx, match="12 bytes are no ONNX model"):
        model_cost(b"\xff" * 12)
