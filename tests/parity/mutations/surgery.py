"""Small operations on an ONNX graph, from which mutations are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Mutate = Callable[[onnx.ModelProto], None]


class NotThere(Exception):
    """This file has nothing that the mutation could change."""


def node_of(model: onnx.ModelProto, *types: str, last: bool = False) -> onnx.NodeProto:
    """The first or last node of one of these types."""
    found = [node for node in model.graph.node if node.op_type in types]
    if not found:
        raise NotThere(" or ".join(types))
    return found[-1 if last else 0]


def tensor_of(model: onnx.ModelProto, suffix: str) -> onnx.TensorProto:
    """The first initialiser whose name ends so."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith(suffix):
            return tensor
    raise NotThere(suffix)


def edit(tensor: onnx.TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the values of an initialiser; type and name stay."""
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(array.copy()), array.dtype), tensor.name))


def attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute, or take it away with None."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    """Add an initialiser; its name."""
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def half_of(model: onnx.ModelProto, name: str) -> np.dtype:
    """The type of a value as NumPy has it."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        if value.name == name:
            return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    raise NotThere(name)


def replace_input(model: onnx.ModelProto, name: str, nodes: Sequence[onnx.NodeProto], new: str) -> None:
    """Put nodes in front of the graph whose result all readers of an input get in its place."""
    for node in model.graph.node:
        node.input[:] = [new if value == name else value for value in node.input]
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)


def behind_images(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Append nodes that make "images" of "right", which is what the file drew."""
    for node in model.graph.node:
        node.output[:] = ["right" if value == "images" else value for value in node.output]
    model.graph.node.extend(nodes)


def output_shape(model: onnx.ModelProto) -> list[int]:
    """The free batch as 0, and the sizes of "images"."""
    return [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]


def in_row(model: onnx.ModelProto, row: int, area: np.ndarray, wrong: str) -> list[onnx.NodeProto]:
    """Nodes that take "wrong" instead of "right" in one row of the batch, where the area (h, w) is true."""
    for name, value in (("zero", 0), ("one", 1), ("row", row)):
        constant(model, f"mutation.{name}", np.array(value))
    constant(model, "mutation.column", np.array([-1, 1, 1, 1]))
    constant(model, "mutation.area", area[None, None])
    return [
        helper.make_node("Shape", ["right"], ["m.n1"], start=0, end=1),
        helper.make_node("Squeeze", ["m.n1"], ["m.n"]),
        helper.make_node("Range", ["mutation.zero", "m.n", "mutation.one"], ["m.rows"]),
        helper.make_node("Equal", ["m.rows", "mutation.row"], ["m.is"]),
        helper.make_node("Reshape", ["m.is", "mutation.column"], ["m.column"]),
        helper.make_node("And", ["m.column", "mutation.area"], ["m.where"]),
        helper.make_node("Where", ["m.where", wrong, "right"], ["images"]),
    ]
