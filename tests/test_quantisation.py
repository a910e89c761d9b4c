"""Quantised generators: what the file says of itself, what TensorRT makes of it, and how far the pictures move."""

import dataclasses
import functools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import exporters.calibration
from exporters.errors import PrecisionMismatch, SpecError
from exporters.onnx import stage_outputs
from exporters.quantise import LARGEST, check_quantised_plan, planned_convolutions, quantised_convolutions
from exporters.specs import EngineSpec, ShapeRange
from exporters.tensorrt.backend import installed, load_backend
from exporters.tensorrt.builder import build_engine
from sagan_deploy.errors import ConfigError
from sagan_deploy.export import baked
from sagan_deploy.latents import sample_latents
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.onnx_header import read_onnx_header
from sagan_deploy.presets import preset
from sagan_deploy.quantisation import CONVOLUTIONS_KEY, quantised
from tests import exports
from tests.generators import CONFIGS, TINY, tiny_checkpoint

REST = ("biggan-deep", "plain-blocks", "bilinear")  # for make test-all
KINDS = pytest.mark.parametrize("kind", ["int8", "fp8"])
with_rtx = pytest.mark.skipif(not installed("rtx"), reason="tensorrt_rtx is not installed")
HALF = InferenceOptions(precision="fp16")


@pytest.fixture(autouse=True, scope="module")
def shared_exports():
    with exports.shared():
        yield


@functools.cache
def written(kind="int8", **options):
    return quantised(tiny_checkpoint(), kind, **options)


def convolutions(payload, quantised_ones=True):
    names = quantised_convolutions(payload)
    every = [node.name for node in onnx.load_from_string(payload).graph.node if node.op_type == "Conv"]
    return [name for name in every if (name in names) == quantised_ones]


def calibration_batches(monkeypatch, checkpoint, **arguments):
    seen = []

    def spy(payload, inputs, percentile):
        seen.extend(inputs)
        return real(payload, seen, percentile)

    real = exporters.calibration.activation_ranges
    monkeypatch.setattr(exporters.calibration, "activation_ranges", spy)
    quantised(checkpoint, "int8", **arguments)
    return {name: np.concatenate([batch[name] for batch in seen]) for name in seen[0]}


@KINDS
def test_the_file_says_what_it_is_and_how_it_was_made(kind):
    checkpoint, plain = tiny_checkpoint(), exports.export_once(tiny_checkpoint(), HALF)
    told = []
    file = quantised(checkpoint, kind, latents=12, seed=5, percentile=99.9, progress=lambda *what: told.append(what))
    assert read_onnx_header(file.payload, "file").metadata == file.metadata
    assert file.metadata["sagan_deploy.precision"] == kind
    assert json.loads(file.metadata[CONVOLUTIONS_KEY]) == convolutions(file.payload)
    *before, step = json.loads(file.metadata["sagan_deploy.provenance"])
    assert before == json.loads(plain.metadata["sagan_deploy.provenance"])
    assert step == {
        "step": "quantise",
        "kind": kind,
        "convolutions": 12,
        "kept_fp16": ["tail", "stages.0.attention"],
        "calibration": {"seed": 5, "latents": 12, "percentile": 99.9},
    }
    changed = {name for name, value in file.metadata.items() if plain.metadata.get(name) != value}
    assert changed == {"sagan_deploy.precision", "sagan_deploy.provenance", CONVOLUTIONS_KEY}
    assert (file.opset, file.z_type) == (plain.opset, plain.z_type)
    assert file.nodes == len(onnx.load_from_string(file.payload).graph.node) > plain.nodes
    stages = json.loads(file.metadata["sagan_deploy.stages"])
    assert stage_outputs(file.payload, list(stages)) == stages
    assert told[-3:] == [("calibrate", 0, 12), ("calibrate", 8, 12), ("calibrate", 12, 12)]


