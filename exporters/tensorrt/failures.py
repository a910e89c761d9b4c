"""Why TensorRT refused a model or a build, read from its parser and its log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from exporters.errors import (
    AttentionUnsupported,
    BuildCancelled,
    BuildFailed,
    HardwareDatatype,
    InvalidOnnx,
    NoGpu,
    OnnxRejected,
    WorkspaceTooSmall,
)
from exporters.tensorrt.backend import Record

# Sought in all errors of a build, in this order: a cancelled or too small build says other things as well.
_KINDS: tuple[tuple[re.Pattern[str], type[BuildFailed], str], ...] = (
    (re.compile(r"BuildCancel", re.IGNORECASE), BuildCancelled, "The build was cancelled."),
    (
        re.compile(r"HW-specific datatypes", re.IGNORECASE),
        HardwareDatatype,
        "A target lacks the data type: leave it out, or export in fp16 or fp32.",
    ),
    (
        re.compile(r"Cannot compile operation .* for Turing"),
        HardwareDatatype,
        "Leave sm_75 out, or export in fp16.",
    ),
    (
        re.compile(r"OutOfMemory|workspace limit|insufficient workspace", re.IGNORECASE),
        WorkspaceTooSmall,
        "Allow more workspace, or a smaller maximal batch.",
    ),
    (
        re.compile(r"Attention operation was not supported|composite_op->is_decomposable"),
        AttentionUnsupported,
        "Export the attention as MatMul–Softmax–MatMul instead of an Attention node.",
    ),
    (
        re.compile(r"CHECK\(status == CUDA_SUCCESS\) failed"),
        NoGpu,
        "This build calls the NVIDIA driver, as refittable and stripped plans do: leave --refit and --strip out.",
    ),
    (
        re.compile(r"cudaError 35|cudaErrorInsufficientDriver|cudaErrorNoDevice|no CUDA-capable device"),
        NoGpu,
        "This build needs the GPU that the plan is for; name targets to build ahead of time.",
    ),
)


# Sought in the parser's words; the way out of what it refuses.
_ADVICE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Key and Value must have the same shape"),
        "Pad queries, keys and values to one width (zero weights change nothing), or write MatMul–Softmax–MatMul.",
    ),
    (re.compile(r"softmax precision"), "Leave softmax_precision out; write MatMul–Softmax–MatMul with casts instead."),
    (re.compile(r"UINT8 types for intermediate"), "Let the cast to uint8 be the last node, after any transpose."),
    (re.compile(r"lugin not found"), "TensorRT has no such operator: write it with those of ONNX."),
    (
        re.compile(r"Failed to import initializer"),
        "Weights beside the model are not read; save it in one file: onnx.save(onnx.load(PATH), NEW_PATH).",
    ),
    (re.compile(r"is of type \w+ but|type is \w+ but"), "Convert all weights to one type, or put a Cast between."),
)


def rejected(parser: Any, records: Sequence[Record]) -> OnnxRejected | InvalidOnnx:
    """What the parser says of a model that it does not take: its first error, in its own words."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        reason = _first_line(_errors(records)) or "it gave no reason"
        return OnnxRejected(f"TensorRT does not take this ONNX model: {reason}", reason=reason)
    first = errors[0]
    node, operator, reason = first.node_name() or "", first.node_operator() or "", _telling_line(first.desc())
    if "DESERIALIZE_FAILED" in first.code().name:
        return InvalidOnnx(f"this is no whole ONNX model: {reason}")
    place = f" at node {first.node()} {node!r} ({operator})" if operator else ""
    advice = next((f". {advice}" for pattern, advice in _ADVICE if pattern.search(reason)), "")
    return OnnxRejected(
        f"TensorRT does not take this ONNX model{place}: {reason}{advice}", node=node, operator=operator, reason=reason
    )


def classify(records: Sequence[Record]) -> BuildFailed:
    """The kind of failure that the errors of a build describe, with the line that says so."""
    errors = _errors(records)
    for pattern, kind, advice in _KINDS:
        telling = [error for error in errors if pattern.search(error)]
        if telling:
            return kind(f"TensorRT gave no plan: {_first_line(telling)}. {advice}", records=tuple(errors))
    reason = _first_line(errors) or "it gave no reason"
    return BuildFailed(f"TensorRT gave no plan: {reason}", records=tuple(errors))


def _errors(records: Iterable[Record]) -> list[str]:
    return [record.text for record in records if record.is_error]


def _telling_line(description: str) -> str:
    """The first line that says more than which node it is, or that there is no driver."""
    lines = [line for line in description.splitlines() if not re.match(r"Invalid Node -|.*catchCudaError", line)]
    return _first_line(lines) or _first_line([description])


def _first_line(texts: Sequence[str]) -> str:
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else ""
