"""The range audit: how large the values of a generator become, and what a half format can hold.

Overflow is what turns pictures black, and nothing shows it coming in float32. Every value that some operation computes,
and every weight, is measured without rounding over many latents; attention scores are called out, because SAGAN does
not scale them and they grow with the square of what the projections write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.optional import require
from sagan_deploy.parity.emulation import ROUNDED, emulated, session_options
from sagan_deploy.parity.evidence import RangeAudit, TensorRange
from sagan_deploy.parity.graph import parse_model, read_model
from sagan_deploy.parity.widened import module_of, widened
from sagan_deploy.progress import Progress, silent

_BATCH = 2  # all values of so many images are in memory at once
_FLOATS = (1, 10, 16)  # float32, float16 and bfloat16 in onnx.TensorProto.DataType
_PASSES_ON = ("Cast", "Identity")
#: Largest finite and smallest normal number.
FORMATS: dict[str, tuple[float, float]] = {
    "fp16": (65504.0, 2.0**-14),
    "bf16": ((2 - 2.0**-7) * 2.0**127, 2.0**-126),
}


@dataclass
class _Seen:
    """What was seen of one value so far."""

    largest: float = 0.0
    numbers: int = 0
    small: int = 0

    def add(self, values: NDArray[Any], smallest_normal: float) -> None:
        magnitudes = np.abs(values)
        peak = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, math.inf if math.isnan(peak) else peak)
        self.numbers += int(np.count_nonzero(magnitudes))
        self.small += int(np.count_nonzero((magnitudes > 0) & (magnitudes < smallest_normal)))


def audit_ranges(
    onnx: bytes,
    z: NDArray[np.floating[Any]],
    labels: NDArray[np.int64] | None,
    precision: Literal["fp16", "bf16"] = "fp16",
    *,
    progress: Progress = silent,
) -> RangeAudit:
    """Measure the magnitude of every computed value and weight of an exported generator.

    Args:
        onnx: the file; of a half file the half values are measured, of a float32 file all of them.
        z: latents (n, z_dim).
        labels: classes (n,), None for an unconditional generator.
        precision: the format whose room is measured.
        progress: told how many latents are done.

    Raises:
        InputError: no ONNX model, or one that the emulation does not know.
        MissingError: onnx or onnxruntime is not installed.
    """
    typed = read_model(onnx)
    half = {name for name, kind in typed.types.items() if kind in (10, 16)}
    wide = widened(emulated(onnx)) if half else onnx
    measured = half or {name for name, kind in typed.types.items() if kind in _FLOATS}
    nodes = {
        name: node
        for node in typed.model.graph.node
        if node.op_type in ROUNDED
        for name in node.output
        if name in measured
    }
    largest_number, smallest_normal = FORMATS[precision]
    seen = {name: _Seen() for name in nodes}
    session = _session(wide, list(nodes))
    z_type = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    for start in range(0, len(z), _BATCH):
        progress("range audit", start, len(z))
        rows = slice(start, start + _BATCH)
        feeds = {"z": z[rows].astype(z_type)} | ({} if labels is None else {"labels": labels[rows]})
        for name, values in zip(nodes, session.run(list(nodes), feeds), strict=True):
            seen[name].add(values, smallest_normal)
    progress("range audit", len(z), len(z))
    logits = _logits(typed.model.graph)
    rows_ = [
        _row(name, module_of(node), node.op_type, seen[name], (largest_number, smallest_normal), name in logits)
        for name, node in nodes.items()
    ]
    rows_ += _weights(typed.model.graph, measured, (largest_number, smallest_normal))
    rows_.sort(key=lambda row: row.headroom_bits)
    return RangeAudit(precision, len(z), largest_number, smallest_normal, tuple(rows_))


def _session(onnx: bytes, names: list[str]) -> Any:
    """A session that also gives out these values."""
    ort = require("onnxruntime", "onnxruntime")
    model = parse_model(onnx)
    from onnx import helper

    given = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    return ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])


def _weights(graph: Any, measured: set[str], room: tuple[float, float]) -> list[TensorRange]:
    from onnx import numpy_helper

    rows = []
    for tensor in graph.initializer:
        if tensor.name in measured and len(tensor.dims) > 0:
            seen = _Seen()
            seen.add(numpy_helper.to_array(tensor).astype(np.float32), room[1])
            rows.append(_row(tensor.name, tensor.name.rpartition(".")[0], "weight", seen, room, logits=False))
    return rows


def _row(name: str, path: str, op: str, seen: _Seen, room: tuple[float, float], logits: bool) -> TensorRange:
    headroom = math.log2(room[0] / seen.largest) if seen.largest > 0 else math.inf
    return TensorRange(name, path, op, seen.largest, headroom, seen.small / max(1, seen.numbers), logits)


def _logits(graph: Any) -> set[str]:
    """The values that a softmax reads, through casts."""
    makers: Mapping[str, Any] = {name: node for node in graph.node for name in node.output}
    found = set()
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        name = softmax.input[0]
        while name in makers and makers[name].op_type in _PASSES_ON:
            name = makers[name].input[0]
        found.add(name)
    return found
