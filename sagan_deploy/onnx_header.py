"""What an ONNX file says of itself, read from its bytes alone: no package, no session, no weights decoded.

ONNX is a protocol buffer: a sequence of (field number, value), where a value is a number or a length with that many
bytes. Numbers of the fields are those of onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sagan_deploy.errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
_BITS = {1: 32, 2: 8, 3: 8, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 16: 16}


@dataclass(frozen=True)
class OnnxTensor:
    """An input or output; free dimensions are names, ``"?"`` when they have none."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxHeader:
    """Everything but the computation: versions, metadata, inputs, outputs and how often each operator occurs."""

    ir_version: int
    opset: int
    producer: str
    metadata: dict[str, str]
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    operators: dict[str, int]
    parameters: int
    weight_dtypes: dict[str, int]  # parameters per type


_NOTHING = memoryview(b"")


class _DamageError(Exception):
    pass


def read_onnx_header(payload: bytes, name: str) -> OnnxHeader:
    """Read the header of an ONNX model.

    Raises:
        InputError: no ONNX model, or not a whole one.
    """
    try:
        return _model(memoryview(payload))
    except (_DamageError, UnicodeDecodeError) as error:
        raise InputError(f"{name} is no whole ONNX model ({error}). Export or copy it again.") from error


def _model(data: memoryview) -> OnnxHeader:
    fields = list(_fields(data))
    graphs = [_bytes(value) for number, value in fields if number == 7]
    ir_versions = [_number(value) for number, value in fields if number == 1]
    if not graphs or not ir_versions:
        raise _DamageError("it has no graph")
    entries = [dict(_fields(_bytes(value))) for number, value in fields if number == 14]
    opsets = [dict(_fields(_bytes(value))) for number, value in fields if number == 8]
    if not opsets:
        raise _DamageError("it names no operator set")
    nodes, weights, inputs, outputs = _graph(graphs[-1])
    return OnnxHeader(
        ir_version=ir_versions[-1],
        opset=max((_number(o.get(2, 0)) for o in opsets if _text(o.get(1, _NOTHING)) in ("", "ai.onnx")), default=0),
        producer=" ".join(_text(value) for number, value in fields if number in (2, 3)),
        metadata={_text(entry.get(1, _NOTHING)): _text(entry.get(2, _NOTHING)) for entry in entries},
        inputs=inputs,
        outputs=outputs,
        operators=dict(sorted(nodes.items())),
        parameters=sum(weights.values()),
        weight_dtypes=dict(weights),
    )


def _graph(
    data: memoryview,
) -> tuple[Counter[str], Counter[str], tuple[OnnxTensor, ...], tuple[OnnxTensor, ...]]:
    nodes: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    inputs, outputs = [], []
    for number, value in _fields(data):
        if number == 1:
            nodes[next((_text(v) for n, v in _fields(_bytes(value)) if n == 4), "?")] += 1
        elif number == 5:
            dtype, count = _initializer(_bytes(value))
            weights[dtype] += count
        elif number == 11:
            inputs.append(_tensor(_bytes(value)))
        elif number == 12:
            outputs.append(_tensor(_bytes(value)))
    return nodes, weights, tuple(inputs), tuple(outputs)


def _tensor(data: memoryview) -> OnnxTensor:
    name, dtype, shape = "", "?", []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        for kind, tensor_type in _fields(_bytes(value)) if number == 2 else ():
            for part, item in _fields(_bytes(tensor_type)) if kind == 1 else ():
                if part == 1:
                    dtype = _DTYPES.get(_number(item), f"type {_number(item)}")
                elif part == 2:
                    shape = [_dimension(_bytes(d)) for n, d in _fields(_bytes(item)) if n == 1]
    return OnnxTensor(name, dtype, tuple(shape))


def _dimension(data: memoryview) -> int | str:
    for number, value in _fields(data):
        if number == 1:
            return _number(value)
        if number == 2:
            return _text(value)
    return "?"


def _initializer(data: memoryview) -> tuple[str, int]:
    dtype, count, raw = 0, 1, None
    for number, value in _fields(data):
        if number == 1:  # dims, packed or one by one
            for size in [value] if isinstance(value, int) else _packed(value):
                count *= size
        elif number == 2:
            dtype = _number(value)
        elif number == 9:
            raw = len(_bytes(value))
    if raw is not None and dtype in _BITS and raw * 8 != count * _BITS[dtype]:
        raise _DamageError(f"a weight of {count} values has {raw} bytes")
    return _DTYPES.get(dtype, f"type {dtype}"), count


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            raise _DamageError(f"byte {position} begins no field")
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _BYTES:
            size, position = _varint(data, position)
        if position + size > end:
            raise _DamageError(f"it ends {position + size - end} bytes early")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _DamageError("it ends inside a number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _DamageError("a number is missing")
    return value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _DamageError("a message is missing")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
