"""Half precision on a CPU: an exported half file as a float32 model that rounds after every operation.

ONNX Runtime on a CPU does not do this by itself: it computes half nodes in float32 and keeps the result there, so
that overflow and rounding never happen. Here a GPU's arithmetic is written out: operands are half values, sums inside
Conv, Gemm and MatMul run in float32, and every result is rounded once, to the nearest half value, halves to even,
with subnormals, overflow to ±inf and NaN as IEEE 754 has them.

For +, −, ×, ÷ and √ that gives exactly the correctly rounded half result: float32 has more than twice the digits of
either half type, so that rounding twice changes nothing (Figueroa, "When is double rounding innocuous?", ACM SIGNUM
Newsletter 30(3), 1995).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require
from sagan_deploy.parity.graph import read_model

# Numbers of onnx.TensorProto.DataType, which is not imported for them.
_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16
_HALVES = frozenset({_FLOAT16, _BFLOAT16})

#: Results are among the operands (or their negatives, integer parts, ...), so half operands need no rounding.
#: A dequantised value, code times scale, enters the sum that reads it unrounded, as on a GPU.
#: (ONNX Runtime's MaxPool may pass over a NaN beside numbers; Relu, Max and Clip hand it on.)
EXACT = frozenset({
    "Abs", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "DequantizeLinear", "Expand",
    "Flatten",
    "Floor", "Gather", "GatherElements", "GatherND", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad",
    "ReduceMax", "ReduceMin", "Relu", "Reshape", "Resize:nearest", "Round", "Shape", "Sign", "Size", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
})  # fmt: skip
#: Tests, and codes, that are the same for a half value and for the float32 that equals it.
TESTS = frozenset({
    "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero",
    "QuantizeLinear",
})  # fmt: skip
#: Computed in float32 from half operands and rounded once.
ROUNDED = frozenset({
    "Add", "AveragePool", "Conv", "ConvTranspose", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Mish", "Mul",
    "PRelu", "Pow", "Reciprocal", "ReduceMean", "ReduceSum", "Resize:cubic", "Resize:linear", "Selu", "Sigmoid",
    "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh",
})  # fmt: skip


def emulated(onnx: bytes) -> bytes:
    """The float32 model that computes what a half file computes.

    Every half value keeps its name and becomes a float32 value of the same shape, rounded. Half inputs become float32
    inputs that are rounded first. Casts in the file keep their meaning: to float32 nothing happens, to half rounds.

    Args:
        onnx: an ONNX model in one piece with float16 or bfloat16 values; it is not changed.

    Returns:
        An ONNX model to be run with `session_options`.

    Raises:
        InputError: no valid ONNX model, nothing half in it, or a half operation whose rounding is not known here.
        MissingError: onnx is not installed.
    """
    typed = read_model(onnx)
    graph = typed.model.graph
    half = {name: kind for name, kind in typed.types.items() if kind in _HALVES}
    if not half:
        raise InputError("nothing in this ONNX model is float16 or bfloat16; run it as it is, without emulation.")
    for node in graph.node:
        unknown = [name for name in node.output if name and not typed.types.get(name)]
        if unknown:
            raise InputError(
                f"the type of {unknown[0]!r}, made by {node.op_type}, cannot be told from this ONNX model."
            )
    rewriting = _Rewriting(half, taken=set(typed.types))
    for value in graph.input:
        if value.name in half:
            rewriting.round_input(value.name)
    for node in graph.node:
        rewriting.add(node)
    del graph.node[:]
    graph.node.extend(rewriting.nodes)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name in half:
            value.type.tensor_type.elem_type = _FLOAT
    for tensor in graph.initializer:
        if tensor.data_type in _HALVES:
            _upcast(tensor)
    payload: bytes = typed.model.SerializeToString(deterministic=True)
    return payload


def session_options(threads: int | None = None) -> Any:
    """Options of an ``onnxruntime.InferenceSession`` under which every rounding of an emulated model happens.

    Raises:
        MissingError: onnxruntime is not installed.
    """
    ort = require("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and told there
    # Two Casts in a row look like waste to an optimiser. Without one, emulated fp16 takes 1.3 to 1.5 times as long as
    # the float32 file with all optimisations (sagan32 and sagan128, one thread).
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Float64 torch runs in between, and threads that wait by spinning would take its cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


@dataclass
class _Rewriting:
    """The nodes written so far. `half` holds the type of every half value of the file, `taken` all names in use."""

    half: dict[str, int]
    taken: set[str]
    nodes: list[Any] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

    def round_input(self, name: str) -> None:
        """Let every reader of a half input read the rounded input instead."""
        self.renamed[name] = self._fresh(f"{name}/rounded")
        self._round(name, self.renamed[name], self.half[name], ())

    def add(self, node: Any) -> None:
        """Write the float32 form of a node of the file.

        Raises:
            InputError: it has to do with half values in a way that is not known here.
        """
        node = _copy(node)
        results = [name for name in node.output if name in self.half]
        rounds = False
        if results or any(name in self.half for name in node.input):
            rounds = node.op_type == "Cast" or _is_rounded(node)
        for index, name in enumerate(node.input):
            node.input[index] = self.renamed.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type in _HALVES:
                _upcast(attribute.t)
        self.nodes.append(node)
        if node.op_type == "Cast":
            self._add_cast(node)
        elif rounds:
            for index, name in enumerate(node.output):
                if name in self.half:
                    node.output[index] = self._fresh(f"{name}/exact")
                    self._round(node.output[index], name, self.half[name], node.metadata_props)

    def _add_cast(self, node: Any) -> None:
        """Casts to half round straight from their source; casts from half to float32 have nothing left to do."""
        name = node.output[0]
        if name in self.half:
            node.output[0] = self._fresh(f"{name}/half")
            self._cast(node.output[0], name, _FLOAT, node.metadata_props)

    def _round(self, source: str, target: str, kind: int, metadata: Iterable[Any]) -> None:
        between = self._fresh(f"{target}/half")
        self._cast(source, between, kind, metadata)
        self._cast(between, target, _FLOAT, metadata)

    def _cast(self, source: str, target: str, kind: int, metadata: Iterable[Any]) -> None:
        from onnx import helper

        node = helper.make_node("Cast", [source], [target], to=kind)
        node.metadata_props.extend(metadata)
        self.nodes.append(node)

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _is_rounded(node: Any) -> bool:
    """Whether the results of a node with half values must be rounded."""
    name = node.op_type
    if name == "Resize":
        modes = [attribute.s.decode() for attribute in node.attribute if attribute.name == "mode"]
        name = f"Resize:{modes[0] if modes else 'nearest'}"
    if node.domain in ("", "ai.onnx"):
        if name in ROUNDED:
            return True
        if name in EXACT or name in TESTS:
            return False
    raise InputError(
        f"{node.op_type} (the node that makes {node.output[0]!r}) has half values and is not known to the emulation; "
        f"it knows Cast, {', '.join(sorted(EXACT | TESTS | ROUNDED))}."
    )


def _upcast(tensor: Any) -> None:
    """Make a half tensor float32, in place; every half value is a float32 value."""
    import numpy as np
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _copy(node: Any) -> Any:
    copied = type(node)()
    copied.CopyFrom(node)
    return copied
