"""Emulated half precision against judges that round by other means: NumPy, onnx.reference and torch."""

import functools

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.utils._python_dispatch import TorchDispatchMode

from sagan_deploy.errors import InputError
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.parity.emulation import EXACT, ROUNDED, TESTS, emulated, session_options
from tests.exports import export_once
from tests.generators import CONFIGS, TINY, inputs, tiny_checkpoint

TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
ALL_HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)


def model(nodes, given, made, weights=(), opset=20, kind=TensorProto.FLOAT16):
    """A graph from half inputs (name → shape) to outputs (name → element type)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(name, to, None) for name, to in made.items()],
        [numpy_helper.from_array(value, name) for name, value in dict(weights).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return proto.SerializeToString()


def run(payload, feed, names=None):
    session = onnxruntime.InferenceSession(payload, session_options(1), providers=["CPUExecutionProvider"])
    return session.run(names, {name: np.asarray(value, np.float32) for name, value in feed.items()})


def one(op, *operands, weights=(), **attributes):
    """One node on half operands: the emulated result, and what the reference evaluator makes of the half graph."""
    names = "abc"[: len(operands)]
    node = helper.make_node(op, [*names, *dict(weights)], ["y"], **attributes)
    payload = model([node], {n: list(v.shape) for n, v in zip(names, operands, strict=True)}, {"y": 10}, weights)
    feed = dict(zip(names, operands, strict=True))
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(onnx.load_from_string(payload)).run(None, feed)[0]
    return run(emulated(payload), feed)[0], expected


def assert_bits(found, expected):
    """Equal as halves, signs of zero included; a NaN equals every NaN."""
    assert found.dtype == np.float32
    assert expected.dtype in TYPES.values()
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)
    np.testing.assert_array_equal(found[numbers].view(np.uint32), expected.astype(np.float32)[numbers].view(np.uint32))


def random_halves(count, seed):
    """Every kind of half: bits drawn uniformly, so that subnormals, infinities and NaN come too."""
    return np.random.default_rng(seed).integers(0, 65536, count).astype(np.uint16).view(np.float16)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_is_correctly_rounded_bit_for_bit(op):
    found, expected = one(op, random_halves(200_000, 1), random_halves(200_000, 2))
    assert_bits(found, expected)
    subnormal = (np.abs(expected) < 2.0**-14) & (expected != 0)
    assert subnormal.sum() > 100
    assert np.isinf(expected).sum() > 100


@pytest.mark.parametrize("op", ["Relu", "Sqrt", "Neg", "Abs", "Identity"])
def test_functions_of_every_half_value(op):
    found, expected = one(op, ALL_HALVES)
    if op == "Relu":
        expected[ALL_HALVES == 0] = found[ALL_HALVES == 0]  # max(−0, 0) may be either zero
    assert_bits(found, expected)


def test_tanh_of_every_half_value():
    """Against float64: the reference evaluator rounds inside NumPy's own half tanh, which is not correctly rounded."""
    found, _ = one("Tanh", ALL_HALVES)
    exact = np.tanh(ALL_HALVES.astype(np.float64))
    with np.errstate(invalid="ignore"):
        expected = exact.astype(np.float16)
    # Where tanh lies on the middle of two halves up to float32's error, either one is right.
    differs = ~np.isnan(exact) & (found.astype(np.float64) != expected)
    assert differs.sum() <= 4
    neighbour = np.nextafter(expected[differs], found[differs].astype(np.float16))
    np.testing.assert_array_equal(neighbour.astype(np.float32), found[differs])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))


def test_overflow_is_infinite_and_its_difference_is_no_number():
    nodes = [
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Mul", ["a", "a"], ["p"]),
        helper.make_node("Sub", ["s", "p"], ["y"]),
    ]
    payload = model(nodes, {"a": [4], "b": [4]}, {"s": 10, "p": 10, "y": 10})
    # 65504 is the largest half; 65520 lies in the middle between it and infinity, which is even.
    total, product, difference = run(emulated(payload), {"a": [65504, 65504, -65504, 300], "b": [15, 16, -60000, -300]})
    np.testing.assert_array_equal(total, [65504, np.inf, -np.inf, 0])
    np.testing.assert_array_equal(product, [np.inf, np.inf, np.inf, np.inf])
    np.testing.assert_array_equal(difference, [-np.inf, np.nan, -np.inf, -np.inf])


@pytest.mark.parametrize("kind", TYPES)
def test_a_cast_rounds_halves_to_even(kind):
    half = TYPES[kind]
    values = np.arange(65536, dtype=np.uint16).view(half).astype(np.float32)
    values = np.sort(values[np.isfinite(values)])
    middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    given = np.concatenate([values, middle, np.nextafter(middle, np.float32(9)), np.nextafter(middle, np.float32(-9))])
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=kind), helper.make_node("Cast", ["h"], ["y"], to=1)]
    payload = model(nodes, {"x": [None]}, {"y": 1}, kind=TensorProto.FLOAT)
    found = run(emulated(payload), {"x": given})[0]
    assert_bits(found, given.astype(half))