def test_equal_arguments_give_equal_bytes_and_every_argument_counts():
    assert quantised(tiny_checkpoint(), "int8", latents=8).payload == written(latents=8).payload
    others = [{"latents": 32}, {"latents": 8, "seed": 1}, {"latents": 8, "percentile": 99.0}]
    # The metadata name every argument; here the scales themselves must differ.
    graphs = [onnx.load_from_string(written(**other).payload).graph for other in [{"latents": 8}, *others]]
    assert len({graph.SerializeToString(deterministic=True) for graph in graphs}) == 4


def test_pixels_and_attention_stay_float16():
    assert convolutions(written().payload, False) == [
        "stages.0.attention/Conv",
        "stages.0.attention/Conv_1",
        "tail.conv/Conv",
    ]
    assert convolutions(written(attention_projections=True).payload, False) == ["tail.conv/Conv"]
    nodes = onnx.load_from_string(written(attention_projections=True).payload).graph.node
    dequantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    products = [node for node in nodes if node.op_type in ("MatMul", "Gemm")]
    assert len(products) == 3
    assert all(dequantised.isdisjoint(node.input) for node in products)


def test_attention_of_two_stages_and_none():
    two = quantised(tiny_checkpoint(CONFIGS["two-attentions"]), "int8", latents=3)
    assert {name.split("/")[0] for name in convolutions(two.payload, False)} == {
        "stages.0.attention", "stages.1.attention", "tail.conv",
    }  # fmt: skip
    none = quantised(tiny_checkpoint(CONFIGS["conditional-stem-norm"]), "fp8", latents=3)
    assert convolutions(none.payload, False) == ["tail.conv/Conv"]


def test_it_is_calibrated_on_all_classes_and_on_latents_of_the_seed(monkeypatch):
    seen = calibration_batches(monkeypatch, tiny_checkpoint(), latents=11, seed=3)
    assert seen["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    np.testing.assert_array_equal(seen["z"], sample_latents(3, 11, TINY.z_dim))


def test_more_classes_than_latents_are_spread_evenly(monkeypatch):
    checkpoint = tiny_checkpoint(dataclasses.replace(TINY, num_classes=31))
    assert calibration_batches(monkeypatch, checkpoint, latents=4)["labels"].tolist() == [0, 10, 20, 30]


def test_unconditional_generators_and_float16_latents(monkeypatch):
    options = InferenceOptions(precision="fp16", io_precision="fp16")
    seen = calibration_batches(monkeypatch, tiny_checkpoint(CONFIGS["unconditional"]), latents=2, options=options)
    assert {name: value.dtype for name, value in seen.items()} == {"z": np.float16}


def test_what_cannot_be():
    with pytest.raises(ConfigError, match=r"precision \(=fp32\) must be fp16"):
        quantised(tiny_checkpoint(), "int8", InferenceOptions())
    with pytest.raises(ConfigError, match=r"latents \(=0\) must be at least 1"):
        quantised(tiny_checkpoint(), "int8", latents=0)
    with pytest.raises(SpecError, match="opset 18; quantisation needs 19"):
        quantised(tiny_checkpoint(), "int8", latents=1, opset=18)
    with pytest.raises(SpecError, match=r"nothing to quantise: .* Export fp16 instead"):
        quantised(tiny_checkpoint(CONFIGS["transposed-convolutions"]), "int8", latents=1)


# --- plans ---


def build(file, config, targets):
    ranges = {"z": ShapeRange((1, config.z_dim), (4, config.z_dim), (8, config.z_dim))}
    if config.conditional:
        ranges["labels"] = ShapeRange((1,), (4,), (8,))
    spec = EngineSpec(targets=(targets,), profiles=(ranges,), fused_attention=len(config.attention_after))
    return build_engine(load_backend("rtx"), file.payload, spec).layers


@with_rtx
@pytest.mark.parametrize(("kind", "targets"), [("int8", "sm_86,sm_89,sm_120"), ("fp8", "sm_89,sm_120")])
@pytest.mark.parametrize("name", ["sagan", "sagan32", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in REST)])
def test_every_quantised_convolution_is_planned_in_the_type(name, kind, targets):
    config = CONFIGS.get(name) or preset(name).generator
    file = quantised(tiny_checkpoint(config), kind, latents=4)
    names = json.loads(file.metadata[CONVOLUTIONS_KEY])
    assert len(names) >= 6
    report = build(file, config, targets)
    check_quantised_plan(report, kind, names)
    assert set(planned_convolutions(report, kind, names).values()) == {1}
    assert not any(planned_convolutions(report, kind, convolutions(file.payload, False)).values())


