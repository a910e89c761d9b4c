"""Mutations of single operations inside a file, and of its weights as they are stored."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.parity.mutations.surgery import NotThere, attribute, constant, edit, half_of, node_of, tensor_of


def tanh_as_clip(model: onnx.ModelProto) -> None:
    node = node_of(model, "Tanh", last=True)
    kind = half_of(model, node.input[0])
    bounds = [constant(model, f"mutation.{n}", np.array(v, kind)) for n, v in (("low", -1), ("high", 1))]
    node.op_type = "Clip"
    node.input.extend(bounds)


def relu_leaks(model: onnx.ModelProto) -> None:
    node = node_of(model, "Relu")
    node.op_type = "LeakyRelu"
    attribute(node, "alpha", 0.01)


def other_slope(model: onnx.ModelProto) -> None:
    attribute(node_of(model, "LeakyRelu"), "alpha", 0.19)


def average_pool(model: onnx.ModelProto) -> None:
    node = node_of(model, "MaxPool")
    node.op_type = "AveragePool"
    attribute(node, "storage_order", None)


def bilinear(model: onnx.ModelProto) -> None:
    _resize(model, "nearest", "linear")


def nearest(model: onnx.ModelProto) -> None:
    _resize(model, "linear", "nearest")


def aligned_corners(model: onnx.ModelProto) -> None:
    """The other convention of bilinear interpolation."""
    node = _resize(model, "linear", "linear")
    attribute(node, "coordinate_transformation_mode", "align_corners")


def _resize(model: onnx.ModelProto, old: str, new: str) -> onnx.NodeProto:
    for node in model.graph.node:
        modes = [entry.s.decode() for entry in node.attribute if entry.name == "mode"]
        if node.op_type == "Resize" and modes == [old]:
            attribute(node, "mode", new)
            attribute(node, "coordinate_transformation_mode", "half_pixel" if new == "linear" else "asymmetric")
            attribute(node, "nearest_mode", "floor" if new == "nearest" else None)
            return node
    raise NotThere(f"Resize by {old}")


def padding_off_by_one(model: onnx.ModelProto) -> None:
    """The last convolution pads two pixels on one side and none on the other."""
    last = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")][-1]
    attribute(last, "pads", [0, 0, 2, 2])


def softmax_axis(model: onnx.ModelProto) -> None:
    attribute(node_of(model, "Softmax"), "axis", -2)


def softmax_in_half(model: onnx.ModelProto) -> None:
    """Without the two casts around it."""
    softmax = node_of(model, "Softmax")
    before = next((node for node in model.graph.node if softmax.input[0] in node.output), None)
    after = next((node for node in model.graph.node if softmax.output[0] in node.input), None)
    if before is None or before.op_type != "Cast" or after is None or after.op_type != "Cast":
        raise NotThere("casts around Softmax")
    softmax.input[0], softmax.output[0] = before.input[0], after.output[0]
    nodes = [node for node in model.graph.node if node not in (before, after)]
    _replace_nodes(model, nodes)


def missing_residual(model: onnx.ModelProto) -> None:
    """An attention block gives out what it found without what came in."""
    for node in model.graph.node:
        owner = next((entry.value for entry in node.metadata_props if entry.key == "module"), "")
        if node.op_type == "Add" and owner.endswith("attention"):
            node.op_type = "Identity"
            del node.input[0]
            return
    raise NotThere("the sum of an attention block")


def other_order(model: onnx.ModelProto) -> None:
    """Embedding and latent the other way round wherever they are joined."""
    joined = [node for node in model.graph.node if node.op_type == "Concat" and "embedding" in node.input[0]]
    if not joined:
        raise NotThere("Concat of an embedding")
    for node in joined:
        node.input[:] = [node.input[1], node.input[0]]


def swapped_phases(model: onnx.ModelProto) -> None:
    first, second = tensor_of(model, "kernels.1"), tensor_of(model, "kernels.2")
    a, b = numpy_helper.to_array(first).copy(), numpy_helper.to_array(second).copy()
    edit(first, lambda _: b)
    edit(second, lambda _: a)


def keys_as_queries(model: onnx.ModelProto) -> None:
    """Rows of the projection, queries and keys, change places: scores are transposed."""
    tensor = tensor_of(model, "attention.projection")

    def change(weight: np.ndarray) -> np.ndarray:
        keys = _key_channels(model, len(weight))
        weight[: 2 * keys] = np.roll(weight[: 2 * keys], keys, axis=0)
        return weight

    edit(tensor, change)


def _key_channels(model: onnx.ModelProto, total: int) -> int:
    split = next(node for node in model.graph.node if node.op_type == "Split" and "attention" in node.output[0])
    sizes = numpy_helper.to_array(tensor_of(model, split.input[1]))
    return int(min(sizes[0], total - sizes[0]))


def flipped_sign(model: onnx.ModelProto) -> None:
    """The largest weight of one convolution gets the other sign."""

    def change(kernel: np.ndarray) -> np.ndarray:
        index = np.unravel_index(np.abs(kernel.astype(np.float32)).argmax(), kernel.shape)
        kernel[index] = -kernel[index]
        return kernel

    edit(tensor_of(model, "conv2.kernel"), change)


def flipped_kernels(model: onnx.ModelProto) -> None:
    """True convolution instead of correlation: every 3x3 kernel turned by 180 degrees."""
    edit(tensor_of(model, "conv2.kernel"), lambda kernel: kernel[:, :, ::-1, ::-1])


def zeroed_channel(model: onnx.ModelProto) -> None:
    def change(kernel: np.ndarray) -> np.ndarray:
        kernel[0] = 0
        return kernel

    edit(tensor_of(model, "conv2.kernel"), change)


def bfloat16_weights(model: onnx.ModelProto) -> None:
    """Weights that went through bfloat16 on their way."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and len(tensor.dims) >= 2:
            edit(tensor, lambda values: values.astype(ml_dtypes.bfloat16).astype(values.dtype))


def half_weights(model: onnx.ModelProto) -> None:
    """float32 weights that went through float16 on their way."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            edit(tensor, lambda values: values.astype(np.float16).astype(values.dtype))


def declared(precision: str):
    """The file says that it has another precision than it has."""

    def mutate(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == "sagan_deploy.precision").value = precision

    return mutate


def other_checkpoint(model: onnx.ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "sagan_deploy.checkpoint_sha256").value = "ab" * 32


def half_inside(model: onnx.ModelProto) -> None:
    """One layer of a float32 file is rounded to half on its way out, as an autocast that went too far leaves it."""
    node = node_of(model, "Relu", "LeakyRelu")
    result = node.output[0]
    node.output[0] = "m.wide"
    position = list(model.graph.node).index(node)
    for offset, made in enumerate((("m.wide", "m.half", TensorProto.FLOAT16), ("m.half", result, TensorProto.FLOAT))):
        model.graph.node.insert(position + 1 + offset, helper.make_node("Cast", [made[0]], [made[1]], to=made[2]))


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
