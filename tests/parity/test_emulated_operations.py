"""Every operation that exported generators have, bit for bit against onnx's reference evaluator, in both half types.

Values are of two kinds. What moves or combines single values gets bits drawn at random: subnormals, infinities and NaN
among them. What sums up gets small integers, whose sums are the same in whatever precision they are taken, and beside
them single products that overflow or are no number. `test_emulation` holds wide sums against float64.
"""

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F

from sagan_deploy.parity.emulation import emulated
from tests.parity.test_emulation import TYPES, assert_bits, model, run

KINDS = pytest.mark.parametrize("kind", TYPES, ids=["fp16", "bf16"])


def any_bits(shape, seed, kind, finite=False):
    bits = np.random.default_rng(seed).integers(0, 65536, shape).astype(np.uint16).view(TYPES[kind])
    return np.where(np.isfinite(bits), bits, TYPES[kind](1.5)) if finite else bits


def integers(shape, seed, kind, largest=3):
    return np.random.default_rng(seed).integers(-largest, largest + 1, shape).astype(TYPES[kind])


def graph(node, operands, weights, kind, outputs=("y",)):
    shapes = {name: list(value.shape) for name, value in operands.items()}
    return model([node], shapes, dict.fromkeys(outputs, kind), weights, opset=22, kind=kind)


def both(node, operands, weights, kind, outputs=("y",)):
    """All results by the emulation, and by the reference evaluator on the half graph."""
    payload = graph(node, operands, weights, kind, outputs)
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(onnx.load_from_string(payload)).run(list(outputs), operands)
    return run(emulated(payload), operands, list(outputs)), expected


# Name → operator, shapes of half operands, other inputs, attributes, number of results.
MOVING = {
    "Reshape": ("Reshape", [(4, 6)], [np.array([2, 3, 4])], {}, 1),
    "Transpose": ("Transpose", [(2, 3, 4)], [], {"perm": [0, 2, 1]}, 1),
    "Unsqueeze": ("Unsqueeze", [(2, 3)], [np.array([2, 3])], {}, 1),
    "Concat": ("Concat", [(2, 3), (2, 3)], [], {"axis": -1}, 1),
    "Split": ("Split", [(2, 6)], [np.array([2, 4])], {"axis": 1}, 2),
    "Slice": ("Slice", [(2, 9)], [np.array([0]), np.array([5]), np.array([1])], {}, 1),
    "Gather": ("Gather", [(5, 7)], [np.array([4, 0, 0, 2])], {"axis": 0}, 1),
    "Expand": ("Expand", [(2, 1, 4)], [np.array([2, 3, 4])], {}, 1),
    "Resize by nearest": (
        "Resize", [(1, 2, 3, 3)], ["", np.float32([1, 1, 2, 2])],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 1,
    ),
    "Identity": ("Identity", [(300,)], [], {}, 1),
    "Neg": ("Neg", [(300,)], [], {}, 1),
    "Add": ("Add", [(20000,), (20000,)], [], {}, 1),
    "Sub": ("Sub", [(20000,), (20000,)], [], {}, 1),
    "Mul": ("Mul", [(20000,), (20000,)], [], {}, 1),
    "Mul by channel": ("Mul", [(40, 8, 5, 5), (40, 8, 1, 1)], [], {}, 1),
    "Add by channel": ("Add", [(40, 8, 5, 5), (40, 8, 1, 1)], [], {}, 1),
}  # fmt: skip


@KINDS
@pytest.mark.parametrize("name", MOVING)
def test_values_are_moved_and_combined_as_they_are(name, kind):
    operator, shapes, others, attributes, results = MOVING[name]
    operands = {"ab"[i]: any_bits(shape, i, kind) for i, shape in enumerate(shapes)}
    names = ["" if isinstance(value, str) else f"i{i}" for i, value in enumerate(others)]
    weights = {n: value for n, value in zip(names, others, strict=True) if n}
    outputs = ("y", "y2")[:results]
    node = helper.make_node(operator, [*operands, *names], list(outputs), **attributes)
    for found, expected in zip(*both(node, operands, weights, kind, outputs), strict=True):
        assert_bits(found, expected)


