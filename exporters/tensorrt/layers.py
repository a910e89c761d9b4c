"""The builder's own account of a plan: which kernels it has, in which types they read, which ONNX nodes they cover.

TensorRT writes it as one long message when the profiling verbosity is DETAILED. It describes the plan as built ahead
of time and needs no GPU to read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from exporters.errors import FusionMismatch, PrecisionMismatch
from exporters.specs import Precision, ShapeRange

BEGIN = "Layers:"
_DTYPES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Int64": "int64",
    "Int32": "int32",
    "Int8": "int8",
    "UInt8": "uint8",
    "Bool": "bool",
    "FP8": "float8",
}
DTYPE_OF: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

_FIELD = re.compile(r"(?:^|, )(Name|LayerType|Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ?")
_OPERAND = re.compile(r"\{ Name: (?P<name>.*?), .*?Dimensions: \[(?P<shape>[-\d,]*)\].*?Datatype: (?P<dtype>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s]|\[|$)")
_IO = re.compile(
    r"\s*Name: (?P<name>.*?), IOMode: (?P<mode>\w+), DataType: (?P<dtype>\w+), Dimensions: \[(?P<shape>[-\d,]*)\]"
)
_RANGE = re.compile(r"MinShape: \[([\d,]*)\], OptShape: \[([\d,]*)\], MaxShape: \[([\d,]*)\]")

# Kernels that multiply matrices: by the type, or by the name where the compiler generated the kernel. Such names are
# one word that begins with "_"; other kernels are named after an ONNX node, which may be called anything.
_COMPUTE_KIND = re.compile(r"correlation|conv|gemm|matmul|matrix", re.IGNORECASE)
_COMPUTE_NAME = re.compile(r"_\w*(gemm|mha|Fc)")
_FUSED_ATTENTION = re.compile(r"_\w*mha")


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or writes; free dimensions are −1."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One kernel, with the names of the ONNX nodes that it computes."""

    name: str
    kind: str
    inputs: tuple[Operand, ...]
    constants: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    tactic: str
    nodes: tuple[str, ...]

    @property
    def is_fused_attention(self) -> bool:
        """Whether it computes both products and the softmax of an attention block in one kernel."""
        return bool(_FUSED_ATTENTION.match(self.name))

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return bool(_COMPUTE_KIND.search(self.kind) or _COMPUTE_NAME.match(self.name))


