"""Quantised models: judged by PyTorch's fake quantisation, ONNX Runtime's own tool and TensorRT's real builder."""

import functools
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from exporters import errors
from exporters.calibration import MagnitudeCounter, activation_ranges
from exporters.graph import MODULE_KEY
from exporters.onnx import export_onnx, stage_outputs
from exporters.quantise import (
    LARGEST,
    check_quantised_onnx,
    check_quantised_plan,
    check_quantised_targets,
    convolution_inputs,
    planned_convolutions,
    quantise,
    quantised_convolutions,
)
from exporters.specs import OnnxSpec
from exporters.targets import resolve_targets
from exporters.tensorrt.backend import installed, load_backend
from exporters.tensorrt.builder import build_engine
from exporters.tensorrt.layers import IoTensor, Layer, LayerReport, Operand
from tests.exporters.models import PATHS, SPEC, engine_spec, exported, inputs, network, profile

ATTENTION = ("stages.0.attention", "stages.1.attention")
SKIP = (*ATTENTION, "tail")
QUANTISED = ("stages.0.conv/Conv", "stages.1.conv/Conv")
KINDS = pytest.mark.parametrize("kind", ["int8", "fp8"])
with_rtx = pytest.mark.skipif(not installed("rtx"), reason="tensorrt_rtx is not installed")


def feeds(count=4):
    return {name: value.numpy() for name, value in inputs(count).items()}


@functools.cache
def ranges(dtype=torch.float16, percentile=100.0):
    return activation_ranges(exported("fused", dtype).payload, [feeds()], percentile)


@functools.cache
def quantised(kind="int8", dtype=torch.float16, skip=SKIP):
    return quantise(exported("fused", dtype).payload, ranges(dtype), kind, skip)


def run(payload, names, batch):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Optimised, Q/DQ pairs become integer kernels; here the numbers of the file are wanted.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    return session.run(names, batch)


def graph_of(payload):
    graph = onnx.load_from_string(payload).graph
    return graph, {tensor.name: tensor for tensor in graph.initializer}


def with_rank_one_scales(payload, count=None):
    """What numpy.ascontiguousarray does to rank-0 scales, for the first `count` activations."""
    model = onnx.load_from_string(payload)
    names = list(dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"))[:count]
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor)), tensor.name))
            assert list(tensor.dims) == [1]
    return model.SerializeToString()


# --- the written model ---


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_not_skipped_reads_codes_and_nothing_else_changes(kind, dtype):
    before, _ = graph_of(exported("fused", dtype).payload)
    after, constants = graph_of(quantised(kind, dtype))
    onnx.checker.check_model(quantised(kind, dtype), full_check=True)
    assert quantised_convolutions(quantised(kind, dtype)) == QUANTISED
    assert (after.input, after.output) == (before.input, before.output)
    rest = [node for node in after.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert [(node.name, node.output) for node in rest] == [(node.name, node.output) for node in before.node]
    changed = [new.name for new, old in zip(rest, before.node, strict=True) if new != old]
    assert tuple(changed) == QUANTISED
    wanted = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}[kind]
    codes = [name for name, tensor in constants.items() if tensor.data_type == wanted and len(tensor.dims) == 4]
    assert sorted(codes) == ["stages.0.conv.weight.codes", "stages.1.conv.weight.codes"]
    assert not {"stages.0.conv.weight", "stages.1.conv.weight"} & set(constants)  # not stored twice


@KINDS
def test_activations_have_rank_zero_scales_and_weights_one_per_output_channel(kind):
    graph, constants = graph_of(quantised(kind, skip=()))
    float_type = TensorProto.FLOAT16
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    weights = [node for node in pairs if node.input[0] in constants]
    activations = [node for node in pairs if node not in weights]
    # The three projections of an attention block read one tensor, and share its pair.
    distinct = convolution_inputs(exported().payload)
    assert len(activations) == 2 * len(distinct) == 14
    assert len(quantised_convolutions(quantised(kind, skip=()))) == len(weights) == 11
    for node in activations:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert (list(scale.dims), scale.data_type, list(zero.dims)) == ([], float_type, [])
        assert not np.any(numpy_helper.to_array(zero).astype(np.float32))
    for node in weights:
        codes, scale = constants[node.input[0]], constants[node.input[1]]
        assert (list(scale.dims), scale.data_type) == ([codes.dims[0]], float_type)
        assert [(entry.name, entry.i) for entry in node.attribute] == [("axis", 0)]
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale = float(numpy_helper.to_array(constants[node.input[1]]))
            assert scale == pytest.approx(ranges()[node.input[0]] / LARGEST[kind], rel=1e-3)