SUMS = {
    "Gemm": ("Gemm", (6, 20), (9, 20), {"transB": 1}),
    "MatMul": ("MatMul", (2, 5, 12), (2, 12, 7), {}),
    "MatMul in heads": ("MatMul", (2, 3, 5, 8), (2, 3, 8, 5), {}),
    "Conv 3x3": ("Conv", (2, 5, 6, 6), (4, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "Conv 1x1": ("Conv", (2, 5, 6, 6), (4, 5, 1, 1), {}),
    "Conv of a phase": ("Conv", (2, 5, 6, 6), (4, 5, 2, 2), {"pads": [1, 0, 0, 1]}),
    "ConvTranspose": ("ConvTranspose", (2, 5, 4, 4), (5, 4, 4, 4), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
}


@KINDS
@pytest.mark.parametrize("name", SUMS)
def test_sums_of_integers(name, kind):
    operator, x, w, attributes = SUMS[name]
    # Below 257 every integer is a bfloat16, so a reference that rounds inside does so without a difference.
    operands = {"a": integers(x, 1, kind, 2), "b": integers(w, 2, kind, 1)}
    node = helper.make_node(operator, ["a", "b"], ["y"], **attributes)
    (found,), (expected,) = both(node, operands, {}, kind)
    assert np.abs(expected.astype(np.float32)).max() <= 256
    assert_bits(found, expected)


@KINDS
@pytest.mark.parametrize("name", SUMS)
def test_single_products_that_round_overflow_or_are_no_number(name, kind):
    """One weight per output channel is not zero, so that each result is one product."""
    operator, x, w, attributes = SUMS[name]
    weight = np.zeros(w, TYPES[kind])
    flat = weight.reshape(-1)
    largest = ml_dtypes.finfo(TYPES[kind]).max
    if operator == "Gemm":
        weight[np.arange(9), np.arange(9)] = any_bits((9,), 5, kind, finite=True)
    elif operator == "MatMul":
        weight[..., 0, :] = any_bits(weight[..., 0, :].shape, 5, kind, finite=True)
    elif operator == "Conv":
        weight[np.arange(4), np.arange(4), 0, 0] = any_bits((4,), 5, kind, finite=True)
    else:
        weight[np.arange(4), np.arange(4), 1, 1] = any_bits((4,), 5, kind, finite=True)
    flat[np.flatnonzero(flat)[0]] = largest  # surely beyond the range
    operands = {"a": any_bits(x, 6, kind, finite=True), "b": weight}
    node = helper.make_node(operator, ["a", "b"], ["y"], **attributes)
    (found,), (expected,) = both(node, operands, {}, kind)
    # Adding nothing to −0 may give either zero, depending on the order.
    zeros = expected.astype(np.float32) == 0
    assert (found[zeros] == 0).all()
    assert_bits(np.where(zeros, np.float32(0), found), np.where(zeros, TYPES[kind](0), expected))
    assert np.isinf(found).any()
    # An infinity meets the zeros beside the weight, and infinity times nothing is no number.
    operands["a"].reshape(-1)[1] = np.inf
    (found,), (expected,) = both(node, operands, {}, kind)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert np.isnan(found).any()


@KINDS
def test_the_largest_of_a_window(kind):
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    node = helper.make_node("MaxPool", ["a"], ["y"], **attributes)
    values = any_bits((3, 4, 8, 8), 7, kind)
    with np.errstate(invalid="ignore"):
        values = np.where(np.isnan(values), TYPES[kind](np.inf), values)
    payload = graph(node, {"a": values}, {}, kind)
    windows = values.astype(np.float32).reshape(3, 4, 4, 2, 4, 2).max(axis=(3, 5))
    assert_bits(run(emulated(payload), {"a": values})[0] + 0.0, windows.astype(TYPES[kind]) + TYPES[kind](0))


EXACT_FUNCTIONS = {
    "Relu": (lambda x: np.maximum(x, 0), {}),
    "LeakyRelu": (lambda x: np.where(x >= 0, x, np.float64(np.float32(0.2)) * x), {"alpha": 0.2}),
    "Tanh": (np.tanh, {}),
    "Gelu": (lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), {}),
    "Sqrt": (np.sqrt, {}),
    "Round": (np.rint, {}),
}


@KINDS
@pytest.mark.parametrize("operator", EXACT_FUNCTIONS)
def test_functions_of_every_half_value_are_correctly_rounded(operator, kind):
    """Against float64; where float32's own error decides a tie, one half further is right as well."""
    function, attributes = EXACT_FUNCTIONS[operator]
    values = np.arange(65536, dtype=np.uint16).view(TYPES[kind])
    payload = graph(helper.make_node(operator, ["a"], ["y"], **attributes), {"a": values}, {}, kind)
    found = run(emulated(payload), {"a": values})[0]
    with np.errstate(all="ignore"):
        exact = function(values.astype(np.float64))
        expected = exact.astype(np.float32).astype(TYPES[kind]).astype(np.float32)
        numbers = np.isfinite(expected) & np.isfinite(found)
        step = np.abs(np.spacing(found.astype(TYPES[kind])).astype(np.float32))
        distance = np.where(numbers, np.abs(found - expected), 0)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(found[~numbers], expected[~numbers])
    differs = numbers & (found != expected)
    assert differs.mean() < {"Gelu": 2e-2, "Tanh": 1e-4}.get(operator, 1e-9)
    # 1 + erf of a negative number cancels in float32: Gelu is that far off before anything is rounded to half.
    largest = np.nan_to_num(np.abs(values.astype(np.float32)), nan=0.0, posinf=0.0)
    cancelled = (2.0**-22 if operator == "Gelu" else 0.0) * largest
    assert (distance[differs] <= 1.01 * step[differs] + cancelled[differs]).all()


@KINDS
def test_bilinear_upsampling_is_rounded_once(kind):
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    node = helper.make_node("Resize", ["a", "", "s"], ["y"], **attributes)
    values = integers((2, 3, 5, 5), 9, kind, 1000)
    payload = graph(node, {"a": values}, {"s": np.float32([1, 1, 2, 2])}, kind)
    exact = torch.from_numpy(values.astype(np.float64))
    exact = F.interpolate(exact, scale_factor=2, mode="bilinear", align_corners=False).numpy()
    found = run(emulated(payload), {"a": values})[0]
    assert_bits(found, exact.astype(np.float32).astype(TYPES[kind]))
    assert (found != exact).any()


@KINDS
@pytest.mark.parametrize("operator", ["ReduceMean", "AveragePool"])
def test_means_are_rounded_once(operator, kind):
    values = integers((2, 3, 4, 4), 10, kind, 50)
    exact = values.astype(np.float64)
    if operator == "ReduceMean":
        node, weights = helper.make_node(operator, ["a", "axes"], ["y"], keepdims=0), {"axes": np.array([2, 3])}
        exact = exact.mean(axis=(2, 3))
    else:
        node, weights = helper.make_node(operator, ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2]), {}
        exact = exact.reshape(2, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    found = run(emulated(graph(node, {"a": values}, weights, kind)), {"a": values})[0]
    assert_bits(found, exact.astype(np.float32).astype(TYPES[kind]))


#: What the tests above and those of `test_emulation` prove, by operator. Cast and Softmax are proven there.
PROVEN = (
    {entry[0] for entry in (*MOVING.values(), *SUMS.values())}
    | set(EXACT_FUNCTIONS)
    | {"MaxPool", "ReduceMean", "AveragePool", "Cast", "Softmax", "Constant", "Shape", "Clip"}
)


def half_operators(payload):
    """The operators of a half file that read or make half values."""
    inferred = onnx.load_from_string(payload).graph
    half = {v.name for v in (*inferred.value_info, *inferred.output) if v.type.tensor_type.elem_type in TYPES}
    half |= {t.name for t in inferred.initializer if t.data_type in TYPES}
    return {node.op_type for node in inferred.node if half.intersection((*node.input, *node.output))}


def test_clipping_is_exact_and_lets_no_number_pass():
    kind = TensorProto.FLOAT16
    weights = {"low": np.float16(-1), "high": np.float16(1)}
    node = helper.make_node("Clip", ["a", "low", "high"], ["y"])
    values = any_bits((5000,), 11, kind)
    (found,), (expected,) = both(node, {"a": values}, weights, kind)
    assert_bits(found, expected)
