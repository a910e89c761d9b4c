"""ONNX graphs as parity reads them: parsed once, with the type and shape of every value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require

_SMALL = 1024  # elements; a shape or a list of axes is never longer


@dataclass(frozen=True)
class TypedModel:
    """A parsed model.

    `types` holds the element type (a number of ``onnx.TensorProto.DataType``) of every value, 0 where it cannot be
    told; `shapes` the known shapes, with None for a free dimension.
    """

    model: Any
    types: dict[str, int]
    shapes: dict[str, tuple[int | None, ...]]


def parse_model(onnx: bytes) -> Any:
    """The bytes as an ``onnx.ModelProto``.

    Raises:
        InputError: they are no ONNX model.
        MissingError: onnx is not installed.
    """
    require("onnx", "export")
    from google.protobuf.message import DecodeError
    from onnx import load_from_string

    try:
        return load_from_string(onnx)
    except DecodeError as error:
        raise InputError(f"these {len(onnx)} bytes are no ONNX model ({error}). Export it again.") from error


def read_model(onnx: bytes) -> TypedModel:
    """Parse a model and find the types and shapes of its values.

    Raises:
        InputError: no ONNX model, one that contradicts itself, or one with parts that are not written out in it.
        MissingError: onnx is not installed.
    """
    model = parse_model(onnx)
    from onnx import shape_inference

    graph = model.graph
    nested = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    if model.functions or graph.sparse_initializer or nested:
        raise InputError("parity reads plain ONNX graphs: no branches, loops, functions or sparse weights.")
    if any(tensor.external_data for tensor in graph.initializer):
        raise InputError("this ONNX model keeps its weights in another file; export it in one piece.")
    try:
        inferred = shape_inference.infer_shapes(_without_weights(model), check_type=True, strict_mode=True).graph
    except (shape_inference.InferenceError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(f"this ONNX model contradicts itself ({reason}). Export it again.") from error
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    shapes: dict[str, tuple[int | None, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        tensor_type = value.type.tensor_type
        types[value.name] = tensor_type.elem_type
        if tensor_type.HasField("shape"):
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim)
    return TypedModel(model, types, shapes)


def _without_weights(model: Any) -> Any:
    """The same model with its weights as inputs, so that inference does not copy hundreds of megabytes."""
    from onnx import TensorProto, helper

    light = type(model)(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(model.graph, part))
    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.INT64, TensorProto.FLOAT) and math.prod(tensor.dims) <= _SMALL:
            light.graph.initializer.append(tensor)  # perhaps a shape or the scales of a Resize, which inference reads
        elif tensor.name not in known:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light
