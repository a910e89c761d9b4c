"""Mixed types are refused with the names of both sides."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import NotExportable
from exporters.graph import check_dtypes


def model(weight=np.float16, scales=np.float32):
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], name="up/Resize", mode="nearest"),
        helper.make_node("Conv", ["big", "w"], ["y"], name="conv/Conv"),
    ]
    tensors = {"w": np.ones((4, 3, 1, 1), weight), "scales": np.array([1, 1, 2, 2], scales)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 4, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
        value_info=[helper.make_tensor_value_info("big", TensorProto.FLOAT16, ["n", 3, 8, 8])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_float_weight_in_a_half_convolution():
    check_dtypes(ir.from_proto(model()))
    with pytest.raises(NotExportable, match=r"'conv/Conv' \(Conv\) reads two types: big FLOAT16, w FLOAT"):
        check_dtypes(ir.from_proto(model(weight=np.float32)))


def test_half_scales_of_a_resize():
    with pytest.raises(NotExportable, match=r"'up/Resize' \(Resize\) has FLOAT16 scales"):
        check_dtypes(ir.from_proto(model(scales=np.float16)))
