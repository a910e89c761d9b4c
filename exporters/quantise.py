"""An ONNX model with convolutions in int8 or float8, written out as QuantizeLinear and DequantizeLinear.

Symmetric, zero point 0. Activations have one scale per tensor, from measured ranges (`exporters.calibration`); weights
have one per output channel and are stored as codes. A convolution keeps its bias and its result in the model's own
type. TensorRT plans such a convolution in int8 or float8 only if the scale of its activations has rank 0: a scale of
shape [1] makes the same numbers and a plan that computes in half precision, without a word. So the rank is checked
on every model written here.

onnxruntime.quantization writes the same int8 codes with rank-0 scales, and judges this file in the tests. It does not
do the work, because onnxruntime 1.32 fails on float16 models for float8 (its histogram overflows), writes to disk
only, and leaves out which module the new nodes belong to.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporters.errors import InvalidOnnx, PrecisionMismatch, SpecError, UnsupportedTarget
from exporters.graph import MODULE_KEY

if TYPE_CHECKING:
    from exporters.targets import Capability, Target
    from exporters.tensorrt.layers import LayerReport

Kind = Literal["int8", "fp8"]

#: The largest code: −128 is left out so that codes are symmetric; 448 is the largest float8 (e4m3fn).
LARGEST: dict[Kind, float] = {"int8": 127.0, "fp8": 448.0}
#: The first compute capability whose convolutions TensorRT plans in the type. On Turing int8 silently runs Half.
SINCE: dict[Kind, Capability] = {"int8": (8, 0), "fp8": (8, 9)}
_REPORTED: dict[Kind, str] = {"int8": "int8", "fp8": "float8"}
_OLDEST_OPSET = 19  # the first one in which QuantizeLinear reads float16 and writes float8
_FLOAT, _FLOAT16 = 1, 10  # onnx.TensorProto.DataType


def quantise(onnx: bytes, ranges: Mapping[str, float], kind: Kind, skip: Iterable[str] = ()) -> bytes:
    """Put the convolutions of a model into int8 or float8. Matrix products stay as they are.

    Args:
        onnx: a float16 or float32 model from `exporters.onnx.export_onnx`, opset 19 or later.
        ranges: for the data input of every convolution the magnitude that the largest code stands for; larger values
            saturate.
        kind: ``int8``, or ``fp8`` (e4m3fn).
        skip: module paths whose convolutions stay as they are, those of modules inside them included.

    Raises:
        InvalidOnnx: no valid ONNX model.
        SpecError: a range is missing or no number, a path names no convolution, or nothing is left to quantise.
    """
    model = read(onnx)
    _check_opset(model)
    chosen = _chosen(model.graph, tuple(skip))
    rewriting = _Rewriting(model.graph, ranges, kind)
    for node in list(model.graph.node):
        if node.name in chosen:
            rewriting.quantise(node)
        rewriting.nodes.append(node)
    rewriting.finish()
    payload: bytes = model.SerializeToString(deterministic=True)
    check_quantised_onnx(payload)
    return payload


def convolution_inputs(onnx: bytes) -> tuple[str, ...]:
    """The values that convolutions with constant weights read, each once, in the order of the graph.

    Raises:
        InvalidOnnx: the bytes are no ONNX model.
    """
    return tuple(dict.fromkeys(node.input[0] for node in _convolutions(read(onnx).graph)))


def quantised_convolutions(onnx: bytes) -> tuple[str, ...]:
    """Names of the Conv nodes whose data and weights both come from DequantizeLinear.

    Raises:
        InvalidOnnx: the bytes are no ONNX model.
    """
    graph = read(onnx).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return tuple(node.name for node in graph.node if node.op_type == "Conv" and dequantised.issuperset(node.input[:2]))


def check_quantised_onnx(onnx: bytes) -> None:
    """Demand a valid model whose activation scales have rank 0.

    Raises:
        InvalidOnnx: it is not valid, or a scale has another rank.
    """
    import onnx as package

    try:
        package.checker.check_model(onnx, full_check=True)
    except (package.checker.ValidationError, package.shape_inference.InferenceError) as error:
        raise InvalidOnnx(f"the quantised model is invalid: {str(error).strip().splitlines()[0]}") from error
    graph = read(onnx).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        # Weights are codes already: nothing quantises them in the model.
        activation = node.op_type == "QuantizeLinear" or (
            node.op_type == "DequantizeLinear" and node.input[0] not in constants
        )
        scale = constants.get(node.input[1]) if activation else None
        if activation and (scale is None or len(scale.dims)):
            shape = "no constant" if scale is None else f"of shape {list(scale.dims)}"
            raise InvalidOnnx(
                f"the scale of {node.name!r} is {shape}; it must be a constant of rank 0, or TensorRT computes the "
                f"convolution in half precision without saying so. numpy.ascontiguousarray makes [1] of rank 0."
            )


def check_quantised_targets(kind: Kind, targets: Iterable[Target]) -> None:
    """Refuse GPUs that have no such convolutions, before anything is built.

    Raises:
        UnsupportedTarget: the message names the GPUs, why, and what to ask for instead.
    """
    lacking = [target for target in targets if target.compute_capability < SINCE[kind]]
    if not lacking:
        return
    names = ", ".join(f"{target.name} ({', '.join(target.gpus[:2]) or 'no GPU known here'})" for target in lacking)
    major, minor = SINCE[kind]
    all_int8 = all(target.compute_capability >= SINCE["int8"] for target in lacking)
    instead = "int8 or fp16" if kind == "fp8" and all_int8 else "fp16"
    reason = "TensorRT would plan half precision without saying so" if kind == "int8" else "they lack the instructions"
    raise UnsupportedTarget(
        f"{kind} convolutions need sm_{major}{minor} or later, not {names}: {reason}. "
        f"Leave these targets out, or export {instead} for them."
    )


def check_quantised_plan(report: LayerReport, kind: Kind, convolutions: Collection[str]) -> None:
    """Demand that the builder planned the convolutions in the type, and everything else that multiplies in float16.

    Args:
        report: the builder's account of the plan.
        kind: what was asked for.
        convolutions: names of the ONNX nodes, from `quantised_convolutions`.

    Raises:
        PrecisionMismatch: in some profile a convolution is missing or reads another type, or one that was to stay
            float16 does not read float16.
    """
    if not convolutions:
        raise PrecisionMismatch(f"{kind} was asked for, but the ONNX model has no quantised convolution: export again.")
    counts = planned_convolutions(report, kind, convolutions)
    missing = [name for name, count in counts.items() if count < report.profiles]
    if missing:
        kernels = [layer for layer in report.layers if missing[0] in layer.nodes and layer.multiplies]
        reads = sorted({layer.inputs[0].dtype for layer in kernels if layer.inputs}) or ["nothing that is reported"]
        raise PrecisionMismatch(
            f"{kind} was asked for, but only {len(counts) - len(missing)} of {len(counts)} quantised convolutions were "
            f"planned in it: {missing[0]} reads {' and '.join(reads)}. Name GPUs that have {kind} convolutions, and "
            f"see that activation scales are constants of rank 0."
        )
    given = {tensor.name for tensor in report.io if tensor.is_input}  # a kernel may convert those itself
    for layer in report.layers:
        read = next((operand.dtype for operand in layer.inputs if operand.name not in given), "float16")
        if layer.multiplies and read not in (_REPORTED[kind], "float16"):
            raise PrecisionMismatch(
                f"what {kind} leaves out must be float16, but {(layer.nodes or (layer.name,))[0]} reads {read}. "
                f"Quantise a float16 model."
            )


def planned_convolutions(report: LayerReport, kind: Kind, convolutions: Collection[str]) -> dict[str, int]:
    """How many kernels with a first input of the type compute each convolution; one per profile is right."""
    kernels = [layer for layer in report.layers if layer.multiplies and layer.inputs]
    quantised = [set(layer.nodes) for layer in kernels if layer.inputs[0].dtype == _REPORTED[kind]]
    return {name: sum(name in nodes for nodes in quantised) for name in convolutions}


def read(onnx: bytes) -> Any:
    """The `onnx.ModelProto` of these bytes.

    Raises:
        InvalidOnnx: the bytes are no ONNX model.
    """
    import onnx as package
    from google.protobuf.message import DecodeError

    try:
        return package.load_from_string(onnx)
    except DecodeError as error:
        raise InvalidOnnx(f"these {len(onnx)} bytes are no ONNX model ({error}).") from error


def _check_opset(model: Any) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise SpecError(f"the model has opset {opset}; quantisation needs {_OLDEST_OPSET} or later. Export it with 20.")


def _convolutions(graph: Any) -> list[Any]:
    constants = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type == "Conv" and node.input[1] in constants]


def _chosen(graph: Any, skip: tuple[str, ...]) -> set[str]:
    convolutions = _convolutions(graph)
    for path in skip:
        if not any(_inside(node, path) for node in convolutions):
            raise SpecError(f"skip names {path!r}, but no convolution of this model belongs to such a module.")
    chosen = {node.name for node in convolutions if not any(_inside(node, path) for path in skip)}
    if not chosen:
        raise SpecError(
            f"nothing to quantise: of {len(convolutions)} convolutions with constant weights all are skipped, and "
            f"transposed convolutions and matrix products are never quantised. Export fp16 instead."
        )
    return chosen


def _inside(node: Any, path: str) -> bool:
    module = _module(node)
    return module == path or module.startswith(path + ".")


def _module(node: Any) -> str:
    return next((str(entry.value) for entry in node.metadata_props if entry.key == MODULE_KEY), "")


@dataclass
class _Rewriting:
    """The nodes written so far; `shared` holds what takes the place of a value that several convolutions read."""

    graph: Any
    ranges: Mapping[str, float]
    kind: Kind
    nodes: list[Any] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        values = {name for node in self.graph.node for name in (node.name, *node.output)}
        self.taken = values | set(self.constants) | {value.name for value in self.graph.input}

    def quantise(self, node: Any) -> None:
        """Write what stands in front of a convolution and let the convolution read it."""
        data, weights = node.input[0], node.input[1]
        float_type = self.constants[weights].data_type
        if float_type not in (_FLOAT, _FLOAT16):
            raise SpecError(f"the weights of {node.name!r} are neither float16 nor float32. Export with fp16.")
        if data not in self.shared:
            self.shared[data] = self._activation(data, node, float_type)
        if weights not in self.shared:
            self.shared[weights] = self._weights(weights, node)
        node.input[0], node.input[1] = self.shared[data], self.shared[weights]

    def finish(self) -> None:
        """Put the nodes into the graph and drop the constants that nothing reads any more."""
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        needed = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.constants.values() if tensor.name in needed]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _activation(self, name: str, reader: Any, float_type: int) -> str:
        from onnx import helper

        amax = self.ranges.get(name)
        if amax is None or not math.isfinite(amax) or amax < 0:
            raise SpecError(
                f"the range of {name!r} (={amax}) must be a number ≥ 0: {reader.name!r} reads it. "
                f"Calibrate the model that is quantised."
            )
        scale = float(_scales(np.asarray(amax), self.kind, float_type))
        # No shape, and no numpy array, which could turn rank 0 into rank 1 on its way.
        scale_name = self._constant(helper.make_tensor(f"{name}.scale", float_type, [], [scale]))
        zero = self._zero(())
        codes = self._node("QuantizeLinear", [name, scale_name, zero], reader)
        return self._node("DequantizeLinear", [codes, scale_name, zero], reader)

    def _weights(self, name: str, reader: Any) -> str:
        from onnx import numpy_helper

        tensor = self.constants[name]
        values = numpy_helper.to_array(tensor).astype(np.float64)
        scales = _scales(np.abs(values).max(axis=tuple(range(1, values.ndim))), self.kind, tensor.data_type)
        codes = values / scales.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
        code_name = self._constant(_code_tensor(f"{name}.codes", codes, self.kind))
        scale_name = self._constant(numpy_helper.from_array(scales, f"{name}.scales"))
        zero = self._zero((len(scales),))
        return self._node("DequantizeLinear", [code_name, scale_name, zero], reader, axis=0)

    def _zero(self, shape: tuple[int, ...]) -> str:
        """The zero point says which type the codes have; all of one shape share it."""
        name = "zero_point" + "".join(f".{size}" for size in shape)
        if name not in self.constants:
            self._constant(_code_tensor(name, np.zeros(shape), self.kind))
        return name

    def _constant(self, tensor: Any) -> str:
        tensor.name = self._fresh(tensor.name)
        self.constants[tensor.name] = tensor
        return str(tensor.name)

    def _node(self, operator: str, inputs: list[str], reader: Any, **attributes: int) -> str:
        """A node of the module that reads it first, so that the modules before keep the outputs they had."""
        from onnx import helper

        module = _module(reader)
        name = self._fresh(f"{module}/{operator}" if module else operator)
        node = helper.make_node(operator, inputs, [name], name=name, **attributes)
        node.metadata_props.add(key=MODULE_KEY, value=module)
        self.nodes.append(node)
        return name

    def _fresh(self, name: str) -> str:
        candidate, count = name, 0
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate


def _scales(amax: NDArray[np.float64], kind: Kind, float_type: int) -> NDArray[Any]:
    """Magnitudes per code in the model's type; where they vanish in it, its smallest number, which is never 0."""
    dtype = np.dtype(np.float16 if float_type == _FLOAT16 else np.float32)
    smallest = 2.0 ** (-24 if float_type == _FLOAT16 else -149)
    rounded = np.asarray(amax / LARGEST[kind]).astype(dtype).astype(np.float64)
    return np.where(rounded > 0, rounded, smallest).astype(dtype)


def _code_tensor(name: str, codes: NDArray[np.float64], kind: Kind) -> Any:
    import ml_dtypes
    from onnx import TensorProto, helper

    # Halves go to even, as in QuantizeLinear. Scales below 2^-14 lose digits in float16, and then a code may exceed
    # the largest one; it must be cut off before int8 wraps around and float8, which has no infinity, becomes NaN.
    largest = LARGEST[kind]
    clipped = np.clip(codes, -largest, largest)
    stored = np.rint(clipped).astype(np.int8) if kind == "int8" else clipped.astype(ml_dtypes.float8_e4m3fn)
    data_type = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
    return helper.make_tensor(name, data_type, codes.shape, stored.tobytes(), raw=True)
