"""The judge passes what is right, and says no to every semantic mutation at the leg that can see it."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.compare import judge
from tests.exports import export_once
from tests.generators import CONFIGS, tiny_checkpoint

COUNT = 8


def verdict(checkpoint, payload, tmp_path, name="g.onnx"):
    path = tmp_path / name
    path.write_bytes(payload)
    report = judge(checkpoint, [path], count=COUNT)
    return report, next(leg for leg in report.legs if leg.path == str(path))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "uint8"])
def test_a_correct_file_passes_with_room_to_spare(checkpoint, exported, tmp_path, kind):
    report, leg = verdict(checkpoint, exported[kind], tmp_path)
    assert report.passed, leg.reason
    assert {gate.rule for gate in leg.gates} >= {"hard.checkpoint", "image.code_bias", "image.ssim"}
    assert ("emulated" in leg.how) == (kind == "fp16")


# test_export holds every kind in fp32; these are the ones whose half-precision graphs differ from each other.
@pytest.mark.parametrize("name", ["sagan-scaled-attention-last", "plain-blocks", "transposed-convolutions"])
def test_other_kinds_of_generator_pass_in_half_precision(name, tmp_path):
    checkpoint = dataclasses.replace(tiny_checkpoint(CONFIGS[name]), sha256="00" * 32)
    payload = export_once(checkpoint, InferenceOptions(precision="fp16")).payload
    report, leg = verdict(checkpoint, payload, tmp_path)
    assert report.passed, leg.reason


def test_bfloat16_passes_within_its_own_limits_and_not_within_those_of_fp16(checkpoint, tmp_path):
    payload = export_once(checkpoint, InferenceOptions(precision="bf16")).payload
    report, leg = verdict(checkpoint, payload, tmp_path)
    assert report.passed, leg.reason
    error = next(gate for gate in leg.gates if gate.rule == "tensor.rel_l2")
    assert error.value > 3 * 2**-11 * 3


# ---- mutations: each edits the exported file, as a broken converter would -------------------------------------------


def initializer(model, suffix):
    found = [t for t in model.graph.initializer if t.name.endswith(suffix)]
    assert found, [t.name for t in model.graph.initializer]
    return found[0]


def edit(model, suffix, change):
    tensor = initializer(model, suffix)
    array = numpy_helper.to_array(tensor).copy()
    result = change(array)
    tensor.CopyFrom(numpy_helper.from_array(array if result is None else result.astype(array.dtype), tensor.name))


def one_tap(model):
    def change(kernel):
        kernel[0, 0, 0, 0] += 0.5 * np.abs(kernel).max()

    edit(model, "stages.0.block.conv1.conv.kernels.2", change)


def swapped_phases(model):
    first, second = (initializer(model, f"stages.1.block.conv1.conv.kernels.{i}") for i in (1, 2))
    a, b = numpy_helper.to_array(first).copy(), numpy_helper.to_array(second).copy()
    first.CopyFrom(numpy_helper.from_array(b, first.name))
    second.CopyFrom(numpy_helper.from_array(a, second.name))


def attention_scale(model):
    # What scaled_dot_product_attention does by default: queries divided by √d.
    def change(weight):
        keys = 24 // 8
        weight[:keys] /= np.sqrt(keys)

    edit(model, "stages.0.attention.projection", change)


def weaker_gamma(model):
    edit(model, "stages.0.attention.output", lambda weight: weight * 0.9)


def no_gamma(model):
    edit(model, "stages.0.attention.output", lambda weight: weight * 0)


def dropped_bias(model):
    edit(model, "tail.conv.bias", lambda bias: bias * 0)


def swapped_classes(model):
    edit(model, "stages.1.block.affine.table", lambda table: table[[1, 0, 2]])


def bad_batch_row(model):
    # The last class's images alone are wrong.
    edit(model, "stages.1.block.affine.table", lambda table: table * np.array([[1], [1], [1.05]]))


MUTATIONS = [
    one_tap, swapped_phases, attention_scale, weaker_gamma, no_gamma, dropped_bias, swapped_classes, bad_batch_row,
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_semantic_mutation_is_caught_at_the_fp32_leg(checkpoint, exported, tmp_path, mutate):
    model = onnx.load_from_string(exported["fp32"])
    mutate(model)
    report, leg = verdict(checkpoint, model.SerializeToString(), tmp_path)
    assert not report.passed
    assert leg.status == "failed"
    assert "tensor.rel_l2" in {gate.rule for gate in leg.failed_gates}
    assert all(leg.status == "passed" for leg in report.legs if leg.path is None)


def test_the_first_faulty_stage_is_named(checkpoint, exported, tmp_path):
    model = onnx.load_from_string(exported["fp32"])
    one_tap(model)
    _, leg = verdict(checkpoint, model.SerializeToString(), tmp_path)
    assert leg.fault.path == "stages.0"
    assert leg.fault.value > leg.fault.limit


def test_another_epsilon_is_caught(checkpoint, tmp_path):
    """ε is folded away in the file, so the mutated exporter is one whose generator had ε 1e-3 instead of 1e-5."""
    wrong = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, norm_eps=1e-3))
    for precision in ("fp32", "fp16"):
        payload = export_once(wrong, InferenceOptions(precision=precision)).payload
        report, leg = verdict(checkpoint, payload, tmp_path)
        assert leg.status == "failed", precision
        assert not report.passed


def test_a_truncating_uint8_head_is_caught(checkpoint, exported, tmp_path):
    model = onnx.load_from_string(exported["uint8"])
    node = next(node for node in model.graph.node if node.op_type == "Round")
    node.op_type = "Floor"
    _, leg = verdict(checkpoint, model.SerializeToString(), tmp_path)
    assert {gate.rule for gate in leg.failed_gates} >= {"image.code_bias", "image.code_share"}


def test_overflow_is_never_a_pass(checkpoint, exported, tmp_path):
    model = onnx.load_from_string(exported["fp16"])
    edit(model, "stages.0.block.conv1.conv.kernels.0", lambda kernel: kernel * 3e4)
    _, leg = verdict(checkpoint, model.SerializeToString(), tmp_path)
    assert leg.status == "failed"


def test_a_file_of_another_checkpoint_fails_by_its_hash(exported, tmp_path):
    other = dataclasses.replace(tiny_checkpoint(), sha256="11" * 32)
    report, leg = verdict(other, exported["fp32"], tmp_path)
    assert not report.passed
    assert [gate.rule for gate in leg.failed_gates] == ["hard.checkpoint"]


def test_a_precision_that_was_not_asked_for_fails(checkpoint, exported, tmp_path):
    model = onnx.load_from_string(exported["fp16"])
    next(entry for entry in model.metadata_props if entry.key == "sagan_deploy.precision").value = "fp32"
    _, leg = verdict(checkpoint, model.SerializeToString(), tmp_path)
    assert "hard.precision" in {gate.rule for gate in leg.failed_gates}