def test_int8_codes_are_those_of_onnxruntimes_own_tool(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([feeds()])

        def get_next(self):
            return next(self.batches, None)

    logging.getLogger().setLevel(logging.ERROR)  # the tool recommends its own preprocessing
    path, out = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    path.write_bytes(exported("fused", torch.float32).payload)
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    options["OpTypesToExcludeOutputQuantization"] = ["Conv"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(path, out, Reader(), op_types_to_quantize=["Conv"], per_channel=True, extra_options=options)
    theirs = graph_of(out.read_bytes())[1]
    graph, ours = graph_of(quantised("int8", torch.float32, ()))
    checked = 0
    for name, tensor in theirs.items():
        if name.endswith("_quantized"):
            parameter = name.removesuffix("_quantized")
            np.testing.assert_array_equal(
                numpy_helper.to_array(ours[f"{parameter}.codes"]), numpy_helper.to_array(tensor)
            )
            scales = numpy_helper.to_array(theirs[f"{parameter}_scale"])
            np.testing.assert_allclose(numpy_helper.to_array(ours[f"{parameter}.scales"]), scales, rtol=1e-6)
            checked += 1
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale = numpy_helper.to_array(theirs[f"{node.input[0]}_scale"])
            np.testing.assert_allclose(numpy_helper.to_array(ours[node.input[1]]), scale, rtol=1e-6)
            assert scale.shape == ()
            checked += 1
    assert checked == 11 + 7


def fake_quantised(values, scale, kind):
    if kind == "int8":
        return torch.clamp(torch.round(values / scale), -127, 127) * scale
    return (values / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


@KINDS
def test_the_model_computes_what_pytorch_fake_quantises(kind):
    """All 11 convolutions, in float32, so that nothing but the quantisation separates the file from the module."""
    module = network()
    bounds = dict(zip(("stages.0.conv", "stages.1.conv"), (0.7, 1.1), strict=True))
    values = dict.fromkeys(convolution_inputs(exported("fused", torch.float32).payload), 0.9)
    graph, _ = graph_of(exported("fused", torch.float32).payload)
    for node in graph.node:
        if node.op_type == "Conv" and (module_path := node.name.removesuffix("/Conv")) in bounds:
            values[node.input[0]] = bounds[module_path]
    payload = quantise(exported("fused", torch.float32).payload, values, kind)
    images = run(payload, ["images"], feeds())[0]
    for path, part in module.named_modules():
        if isinstance(part, torch.nn.Conv2d):
            scale = torch.tensor(bounds.get(path, 0.9) / LARGEST[kind])
            part.register_forward_pre_hook(lambda _, args, scale=scale: (fake_quantised(args[0], scale, kind),))
            rows = part.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / LARGEST[kind]
            part.weight.data = fake_quantised(part.weight.detach(), rows, kind)
    with torch.no_grad():
        expected = module(*inputs(4).values()).numpy()
        plain = network()(*inputs(4).values()).numpy()
    size = np.linalg.norm(expected)
    moved = np.linalg.norm(expected - plain) / size
    # A value that lies on the border of two codes may fall to either side; the rest is float32.
    assert np.linalg.norm(images - expected) / size < 0.1 * moved
    assert moved > 5e-3


def test_stages_keep_their_outputs():
    assert stage_outputs(quantised(skip=()), PATHS) == stage_outputs(exported().payload, PATHS)
    graph, _ = graph_of(quantised())
    modules = {node.name: {entry.key: entry.value for entry in node.metadata_props} for node in graph.node}
    assert modules["stages.0.conv/QuantizeLinear"] == {MODULE_KEY: "stages.0.conv"}


def test_equal_arguments_give_equal_bytes():
    assert quantise(exported().payload, dict(reversed(ranges().items())), "int8", SKIP) == quantised()


def test_a_tensor_of_zeros_has_a_scale():
    payload = quantise(exported().payload, dict.fromkeys(ranges(), 0.0), "int8")
    _, constants = graph_of(payload)
    scales = [numpy_helper.to_array(tensor) for name, tensor in constants.items() if ".scale" in name]
    assert min(float(scale.min()) for scale in scales) > 0
    assert np.isfinite(run(payload, ["images"], feeds())[0]).all()


@KINDS
def test_channels_too_small_for_a_scale_in_float16(kind):
    """Scales down there have few digits: what is too large for the codes is cut off, and never changes its sign."""
    module, step = network(dtype=torch.float16), 2.0**-24
    weight = module.stages[0].conv.weight
    with torch.no_grad():
        rows = weight[:3].float() / weight[:3].float().abs().amax(dim=(1, 2, 3), keepdim=True)
        sizes = torch.tensor([0.0, 10 * step, 1.45 * LARGEST[kind] * step]).reshape(3, 1, 1, 1)
        weight[:3] = (rows * sizes).half()
    payload = export_onnx(module, inputs(), SPEC).payload
    _, constants = graph_of(quantise(payload, ranges(), kind, SKIP))
    codes = numpy_helper.to_array(constants["stages.0.conv.weight.codes"]).astype(np.float64)
    scales = numpy_helper.to_array(constants["stages.0.conv.weight.scales"]).astype(np.float64)
    stored = codes * scales.reshape(-1, 1, 1, 1)
    expected = weight.detach().double().numpy()
    assert not stored[0].any()
    np.testing.assert_array_equal(stored[1], expected[1])
    assert np.abs(stored[2]).max() == LARGEST[kind] * step
    np.testing.assert_allclose(stored[2], np.clip(expected[2], -LARGEST[kind] * step, LARGEST[kind] * step), rtol=0.07)
    usual = np.abs(stored[3:] - expected[3:]) / np.abs(expected[3:]).max(axis=(1, 2, 3), keepdims=True)
    assert usual.max() < (0.51 / 127 if kind == "int8" else 0.07)


def test_what_cannot_be_quantised():
    payload, known = exported().payload, ranges()
    name = next(iter(known))
    for wrong in (float("nan"), float("inf"), -1.0):
        with pytest.raises(errors.SpecError, match=r"range of .* must be a number ≥ 0: 'stages.0.conv/Conv' reads it"):
            quantise(payload, known | {name: wrong}, "int8")
    with pytest.raises(errors.SpecError, match=r"\(=None\).*Calibrate the model"):
        quantise(payload, {}, "fp8", SKIP)
    with pytest.raises(errors.SpecError, match="skip names 'attention', but no convolution"):
        quantise(payload, known, "int8", ("attention",))
    with pytest.raises(errors.SpecError, match="of 11 convolutions with constant weights all are skipped"):
        quantise(payload, known, "int8", ("stages", "tail"))
    with pytest.raises(errors.InvalidOnnx, match="these 9 bytes are no ONNX model"):
        quantise(b"not onnx!", known, "int8")
    brain = exported("fused", torch.bfloat16).payload
    with pytest.raises(errors.SpecError, match="neither float16 nor float32"):
        quantise(brain, dict.fromkeys(convolution_inputs(brain), 1.0), "int8")
    old = OnnxSpec(SPEC.input_names, SPEC.output_names, SPEC.dynamic_axes, 18)
    with pytest.raises(errors.SpecError, match="opset 18; quantisation needs 19"):
        quantise(export_onnx(network(), inputs(), old).payload, known, "int8")


def test_scales_of_rank_one_and_computed_scales_are_refused():
    check_quantised_onnx(quantised())
    check_quantised_onnx(exported().payload)
    with pytest.raises(errors.InvalidOnnx, match=r"'stages.0.conv/QuantizeLinear' is of shape \[1\]; .* rank 0"):
        check_quantised_onnx(with_rank_one_scales(quantised(), 1))
    model = onnx.load_from_string(quantised())
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.node.insert(0, helper.make_node("Identity", [node.input[1]], ["computed"]))
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    node.input[1] = "computed"
    with pytest.raises(errors.InvalidOnnx, match="is no constant"):
        check_quantised_onnx(model.SerializeToString())


def test_a_broken_model_is_refused():
    model = onnx.load_from_string(quantised())
    del model.graph.initializer[0]
    with pytest.raises(errors.InvalidOnnx, match="the quantised model is invalid"):
        check_quantised_onnx(model.SerializeToString())


# --- calibration ---


def test_ranges_are_the_largest_values_that_pytorch_sees():
    module, seen = network(), {}
    for path, part in module.named_modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_pre_hook(lambda _, args, path=path: seen.update({path: float(args[0].abs().max())}))
    with torch.no_grad():
        module(*inputs(4).values())
    graph, _ = graph_of(exported("fused", torch.float32).payload)
    expected = {
        node.input[0]: seen[next(entry.value for entry in node.metadata_props if entry.key == MODULE_KEY)]
        for node in graph.node
        if node.op_type == "Conv"
    }
    assert ranges(torch.float32) == pytest.approx(expected, rel=1e-5)
    assert ranges(torch.float16) == pytest.approx(expected, rel=1e-2)


def test_batches_make_no_difference_but_the_values_do():
    payload, whole = exported().payload, feeds(6)
    parts = ({name: value[i : i + 2] for name, value in whole.items()} for i in (0, 2, 4))
    assert activation_ranges(payload, parts, 99.0) == pytest.approx(activation_ranges(payload, [whole], 99.0), rel=2e-2)
    assert ranges(torch.float16, 90.0) != ranges()
    assert all(ranges(torch.float16, 90.0)[name] < most for name, most in ranges().items())


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 3e4])
def test_percentiles_agree_with_numpy(percent, spread):
    values = np.random.default_rng(0).standard_normal((40, 5000)).astype(np.float32) * np.float32(spread)
    counter = MagnitudeCounter()
    for row in values:
        counter.add(row)
    found, expected = counter.percentile(percent), np.percentile(np.abs(values), percent, method="inverted_cdf")
    # The upper end of a class: never below, and less than 1/128 above.
    assert expected <= found <= expected * (1 + 1 / 128)
    assert counter.counts.nbytes == 2**18
    if percent == 100.0:
        assert found == np.abs(values).max()


def test_counting_half_values_zeros_and_nothing():
    counter = MagnitudeCounter()
    counter.add(np.zeros(0, np.float32))
    assert counter.percentile(99.0) == 0.0
    counter.add(np.array([0.0, -0.0], np.float16))
    assert counter.percentile(100.0) == counter.percentile(99.0) == 0.0
    counter.add(np.array([-65504.0], np.float16))
    assert counter.percentile(100.0) == 65504.0


def test_calibration_refuses_what_has_no_range():
    payload = exported().payload
    with pytest.raises(errors.SpecError, match="there is no batch"):
        activation_ranges(payload, [])
    with pytest.raises(errors.SpecError, match=r"percentile \(=0.99\) must lie in 50..100"):
        activation_ranges(payload, [feeds()], 0.99)
    broken = feeds() | {"z": np.full((4, 8), np.inf, np.float32)}
    with pytest.raises(errors.InvalidOnnx, match="values that are not finite in batch 2"):
        activation_ranges(payload, iter([feeds(), broken]))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    with pytest.raises(errors.InvalidOnnx, match="nothing to calibrate"):
        activation_ranges(model.SerializeToString(), [])


# --- targets and plans ---


@pytest.mark.parametrize(
    ("kind", "targets", "words"),
    [
        ("int8", "sm_75,sm_86", r"int8 .* need sm_80 .* not sm_75 \(RTX 2060.*without saying so.*export fp16 for them"),
        ("fp8", "sm_86,sm_89", r"fp8 .* need sm_89 .* not sm_86 \(RTX 3050.*export int8 or fp16 for them"),
        ("fp8", "all-rtx", r"not sm_80 .*, sm_86 "),
        ("fp8", "rtx-2080", r"not sm_75 .*, or export fp16 for them"),
    ],
)
def test_targets_without_the_instructions_are_refused_before_the_build(kind, targets, words):
    with pytest.raises(errors.UnsupportedTarget, match=words):
        check_quantised_targets(kind, resolve_targets(targets))


def test_targets_with_the_instructions_are_not():
    check_quantised_targets("int8", resolve_targets("all-rtx"))
    check_quantised_targets("fp8", resolve_targets("sm_89,sm_120,sm_121"))


def build(payload, targets, **changes):
    return build_engine(load_backend("rtx"), payload, engine_spec(targets=(targets,), **changes)).layers


@with_rtx
@pytest.mark.parametrize(("kind", "targets"), [("int8", "sm_86,sm_89,sm_120"), ("fp8", "sm_89,sm_120")])
def test_real_plans_have_every_quantised_convolution_in_the_type(kind, targets):
    report = build(quantised(kind), targets, profiles=(profile(1, 1, 2), profile(1, 4, 8)), fused_attention=2)
    check_quantised_plan(report, kind, QUANTISED)
    assert planned_convolutions(report, kind, QUANTISED) == dict.fromkeys(QUANTISED, 2)
    # What was not quantised is not: a report that calls everything int8 would prove nothing.
    assert planned_convolutions(report, kind, ["tail/Conv"]) == {"tail/Conv": 0}
    other = "fp8" if kind == "int8" else "int8"
    with pytest.raises(errors.PrecisionMismatch, match=f"{other} was asked for, but only 0 of 2"):
        check_quantised_plan(report, other, QUANTISED)


@with_rtx
@KINDS
@pytest.mark.parametrize(("count", "left"), [(None, 0), (1, 1)])
def test_scales_of_rank_one_cost_the_type_and_the_check_sees_it(kind, count, left):
    """TensorRT's own doing, measured: when this fails, it has learnt to read such scales."""
    report = build(with_rank_one_scales(quantised(kind), count), "sm_89")
    with pytest.raises(errors.PrecisionMismatch, match=f"only {left} of 2 .* stages.0.conv/Conv reads float16"):
        check_quantised_plan(report, kind, QUANTISED)


@with_rtx
def test_turing_runs_half_without_a_word_and_the_check_sees_it():
    report = build(quantised("int8"), "sm_75")
    with pytest.raises(errors.PrecisionMismatch, match="only 0 of 2"):
        check_quantised_plan(report, "int8", QUANTISED)


@with_rtx
def test_what_is_left_out_must_be_float16():
    report = build(quantised("int8", torch.float32), "sm_89")
    with pytest.raises(errors.PrecisionMismatch, match="what int8 leaves out must be float16, but .* reads float32"):
        check_quantised_plan(report, "int8", QUANTISED)


@with_rtx
def test_a_plain_plan_is_no_quantised_one():
    with pytest.raises(errors.PrecisionMismatch, match="only 0 of 2"):
        check_quantised_plan(build(exported().payload, "sm_89"), "int8", QUANTISED)


def layer(dtype, *nodes, kind="correlation"):
    return Layer(nodes[0], kind, (Operand("x", dtype, (-1, 8)),), (), (), "", nodes)


def test_every_convolution_counts_in_every_profile():
    shapes = profile()["z"]
    io = (IoTensor("z", True, "float32", (-1, 8), (shapes, shapes)),)
    good = (layer("int8", "a"), layer("int8", "b"), layer("int8", "a", "b"))
    check_quantised_plan(LayerReport(good, io), "int8", ["a", "b"])
    with pytest.raises(errors.PrecisionMismatch, match="only 1 of 2 .*: b reads int8"):
        check_quantised_plan(LayerReport((*good[:2], layer("int8", "a")), io), "int8", ["a", "b"])
    with pytest.raises(errors.PrecisionMismatch, match="b reads float16 and int8"):
        check_quantised_plan(LayerReport((*good[:2], layer("int8", "a"), layer("float16", "b")), io), "int8", "ab")
    with pytest.raises(errors.PrecisionMismatch, match="only 0 of 1 .*: a reads nothing that is reported"):
        check_quantised_plan(LayerReport((layer("int8", "a", kind="kgen"),) * 2, io), "int8", ["a"])
    with pytest.raises(errors.PrecisionMismatch, match="no quantised convolution"):
        check_quantised_plan(LayerReport(good, io), "int8", [])
