"""Mixed precision: float16 with parts in float32, the same function, judged like fp16 and asserted on the plan."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from exporters.errors import PrecisionMismatch
from exporters.onnx import add_metadata
from sagan_deploy.build import build_plan
from sagan_deploy.errors import ConfigError
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.parity import compare
from sagan_deploy.parity.candidates import open_candidates, share_in_declared_precision
from sagan_deploy.parity.compare import judge
from tests.exports import export_once
from tests.generators import CONFIGS, inputs, tiny_checkpoint, tiny_generator

PARTS = ("stages.0.block", "tail")


def checkpoint_of_kind(name):
    return dataclasses.replace(tiny_checkpoint(CONFIGS[name]), sha256="00" * 32)


def mixed(name, parts=PARTS, **options):
    return export_once(checkpoint_of_kind(name), InferenceOptions(precision="mixed", float32=parts, **options)).payload


@pytest.mark.parametrize("name", ["sagan", "biggan", "biggan-deep", "conditional-stem-norm"])
def test_parts_are_rounded_to_their_own_type_and_once(name):
    generator = tiny_generator(CONFIGS[name])
    parts = ("stem", *(["stages.0.block"] if len(generator.stages) > 1 else []), "tail")  # something stays half
    form = to_inference(generator, InferenceOptions(precision="mixed", float32=parts))
    rounded = form.rounded()
    exact = dict(form.named_parameters())
    for path, parameter in rounded.named_parameters():
        island = path.startswith(tuple(f"{part}." for part in parts))
        expected = exact[path].float() if island else exact[path].half()
        assert parameter.dtype == expected.dtype, path
        assert torch.equal(parameter, expected), path
    images = rounded(*inputs(CONFIGS[name], dtype=torch.float32))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.double(), form(*inputs(CONFIGS[name])), atol=0.2, rtol=0)


@pytest.mark.parametrize(
    "name", ["sagan", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("biggan", "biggan-deep"))]
)
def test_it_is_closer_than_fp16_and_passes_parity(name, tmp_path):
    checkpoint = checkpoint_of_kind(name)
    most = ("stem", *(f"stages.{i}" for i in range(checkpoint.config.num_stages - 1)), "tail")
    paths, errors = {label: tmp_path / f"{label}.onnx" for label in ("one", "most")}, {}
    paths["one"].write_bytes(mixed(name, ("tail",)))
    paths["most"].write_bytes(mixed(name, most))
    legs = {leg.path: leg for leg in judge(checkpoint, list(paths.values()), count=4).legs}
    for label, path in paths.items():
        errors[label] = next(gate for gate in legs[str(path)].gates if gate.rule == "tensor.rel_l2")
        assert "PyTorch's training form" not in errors[label].derivation
    assert errors["most"].passed
    assert errors["most"].value < errors["one"].value


def test_mixed_gets_no_yardstick_that_would_excuse_what_it_is_there_to_mend(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "distances", lambda *_: {"tensor.rel_l2": 0.02})
    checkpoint, derivations = checkpoint_of_kind("sagan"), {}
    half = export_once(checkpoint, InferenceOptions(precision="fp16")).payload
    for precision, payload in (("mixed", mixed("sagan")), ("fp16", half)):
        path = tmp_path / f"{precision}.onnx"
        path.write_bytes(payload)
        leg = next(leg for leg in judge(checkpoint, [path], count=4).legs if leg.path == str(path))
        derivations[precision] = next(gate.derivation for gate in leg.gates if gate.rule == "tensor.rel_l2")
    assert "PyTorch's training form" in derivations["fp16"]
    assert "PyTorch's training form" not in derivations["mixed"]


def test_the_file_says_which_parts_and_is_held_to_it(tmp_path):
    path = tmp_path / "g.onnx"
    path.write_bytes(mixed("sagan"))
    (candidate,) = open_candidates(path)
    assert (candidate.precision, candidate.float32_parts) == ("mixed", PARTS)
    assert share_in_declared_precision(candidate) == 1.0
    types = {t.name: t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) == 4}
    assert {t for name, t in types.items() if name.startswith(PARTS)} == {onnx.TensorProto.FLOAT}
    assert {t for name, t in types.items() if not name.startswith(PARTS)} == {onnx.TensorProto.FLOAT16}
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name.startswith("stages.1") and len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    onnx.save(model, path)
    (candidate,) = open_candidates(path)
    assert share_in_declared_precision(candidate) < 1.0


def test_other_precisions_are_exported_as_before():
    """Casts to the type that a tensor has already leave no node."""
    for precision in ("fp32", "fp16"):
        payload = export_once(checkpoint_of_kind("biggan-deep"), InferenceOptions(precision=precision)).payload
        casts = [node for node in onnx.load_from_string(payload).graph.node if node.op_type == "Cast"]
        assert len(casts) == {"fp32": 0, "fp16": 4}[precision]  # z, the softmax's two, the image head


def test_the_plan_has_float32_where_it_was_asked_for_and_half_elsewhere(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    path = tmp_path / "g.onnx"
    path.write_bytes(mixed("sagan"))
    built = build_plan(path, targets=("sm_89",), flavour="rtx", max_batch=4)
    (artifact,) = built.manifest.artifacts
    assert (artifact.precision, artifact.plan.fused_attention) == ("mixed", 1)
    built.result.layers.check_mixed(PARTS)
    for wrong in (("tail",), (*PARTS, "stages.1")):
        with pytest.raises(PrecisionMismatch, match="mixed recipe"):
            built.result.layers.check_mixed(wrong)
    lying = tmp_path / "lying.onnx"
    lying.write_bytes(add_metadata(path.read_bytes(), {"sagan_deploy.float32_parts": '["stem"]'}))
    with pytest.raises(PrecisionMismatch):
        build_plan(lying, targets=("sm_89",), flavour="rtx", max_batch=4)


def test_attention_in_a_float32_part_is_not_expected_to_fuse(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    path = tmp_path / "g.onnx"
    path.write_bytes(mixed("two-attentions", ("stages.0.attention",)))
    plan = build_plan(path, targets=("sm_89",), flavour="rtx", max_batch=4).manifest.artifacts[0].plan
    assert plan.fused_attention == 1


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "mixed"},
        {"precision": "fp16", "float32": ("tail",)},
        {"precision": "mixed", "float32": ("stages",)},
        {"precision": "mixed", "float32": ("stages.0.block.conv1",)},
    ],
)
def test_recipes_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        InferenceOptions(**options)


def test_a_recipe_that_leaves_nothing_in_half_is_no_mixed_one():
    everything = ("stem", "stages.0", "stages.1", "tail")
    form = to_inference(tiny_generator(CONFIGS["sagan"]), InferenceOptions(precision="mixed", float32=everything))
    with pytest.raises(ConfigError, match="nothing of the generator in float16: export it with fp32"):
        form.rounded()


@pytest.mark.parametrize("part", ["stages.9", "stages.1.attention"])
def test_parts_that_a_generator_has_not_are_named(part):
    form = to_inference(tiny_generator(CONFIGS["sagan"]), InferenceOptions(precision="mixed", float32=(part,)))
    with pytest.raises(ConfigError, match=f"no part '{part}'"):
        form.rounded()