def test_half_inputs_are_rounded_first_and_half_outputs_become_float32():
    payload = emulated(model([helper.make_node("Identity", ["a"], ["y"])], {"a": ["n"]}, {"y": 10}))
    graph = onnx.load_from_string(payload).graph
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [1, 1]
    assert [v.name for v in (*graph.input, *graph.output)] == ["a", "y"]
    given = np.float32([1 / 3, 1e-9, 1e9])
    with np.errstate(over="ignore"):
        expected = given.astype(np.float16)
    assert_bits(run(payload, {"a": given})[0], expected)


def test_a_gathered_affine_rounds_twice():
    rng = np.random.default_rng(3)
    table = rng.standard_normal((5, 64)).astype(np.float16)
    nodes = [
        helper.make_node("Gather", ["table", "labels"], ["rows"]),
        helper.make_node("Split", ["rows"], ["scale", "shift"], axis=1, num_outputs=2),
        helper.make_node("Mul", ["a", "scale"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["y"]),
    ]
    weights = {"table": table, "labels": np.array([4, 0, 2])}
    payload = model(nodes, {"a": [3, 32]}, {"y": 10}, weights)
    x = rng.standard_normal((3, 32)).astype(np.float16)
    rows = table[[4, 0, 2]]
    assert_bits(run(emulated(payload), {"a": x})[0], x * rows[:, :32] + rows[:, 32:])


def test_the_softmax_island_stays_in_float32_between_its_casts():
    nodes = [
        helper.make_node("Cast", ["a"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["wide"], ["soft"]),
        helper.make_node("Cast", ["soft"], ["y"], to=TensorProto.FLOAT16),
    ]
    payload = model(nodes, {"a": [8, 50]}, {"y": 10, "soft": 1})
    x = (np.random.default_rng(4).standard_normal((8, 50)) * 5).astype(np.float16)
    rounded, soft = run(emulated(payload), {"a": x})
    exact = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft, exact, rtol=2e-6)
    assert (soft != soft.astype(np.float16)).any()  # not rounded inside
    assert_bits(rounded, soft.astype(np.float16))
    assert (rounded != soft).any()


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
def test_sums_are_wide_and_rounded_once(op):
    rng = np.random.default_rng(5)
    x_shape, w_shape = ((2, 48, 6, 6), (48, 48, 3, 3)) if op.startswith("Conv") else ((7, 300), (300, 20))
    x, w = (rng.standard_normal(shape).astype(np.float16) for shape in (x_shape, w_shape))
    found, _ = one(op, x, weights={"w": w})  # the reference evaluator sums in half precision in some of these
    function = {
        "Conv": torch.conv2d, "ConvTranspose": torch.conv_transpose2d, "MatMul": torch.matmul, "Gemm": torch.matmul
    }[op]  # fmt: skip
    x, w = (torch.from_numpy(v.astype(np.float64)) for v in (x, w))
    exact, size = function(x, w).numpy(), function(x.abs(), w.abs()).numpy()
    np.testing.assert_array_equal(found, found.astype(np.float16))
    # Half an ulp of the one rounding, and before it what float32 sums lose: far less than one half rounding inside.
    rounding = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64) / 2
    assert (np.abs(found - exact) <= rounding + 2.0**-21 * size).all()


def test_a_sum_that_fits_float32_but_not_half_is_infinite():
    found, _ = one("MatMul", np.full((1, 4), 200, np.float16), weights={"w": np.full((4, 1), 100, np.float16)})
    assert found == np.inf


def test_bfloat16_rounds_to_eight_digits():
    node = helper.make_node("Mul", ["a", "b"], ["y"])
    payload = emulated(model([node], {"a": [1000], "b": [1000]}, {"y": 16}, opset=22, kind=TensorProto.BFLOAT16))
    rng = np.random.default_rng(6)
    x, y = (rng.standard_normal(1000).astype(ml_dtypes.bfloat16) for _ in range(2))
    assert_bits(run(payload, {"a": x, "b": y})[0], x * y)


def test_weights_and_constants_are_widened_without_change():
    weight = random_halves(500, 7)
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight, "c"))
    nodes = [constant, helper.make_node("Concat", ["w", "c", "a"], ["y"], axis=0)]
    found = run(emulated(model(nodes, {"a": [1]}, {"y": 10}, {"w": weight})), {"a": [1.0]})[0]
    assert_bits(found, np.concatenate([weight, weight, np.float16([1])]))


@functools.cache
def exported(name):
    """A lively generator and its fp16 file."""
    checkpoint = tiny_checkpoint(CONFIGS[name])
    return checkpoint, export_once(checkpoint, InferenceOptions(precision="fp16")).payload


