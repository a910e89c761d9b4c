"""How far outside [−1, 1] an engine's own tanh may put a pixel."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from sagan_deploy.parity.gates import _LARGEST


def test_onnx_runtimes_tanh_stays_inside_the_allowed_range():
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "tanh", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = float(session.run(None, {"x": np.linspace(-30, 30, 2_000_001).astype(np.float32)})[0].max())
    assert largest <= _LARGEST
