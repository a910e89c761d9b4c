"""How deep a network is in roundings: the two counts from which error budgets are derived."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sagan_deploy.parity.graph import TypedModel, read_model

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Depth:
    """L = `layers` and K = `longest_reduction` of the error estimates u·√L and, without wide sums, u·√(L·K).

    Higham & Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019.
    """

    layers: int
    longest_reduction: int


_NONE = Depth(0, 0)


def rounding_layers(onnx: bytes) -> Depth:
    """Count what rounds in an ONNX model.

    `layers` is the largest number of Conv, ConvTranspose, Gemm and MatMul nodes on any path from an input to an
    output; `longest_reduction` the largest number of products that one output element of such a node sums up. A
    product of two activations counts where the summed axis has a known size.

    Raises:
        InputError: no valid ONNX model.
        MissingError: onnx is not installed.
    """
    typed = read_model(onnx)
    depths = _depths(typed)
    return _deepest(depths.get(value.name, _NONE) for value in typed.model.graph.output)


def stage_depths(onnx: bytes, stages: Mapping[str, str]) -> dict[str, Depth]:
    """The same counts up to the output of every stage, given as module path → name of the value that holds it.

    Errors are those of `rounding_layers`.
    """
    depths = _depths(read_model(onnx))
    return {path: depths.get(value, _NONE) for path, value in stages.items()}


def _depths(typed: TypedModel) -> dict[str, Depth]:
    """The counts of every value that depends on an input."""
    graph = typed.model.graph
    weights = {tensor.name for tensor in graph.initializer}
    depths = {value.name: _NONE for value in graph.input if value.name not in weights}
    for node in graph.node:  # ONNX lists nodes in the order of computation
        reached = [depths[name] for name in node.input if name in depths]
        if not reached:
            continue
        depth = _deepest(reached)
        if node.op_type in LAYERS:
            depth = Depth(depth.layers + 1, max(depth.longest_reduction, _reduction(node, typed)))
        depths.update({name: depth for name in node.output if name})
    return depths


def _deepest(depths: Iterable[Depth]) -> Depth:
    found = [_NONE, *depths]
    return Depth(max(depth.layers for depth in found), max(depth.longest_reduction for depth in found))


def _reduction(node: Any, typed: TypedModel) -> int:
    """Products summed per output element; 0 where the shapes do not tell."""
    left, right = (typed.shapes.get(name) for name in node.input[:2])
    sizes: tuple[int | None, ...] = (None,)
    if node.op_type == "MatMul":
        candidates = (left[-1] if left else None, right[-min(2, len(right))] if right else None)
        sizes = (next((size for size in candidates if size is not None), None),)
    elif right and node.op_type == "Gemm":
        sizes = (right[1] if _attribute(node, "transB", 0) else right[0],)
    elif right and node.op_type == "Conv":
        sizes = right[1:]  # weights are (out, in / groups, *kernel)
    elif right:
        sizes = _transposed_reduction(node, right)
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else 0


def _transposed_reduction(node: Any, weight: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Weights are (in, out / groups, *kernel); with stride s one output element meets every s-th tap."""
    channels, kernel = weight[0], weight[2:]
    strides = _attribute(node, "strides", [1] * len(kernel))
    taps = (None if k is None else -(-k // s) for k, s in zip(kernel, strides, strict=True))
    return (None if channels is None else channels // _attribute(node, "group", 1), *taps)


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
