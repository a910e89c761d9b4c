"""The search for float32 parts, and what it is built on: undone roundings, ranges, gains."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from sagan_deploy.checkpoints.native import checkpoint_of
from sagan_deploy.errors import CheckFailed
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity import islands, ranges
from sagan_deploy.parity.candidates import open_candidates
from sagan_deploy.parity.cases import make_cases
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.emulation import emulated, session_options
from sagan_deploy.parity.islands import export_mixed
from sagan_deploy.parity.policy import Change, Policy
from sagan_deploy.parity.ranges import audit_ranges
from sagan_deploy.parity.widened import parts_of, widened
from tests import exports
from tests.exports import export_once
from tests.generators import TINY, tiny_checkpoint, tiny_generator

LOUD = 300.0
HALF = InferenceOptions(precision="fp16")


def run(payload, pool):
    session = ort.InferenceSession(payload, session_options(), providers=["CPUExecutionProvider"])
    return session.run(["images"], {"z": pool.z, "labels": pool.labels})[0]


@pytest.fixture(autouse=True, scope="module")
def shared_exports():
    with exports.shared():
        yield


@pytest.fixture(scope="module")
def pool():
    return make_cases(TINY, seed=0, count=4)[0]


@pytest.fixture(scope="module")
def loud():
    """A generator whose attention scores exceed float16, because both projections write much more."""
    config = dataclasses.replace(TINY, attention=dataclasses.replace(TINY.attention, spectral_norm=False))
    generator = tiny_generator(config)
    block = generator.stages[0].attention
    for part in (block.query, block.key):
        part.weight.data.mul_(LOUD)
    return dataclasses.replace(checkpoint_of(generator), sha256="00" * 32)


@pytest.fixture(scope="module")
def loud_half(loud):
    return export_once(loud, HALF).payload


def test_undoing_every_rounding_gives_the_float32_network(exported, checkpoint, pool):
    half = emulated(exported["fp16"])
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(
            # float32 files have their last kernel mirrored, unless they are asked not to.
            export_once(checkpoint, InferenceOptions(attention="fused", conv="direct")).payload
        ).graph.initializer
    }
    exact = run(exported["fp32"], pool)
    everything = parts_of(exported["fp16"])
    assert everything == ("stem", "stages.0.block", "stages.0.attention", "stages.1.block", "tail")
    rounded, activations, both = (
        np.abs(run(payload, pool) - exact).max()
        for payload in (half, widened(half, everything), widened(half, everything, weights))
    )
    assert rounded > 1e-3
    assert 1e-4 < activations < rounded  # weights are still rounded
    assert both < 2e-3 * 0.5  # the rounded latents are what is left
    assert run(widened(half, (), weights), pool).tobytes() == run(half, pool).tobytes()


def test_what_a_float32_part_hands_on_is_rounded_at_the_border(exported, pool):
    model = onnx.load_from_string(widened(emulated(exported["fp16"]), ("stages.0.block",)))
    stage = json.loads(
        next(p.value for p in onnx.load_from_string(exported["fp16"]).metadata_props if p.key == "sagan_deploy.stages")
    )
    attention = [n for n in model.graph.node if any(m.value == "stages.0.attention" for m in n.metadata_props)]
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name)
        for node in attention
        for name in node.input
        if name.startswith("stages.0.block")
    )
    assert len(model.graph.output) > 1
    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    for values in session.run(None, {"z": pool.z, "labels": pool.labels})[1:]:
        assert np.array_equal(values, values.astype(np.float16).astype(np.float32))
    assert stage


def test_the_audit_sees_the_same_magnitudes_as_the_training_form_and_calls_the_scores_out(loud, loud_half, pool):
    audit = audit_ranges(loud_half, pool.z, pool.labels)
    block = loud.generator().double().stages[0].attention
    seen = []
    block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    whole = loud.generator().double()
    whole.stages[0].attention = block
    whole(torch.from_numpy(pool.z).double(), torch.from_numpy(pool.labels))
    with torch.no_grad():
        key = torch.nn.functional.max_pool2d(block.key(seen[0]), 2).flatten(2)
        largest = float((block.query(seen[0]).flatten(2).transpose(1, 2) @ key).abs().max())
    (scores,) = [row for row in audit.rows if row.logits]
    assert scores.largest == pytest.approx(largest, rel=2e-3)  # the weights are rounded to half
    assert scores.path == "stages.0.attention"
    assert scores.headroom_bits == pytest.approx(np.log2(65504 / largest), abs=5e-3)
    assert scores in audit.overflows
    assert {row.path.split(".")[0] for row in audit.overflows} == {"stages"}
    assert [row.headroom_bits for row in audit.rows] == sorted(row.headroom_bits for row in audit.rows)


def test_underflow_is_the_share_of_numbers_below_the_smallest_normal_one(exported, pool):
    audit = audit_ranges(exported["fp16"], pool.z, pool.labels)
    model = onnx.load_from_string(exported["fp16"])
    tensor = next(t for t in model.graph.initializer if t.name == "stages.0.block.conv2.kernel")
    weights = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
    expected = np.mean(weights[weights > 0] < 2.0**-14)
    (row,) = [row for row in audit.rows if row.value == tensor.name]
    assert row.underflow == expected > 0
    assert row.largest == weights.max()
    assert audit_ranges(exported["fp32"], pool.z, pool.labels, "bf16").overflows == ()


def test_only_the_part_that_overflows_becomes_float32_and_the_file_passes(loud, loud_half, tmp_path):
    path = tmp_path / "half.onnx"
    path.write_bytes(loud_half)
    (_, leg) = judge(loud, [path], count=4).legs
    assert leg.status == "failed"
    assert leg.gains[0].path == "stages.0.attention"
    assert leg.gains[0].after < 0.1
    assert leg.fault.path == "stages.0"
    exported, recipe = export_mixed(loud, count=4)
    assert recipe.parts == ("stages.0.attention",)
    assert recipe.fp16["tensor.rel_l2"] > recipe.limits["tensor.rel_l2"] > recipe.found["tensor.rel_l2"]
    path = tmp_path / "mixed.onnx"
    path.write_bytes(exported.payload)
    (candidate,) = open_candidates(path)
    assert candidate.float32_parts == recipe.parts
    assert candidate.provenance[-1]["step"] == "float32 parts"
    assert candidate.provenance[-1]["parts"] == list(recipe.parts)
    report = judge(loud, [path], count=4)
    assert report.passed, [leg.reason for leg in report.legs]


def test_nothing_is_float32_where_float16_keeps_the_budget():
    checkpoint = dataclasses.replace(tiny_checkpoint(), sha256="00" * 32)
    exported, recipe = export_mixed(checkpoint, count=4)
    assert recipe.parts == ()
    assert exported.metadata["sagan_deploy.precision"] == "fp16"
    assert recipe.fp16 == recipe.found


def test_a_network_that_would_need_float32_everywhere_is_sent_to_fp32(loud, monkeypatch):
    monkeypatch.setattr(islands, "_search", lambda trials, _: (trials.parts, ()))
    with pytest.raises(CheckFailed, match="--precision fp32"):
        export_mixed(loud, count=2)


def test_a_budget_that_no_parts_meet_is_said(loud):
    never = Policy({"mixed.tensor.rel_l2": Change(1e-9, "a limit that float32 cannot keep")})
    with pytest.raises(CheckFailed, match="no choice of float32 parts"):
        export_mixed(loud, policy=never, count=2)


def test_zeros_are_no_underflow():
    seen = ranges._Seen()
    seen.add(np.array([0.0, 0.0, 2.0**-15, 1.0], np.float32), 2.0**-14)
    assert (seen.numbers, seen.small, seen.largest) == (2, 1, 1.0)


class Budget:
    """Parts b and c alone meet it together; a seems the best alone and is not needed."""

    parts = ("a", "b", "c", "d")
    limits = ()

    def loss(self, parts):
        alone = {"a": 3.0, "b": 4.0, "c": 5.0, "d": 9.0}
        value = 0.5 if {"b", "c"} <= set(parts) else min((alone[part] for part in parts), default=10.0)
        return {"tensor.rel_l2": value}

    def share(self, loss):
        return loss["tensor.rel_l2"]


def test_parts_that_turn_out_superfluous_are_dropped_again(monkeypatch):
    monkeypatch.setattr(islands, "_overflowing", lambda *_: [])
    parts, gains = islands._search(Budget(), lambda *_: None)
    assert [gain.path for gain in gains] == ["a", "b", "c", "d"]
    assert parts == ("b", "c")