@with_rtx
@pytest.mark.parametrize("upsample_conv", ["transposed", "plain"])
def test_other_forms_of_upsampling(upsample_conv):
    options = InferenceOptions(precision="fp16", upsample_conv=upsample_conv, output="uint8")
    file = quantised(tiny_checkpoint(), "int8", options, latents=4)
    check_quantised_plan(build(file, TINY, "sm_89"), "int8", json.loads(file.metadata[CONVOLUTIONS_KEY]))


@with_rtx
def test_the_plain_export_would_not_pass_for_a_quantised_one():
    plain = exports.export_once(tiny_checkpoint(), HALF)
    names = json.loads(written().metadata[CONVOLUTIONS_KEY])
    with pytest.raises(PrecisionMismatch, match="int8 was asked for, but only 0 of 12"):
        check_quantised_plan(build(plain, TINY, "sm_89"), "int8", names)


# --- pictures ---


def drawn(payload, z, labels):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    return session.run(["images"], {"z": z, "labels": labels})[0].astype(np.float64)


def fake_quantised(generator, kind, z, labels, calibration):
    """The training form with the same convolutions quantised by PyTorch: what the type costs this network."""
    network, largest, seen = baked(generator), LARGEST[kind], {}
    parts = {
        path: part
        for path, part in network.named_modules()
        if isinstance(part, torch.nn.Conv2d) and "tail" not in path and "attention" not in path
    }

    def rounded(values, scale):
        codes = (values / scale).clamp(-largest, largest)
        return (codes.round() if kind == "int8" else codes.to(torch.float8_e4m3fn).float()) * scale

    hooks = [
        part.register_forward_pre_hook(lambda _, args, path=path: seen.update({path: args[0].abs().flatten()}))
        for path, part in parts.items()
    ]
    with torch.no_grad():
        network(*calibration)
        for hook in hooks:
            hook.remove()
        for path, part in parts.items():
            amax = seen[path].kthvalue(round(0.9999 * seen[path].numel())).values
            part.register_forward_pre_hook(lambda _, args, amax=amax: (rounded(args[0], amax / largest),))
            rows = part.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / largest
            part.weight.copy_(rounded(part.weight, rows))
        return network(torch.from_numpy(z), torch.from_numpy(labels)).double().numpy()


@KINDS
def test_the_pictures_move_as_far_as_pytorchs_own_quantisation_moves_them(kind):
    """Kernels of upsampling convolutions are quantised in four parts here and whole there: alike, not equal."""
    checkpoint = tiny_checkpoint()
    z, labels = sample_latents(1234, 16, TINY.z_dim), np.arange(16) % TINY.num_classes
    calibration = (torch.from_numpy(sample_latents(0, 64, TINY.z_dim)), torch.arange(64) % TINY.num_classes)
    with torch.no_grad():
        reference = checkpoint.generator().double()(torch.from_numpy(z).double(), torch.from_numpy(labels)).numpy()

    def moved(images):
        errors = np.sqrt(((images - reference) ** 2).sum((1, 2, 3)) / (reference**2).sum((1, 2, 3)))
        return float(np.median(errors))

    found = moved(drawn(written(kind).payload, z, labels))
    yardstick = moved(fake_quantised(checkpoint.generator(), kind, z, labels, calibration))
    assert 0.75 * yardstick < found < 1.25 * yardstick
    half = moved(drawn(exports.export_once(checkpoint, HALF).payload, z, labels))
    assert found > 5 * half
