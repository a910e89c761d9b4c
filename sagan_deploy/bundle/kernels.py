"""The kernels of a plan, as its builder reported them, in the words of the generator: which module each computes.

A plan cannot be asked for this without a GPU, so the report is kept when the plan is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

ROOT = "generator"  # the group of what belongs to no part of the generator: casts of its inputs, splits of the latents

# What the compiler adds to a name: "_myl0_18" numbers kernels, "_U16" symbols; "__myl_" marks those that it wrote.
_NUMBERS = re.compile(r"(_U\d+)?_myl\d+_\d+$")
_GRAPH = re.compile(r"_myl(\d{1,4})_\d+$")
_WRITTEN = re.compile(r"^__myl_")
_LONGEST_NAME = 120
_STAGE = re.compile(r"stages\.(\d{1,4})\.\w+")
_COPY = re.compile(r"_\d+$")
# Operators that move or convert numbers: not worth a word beside one that computes.
_MOVES = (
    *("Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape"),
    *("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)


@dataclass(frozen=True)
class Kernel:
    """One kernel of one run.

    `reads` lists the types of its inputs and weights (``("float16",)``); scalars and biases, which stay float32 in a
    half-precision plan, are left out. `nodes` names the ONNX nodes that it computes (``stages.0.attention/MatMul``).
    `role` is ``"attention"`` for a fused attention, ``"product"`` for a convolution or another matrix product.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    nodes: tuple[str, ...]
    role: Literal["attention", "product", "other"]

    @property
    def fused_attention(self) -> bool:
        """Whether it computes a whole attention: both products and the softmax."""
        return self.role == "attention"

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules of its nodes, the one it is grouped with first."""
        paths = [_module(node) for node in self.nodes]
        # A fused kernel is called after its main node; without one the module with the most nodes stands for it.
        named = _module(self.name) if self.name in self.nodes else None
        return tuple(sorted(dict.fromkeys(paths), key=lambda path: (path != named, -paths.count(path))))

    @property
    def operators(self) -> tuple[str, ...]:
        """The ONNX operators that it computes, each once; those that only move numbers when there is no other."""
        found = dict.fromkeys(_COPY.sub("", node.rpartition("/")[2]) for node in self.nodes)
        return tuple(name for name in found if name not in _MOVES) or tuple(found)


class _Operand(Protocol):
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class _Layer(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def inputs(self) -> Sequence[_Operand]: ...
    @property
    def constants(self) -> Sequence[_Operand]: ...
    @property
    def nodes(self) -> tuple[str, ...]: ...
    @property
    def is_fused_attention(self) -> bool: ...
    @property
    def multiplies(self) -> bool: ...


class _LayerReport(Protocol):
    @property
    def layers(self) -> Sequence[_Layer]: ...
    @property
    def profiles(self) -> int: ...


def kernels_of(report: _LayerReport) -> tuple[Kernel, ...]:
    """The kernels of a builder's report (`exporters.tensorrt.layers.LayerReport`) in its order.

    They are those of the first profile, when the plan has several and their kernels can be told apart. Steps that
    compute nothing, such as waiting for another stream, are left out. Equal builds give equal kernels, although the
    compiler numbers its names anew each time.
    """
    return tuple(_kernel(layer) for layer in _first_profile(report) if layer.nodes or layer.inputs)


def grouped(kernels: Iterable[Kernel]) -> dict[str, tuple[Kernel, ...]]:
    """Kernels by part of the generator, in the order in which images flow: stem, stages, tail.

    A stage's block and attention are parts of their own (``stages.0.block``, ``stages.0.attention``). Parts of another
    origin's network keep the order of the plan.
    """
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(part_of(kernel.modules[0] if kernel.modules else ""), []).append(kernel)
    order = list(groups)
    return {
        part: tuple(groups[part]) for part in sorted(groups, key=lambda part: (*_position(part), order.index(part)))
    }


def types_of(kernels: Iterable[Kernel]) -> tuple[str, ...]:
    """All types that some kernels read."""
    return tuple(sorted({dtype for kernel in kernels for dtype in kernel.reads}))


def _first_profile(report: _LayerReport) -> Sequence[_Layer]:
    # Each profile is compiled as a graph of its own, whose number stands in the kernels' names.
    numbers = [int(found[1]) if (found := _GRAPH.search(layer.name)) else -1 for layer in report.layers]
    if report.profiles == 1 or len(set(numbers)) != report.profiles or -1 in numbers:
        return report.layers
    return [layer for layer, number in zip(report.layers, numbers, strict=True) if number == min(numbers)]


def _kernel(layer: _Layer) -> Kernel:
    weights = (operand for operand in layer.constants if sum(size > 1 for size in operand.shape) > 1)
    return Kernel(
        name=_WRITTEN.sub("", _NUMBERS.sub("", layer.name))[:_LONGEST_NAME],
        kind=layer.kind,
        reads=tuple(sorted({operand.dtype for operand in (*layer.inputs, *weights)})),
        nodes=layer.nodes,
        role="attention" if layer.is_fused_attention else "product" if layer.multiplies else "other",
    )


def _module(node: str) -> str:
    return node.rpartition("/")[0]


def part_of(module: str) -> str:
    """The part of the generator that a module path belongs to: a stage's block or attention, stem, tail, or `ROOT`."""
    stage = _STAGE.match(module)
    return stage[0] if stage else module.partition(".")[0] or ROOT


def _position(part: str) -> tuple[int, int]:
    stage = _STAGE.match(part)
    if stage:
        return 3, int(stage[1])
    return {ROOT: 0, "embedding": 1, "stem": 2, "tail": 5}.get(part, 4), 0