class Rounding(TorchDispatchMode):
    """Round what every torch operation gives out. The file's softmax island rounds its result too, by its Cast."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_float = isinstance(result, torch.Tensor) and result.dtype == torch.float32
        return result.half().float() if is_float else result


def by_torch(checkpoint, count):
    """The inference form in float32 on half weights, rounded after every operation by torch."""
    generator = to_inference(checkpoint.generator(), InferenceOptions(precision="fp16")).rounded().float()
    z, *labels = inputs(checkpoint.config, count, torch.float32)
    with Rounding(), torch.no_grad():
        return generator(z.half().float(), *labels).numpy()


def feed_of(config, count):
    values = dict(zip(("z", "labels"), inputs(config, count, torch.float32), strict=False))
    return {name: value.numpy() for name, value in values.items()}


def run_generator(payload, config, count):
    session = onnxruntime.InferenceSession(payload, session_options(1), providers=["CPUExecutionProvider"])
    return session.run(["images"], feed_of(config, count))[0]


def relative(found, expected):
    return np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["sagan", "transposed-convolutions"])
def test_a_generator_agrees_with_torch_rounding_and_not_with_the_unrounded_run(name):
    checkpoint, payload = exported(name)
    found = run_generator(emulated(payload), checkpoint.config, 4)
    assert_bits(found, found.astype(np.float16))
    unrounded = run_generator(payload, checkpoint.config, 4)
    rounded = by_torch(checkpoint, 4)
    assert relative(found, rounded) < relative(unrounded, rounded) / 4


# Between them they have every operation that exports use.
@pytest.mark.parametrize(
    "name", ["sagan", "biggan-deep", "plain-blocks", "transposed-convolutions", "bilinear", "conditional-stem-norm"]
)
def test_every_half_value_of_a_generator_stays_half(name):
    from tests.parity.test_emulated_operations import PROVEN, half_operators

    checkpoint, payload = exported(name)
    assert half_operators(payload) <= PROVEN
    original = onnx.load_from_string(payload).graph
    halves = [v.name for v in original.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16]
    watched = onnx.load_from_string(emulated(payload))
    watched.graph.output.extend(helper.make_empty_tensor_value_info(value) for value in halves)
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )
    assert len(halves) > 30
    for value, array in zip(halves, session.run(halves, feed_of(checkpoint.config, 2)), strict=True):
        assert array.dtype == np.float32, value
        np.testing.assert_array_equal(array, array.astype(np.float16), err_msg=value)


def test_attention_scores_beyond_the_largest_half_do_not_stay_finite():
    _, payload = exported("sagan")
    changed = onnx.load_from_string(payload)
    for tensor in changed.graph.initializer:
        if tensor.name.endswith("attention.projection"):
            weights = numpy_helper.to_array(tensor) * np.float16(3000)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    payload = changed.SerializeToString()
    assert np.isfinite(run_generator(payload, TINY, 2)).all()  # ONNX Runtime alone sees nothing
    assert not np.isfinite(run_generator(emulated(payload), TINY, 2)).all()


def test_the_input_is_not_changed_and_equal_inputs_give_equal_bytes():
    _, payload = exported("sagan")
    kept = bytes(bytearray(payload))
    first = emulated(payload)
    assert payload == kept
    assert first == emulated(payload)
    onnx.checker.check_model(first, full_check=True)
    metadata = {entry.key for entry in onnx.load_from_string(first).metadata_props}
    assert "sagan_deploy.stages" in metadata


def refused_graphs():
    half = TensorProto.FLOAT16
    running_sum = helper.make_node("CumSum", ["a", "axis"], ["y"])
    product = helper.make_node("MatMul", ["a", "b"], ["y"])
    same = helper.make_node("Identity", ["a"], ["z"])
    branch = helper.make_graph([same], "g", [], [helper.make_tensor_value_info("z", half, [1])])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    return {
        "no ONNX model": b"\x01\x02 nothing",
        "nothing in this ONNX model is float16": model([same], {"a": [1]}, {"z": 1}, kind=TensorProto.FLOAT),
        "CumSum": model([running_sum], {"a": [4]}, {"y": half}, {"axis": np.array(0)}),
        "contradicts itself": model([product], {"a": [2, 3], "b": [4, 2]}, {"y": half}),
        "branches": model([choice], {"a": [1]}, {"y": half}, {"yes": np.array(True)}),
    }


@pytest.mark.parametrize("reason", refused_graphs())
def test_what_cannot_be_emulated_is_refused(reason):
    with pytest.raises(InputError, match=reason):
        emulated(refused_graphs()[reason])


def test_the_sets_of_operations_do_not_overlap():
    assert not EXACT & ROUNDED
    assert not TESTS & (EXACT | ROUNDED)
