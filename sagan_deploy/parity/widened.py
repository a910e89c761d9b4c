"""An emulated half file with some of its roundings undone: what it would compute if those parts were float32.

`emulation` writes every rounding as a Cast to the half type. Where such a Cast leads to float32 instead, the rounding
is gone and everything else stays. Three things are built on that: the ranges of values before they overflow, the cost
of each part, and the search for the parts that must be float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.kernels import part_of
from sagan_deploy.parity.graph import parse_model

MODULE_KEY = "module"  # node metadata of the exporter: the module path
# Numbers of onnx.TensorProto.DataType.
_FLOAT = 1
_HALVES = (10, 16)


def module_of(node: Any) -> str:
    """The module path that computes a node, "" for none."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")


def parts_of(onnx: bytes) -> tuple[str, ...]:
    """The parts of the generator that compute something in a file, in order: stem, stages.0.block, ..., tail."""
    found = dict.fromkeys(part_of(module_of(node)) for node in parse_model(onnx).graph.node)
    return tuple(part for part in found if part.startswith(("stem", "stages", "tail")))


def widened(
    emulated: bytes, parts: Collection[str] | None = None, weights: Mapping[str, NDArray[Any]] | None = None
) -> bytes:
    """The emulated model with parts of it in float32.

    What a widened part hands on to one that is not is rounded at the border, as a Cast between them would.

    Args:
        emulated: a result of `emulation.emulated`.
        parts: names as in `parts_of`; None undoes every rounding but that of the inputs.
        weights: float32 (or wider) weights by name, for those of the widened parts; names or shapes that the model
            does not have are left as they are.
    """
    model = parse_model(emulated)
    graph = model.graph
    nodes = [(node, parts is None or part_of(module_of(node)) in parts) for node in graph.node]
    inputs = {value.name for value in graph.input}
    casts = [(node, inside) for node, inside in nodes if node.op_type == "Cast"]
    after = {node.input[0]: node.output[0] for node, _ in casts}  # half → the float32 behind it
    read_outside = {name for node, inside in nodes if not inside for name in node.input}
    for node, inside in casts:
        handed_on = {node.output[0], after.get(node.output[0])}
        rounds = _target(node).i in _HALVES and node.input[0] not in inputs
        if inside and rounds and not handed_on & read_outside:
            _target(node).i = _FLOAT
    for tensor in graph.initializer:
        values = (weights or {}).get(tensor.name)
        wide = parts is None or part_of(tensor.name) in parts
        if wide and values is not None and (tensor.data_type, values.shape) == (_FLOAT, tuple(tensor.dims)):
            _replace(tensor, values)
    payload: bytes = model.SerializeToString()
    return payload


def _target(cast: Any) -> Any:
    return next(attribute for attribute in cast.attribute if attribute.name == "to")


def _replace(tensor: Any, values: NDArray[Any]) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))