@dataclass(frozen=True)
class IoTensor:
    """An input or output of the plan; `profiles` has the shapes of each profile (inputs only)."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[ShapeRange, ...]


@dataclass(frozen=True)
class LayerReport:
    """All kernels of a plan in their order, once per profile, and its inputs and outputs."""

    layers: tuple[Layer, ...]
    io: tuple[IoTensor, ...]

    @classmethod
    def parse(cls, messages: Iterable[str]) -> LayerReport:
        """Find and read the report among the messages of a build; it is empty when there is none."""
        text = "\n".join(message for message in messages if message.startswith(BEGIN))
        head, _, tail = text.partition("I/O Tensors:")
        layers = tuple(_layer(line) for line in head.splitlines() if line.startswith("Name: "))
        io = tuple(_io(line, match) for line in tail.splitlines() if (match := _IO.match(line)))
        return cls(layers, io)

    @property
    def profiles(self) -> int:
        """How many optimization profiles the plan has; every one has its own kernels."""
        return max([len(tensor.profiles) for tensor in self.io] + [1])

    @property
    def fused_attention(self) -> int:
        """How many fused attention kernels one run executes."""
        return sum(layer.is_fused_attention for layer in self.layers) // self.profiles

    @property
    def digest(self) -> str:
        """A SHA-256 that equal builds share, although their bytes differ in the compiler's symbol numbers."""
        lines = [
            repr((layer.kind, layer.tactic, layer.nodes, _types(layer.inputs), _types(layer.outputs)))
            for layer in self.layers
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def check_precision(self, precision: Precision) -> None:
        """Demand that convolutions and matrix products read their weights and activations in one type.

        Raises:
            PrecisionMismatch: a kernel reads another type, or there is none to judge.
        """
        kernels = [layer for layer in self.layers if layer.multiplies]
        if not kernels:
            raise PrecisionMismatch(f"the layer report has no convolution or matrix product: {precision} is unproven")
        others = [(layer, sorted(set(self._reads(layer)) - {DTYPE_OF[precision]})) for layer in kernels]
        wrong = [(layer, dtypes) for layer, dtypes in others if dtypes]
        if wrong:
            layer, dtypes = wrong[0]
            raise PrecisionMismatch(
                f"{precision} was asked for, but {len(wrong)} of {len(kernels)} convolutions and matrix products read "
                f"another type: {layer.nodes[0] if layer.nodes else layer.name!r} reads {', '.join(dtypes)}. "
                f"The precision of a plan is that of its ONNX model: export it with {precision}."
            )

    def check_mixed(self, float32: Sequence[str]) -> None:
        """Demand float32 weights in convolutions and products of the named modules, and float16 ones in all others.

        Raises:
            PrecisionMismatch: a kernel has weights of another type, or there is none to judge.
        """
        weighted = [layer for layer in self.layers if layer.multiplies and list(_weights(layer))]
        if not weighted:
            raise PrecisionMismatch("the layer report has no convolution or matrix product with weights to judge")
        for layer in weighted:
            island = any(node.startswith((f"{path}.", f"{path}/")) for path in float32 for node in layer.nodes)
            expected = "float32" if island else "float16"
            if found := sorted({operand.dtype for operand in _weights(layer)} - {expected}):
                raise PrecisionMismatch(
                    f"{layer.nodes[0] if layer.nodes else layer.name!r} was to have {expected} weights in this mixed "
                    f"recipe (float32: {', '.join(float32)}), the plan has {', '.join(found)} there. "
                    f"TensorRT may compute a float32 part between casts in half: leave it out, or name its neighbours."
                )

    def check_fused_attention(self, expected: int) -> None:
        """Demand a number of fused attention kernels, the same in every profile.

        Raises:
            FusionMismatch: there are more or fewer.
        """
        found = sum(layer.is_fused_attention for layer in self.layers)
        if found != expected * self.profiles:
            raise FusionMismatch(
                f"{expected} fused attention kernels per profile were expected, the plan has {found} in "
                f"{self.profiles} profile(s). Export another form of attention, let the batch exceed 1, or name "
                f"other GPUs."
            )

    def _reads(self, layer: Layer) -> Iterator[str]:
        # A kernel may also convert the network's own inputs, and carries scalars and biases in float32.
        given = {tensor.name for tensor in self.io if tensor.is_input}
        yield from (operand.dtype for operand in layer.inputs if operand.name not in given)
        yield from (operand.dtype for operand in _weights(layer))


def _weights(layer: Layer) -> Iterator[Operand]:
    return (operand for operand in layer.constants if sum(size > 1 for size in operand.shape) > 1)


def _layer(line: str) -> Layer:
    _, *parts = _FIELD.split(line)
    fields = dict(zip(parts[::2], parts[1::2], strict=True))
    return Layer(
        name=fields["Name"],
        kind=fields.get("LayerType", ""),
        inputs=_operands(fields.get("Inputs", "")),
        constants=_operands(fields.get("Constants", "")),
        outputs=_operands(fields.get("Outputs", "")),
        tactic=fields.get("TacticName", ""),
        nodes=tuple(_NODE.findall(fields.get("Metadata", ""))),
    )


def _operands(text: str) -> tuple[Operand, ...]:
    return tuple(
        Operand(match["name"], _DTYPES.get(match["dtype"], match["dtype"]), _shape(match["shape"]))
        for match in _OPERAND.finditer(text)
    )


def _io(line: str, match: re.Match[str]) -> IoTensor:
    ranges = tuple(ShapeRange(*map(_shape, found)) for found in _RANGE.findall(line))
    dtype = _DTYPES.get(match["dtype"], match["dtype"])
    return IoTensor(match["name"], match["mode"] == "Input", dtype, _shape(match["shape"]), ranges)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _types(operands: tuple[Operand, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(operand.dtype, operand.shape) for operand in operands]
