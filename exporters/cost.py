"""What an ONNX model has to do at least: multiplications, and bytes that no cache can spare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from exporters.errors import InvalidOnnx

_SMALL = 4096  # bytes; shapes and axes, which shape inference reads, are smaller


@dataclass(frozen=True)
class Cost:
    """For one batch.

    `multiplications` are those of convolutions and matrix products, each with its addition; `weight_bytes` and
    `io_bytes` are what must be read and written even if all between stays in registers. `weights` counts numbers.
    """

    multiplications: int
    weights: int
    weight_bytes: int
    io_bytes: int


def model_cost(onnx: bytes, batch: int = 1) -> Cost:
    """Count the work of a model whose free axes are all the batch.

    Raises:
        InvalidOnnx: no ONNX model, or shapes that cannot be told.
    """
    import onnx as package
    from google.protobuf.message import DecodeError

    try:
        model = package.load_from_string(onnx)
    except DecodeError as error:
        raise InvalidOnnx(f"these {len(onnx)} bytes are no ONNX model ({error}).") from error
    graph = model.graph
    sizes = [(math.prod(tensor.dims), _bits(tensor.data_type)) for tensor in graph.initializer]
    for tensor in graph.initializer:
        if len(tensor.raw_data) > _SMALL:
            tensor.ClearField("raw_data")  # its shape is enough, and copies of it are slow
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value") and value in graph.input:
                dim.dim_value = batch
            elif not dim.HasField("dim_value"):
                dim.Clear()
    del graph.value_info[:]
    inferred = package.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    shapes |= {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
    io = sum(
        math.prod(shapes[value.name]) * _bits(value.type.tensor_type.elem_type) // 8
        for value in (*inferred.input, *inferred.output)
    )
    return Cost(
        multiplications=sum(_multiplications(node, shapes) for node in graph.node),
        weights=sum(count for count, _ in sizes),
        weight_bytes=sum(count * bits for count, bits in sizes) // 8,
        io_bytes=io,
    )


def _multiplications(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    left, right, out = (shapes.get(name, ()) for name in (*node.input[:2], node.output[0]))
    if not (left and right and out) or 0 in (*left, *right, *out):
        raise InvalidOnnx(f"the shapes of {node.name!r} ({node.op_type}) cannot be told: {left}, {right}, {out}.")
    if node.op_type == "Conv":  # weights (out, in / groups, *kernel)
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, *kernel); every input meets every tap
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "MatMul":
        return math.prod(out) * left[-1]
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(out) * left[0 if transposed else 1]


def _bits(kind: int) -> int:
    from onnx import TensorProto, helper

    if kind in (TensorProto.FLOAT8E4M3FN, TensorProto.INT8, TensorProto.UINT8):
        return 8
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) * 8
