"""Files that cannot be run here, that read half latents, that break while they run, and plans on a GPU's double."""

import contextlib
import dataclasses

import numpy as np
import onnx
import pytest

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity import compare, legs
from sagan_deploy.parity.candidates import Candidate, open_candidates, opened
from sagan_deploy.parity.compare import judge
from tests.exports import export_once
from tests.generators import TINY


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_that_reads_half_latents_is_held_against_the_same_numbers(checkpoint, tmp_path, precision):
    path = tmp_path / "g.onnx"
    path.write_bytes(export_once(checkpoint, InferenceOptions(precision, io_precision="fp16")).payload)
    (candidate,) = open_candidates(path)
    assert candidate.z_type == "float16"
    report = judge(checkpoint, [path], count=4)
    assert report.passed, [leg.reason for leg in report.legs]


def test_a_file_that_breaks_while_it_runs_has_failed_and_the_others_are_still_judged(checkpoint, exported, tmp_path):
    model = onnx.load_from_string(exported["fp32"])
    for node in model.graph.node:
        node.input[:] = ["far" if name == "labels" else name for name in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(100), "distance"))
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["labels", "distance"], ["far"]))
    broken, whole = tmp_path / "broken.onnx", tmp_path / "whole.onnx"
    broken.write_bytes(model.SerializeToString())
    whole.write_bytes(exported["fp32"])
    report = judge(checkpoint, [broken, whole], count=4)
    first, second = (leg for leg in report.legs if leg.path is not None)
    assert (first.status, second.status) == ("failed", "passed")
    assert "fails on a batch of 4" in first.reason


def as_plan(path, checkpoint, batches=(1, 3, 6)):
    return Candidate(
        path=path,
        kind="plan",
        payload=b"plan",
        precision="fp16",
        output="float",
        attention="fused",
        checkpoint_sha256=checkpoint.sha256,
        batches=batches,
    )


def test_a_plan_is_judged_at_all_batches_that_it_was_built_for(checkpoint, tmp_path, monkeypatch):
    """A double of the engine draws what PyTorch draws; above a batch of 3 its last image may be wrong."""
    import torch

    generator, sizes, breaks = checkpoint.generator(), [], []

    def draw(z, labels):
        sizes.append(len(z))
        images = generator(torch.from_numpy(z), torch.from_numpy(labels)).numpy()
        if breaks and len(z) == 6:
            images[-1] *= 0.5
        return images

    monkeypatch.setattr(compare, "open_candidates", lambda path: [as_plan(path, checkpoint)])
    monkeypatch.setattr(legs, "opened", lambda candidate: contextlib.nullcontext(draw))
    report = judge(checkpoint, [tmp_path / "g.plan"], count=4)
    assert report.passed, [leg.reason for leg in report.legs]
    assert {1, 3, 6} <= set(sizes)
    breaks.append(True)
    report = judge(checkpoint, [tmp_path / "g.plan"], count=4)
    leg = report.legs[-1]
    error = next(gate for gate in leg.failed_gates if gate.rule == "tensor.rel_l2")
    assert (error.case, error.image) == ("batch of 6", 5)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (MissingError("no GPU"), "not_run"),
        (InputError("it was built for sm_89; the GPU of this machine is sm_90"), "not_run"),
        (CorruptError("the plan is damaged"), "raises"),
    ],
)
def test_a_plan_that_does_not_fit_is_not_run_and_a_damaged_one_is_an_error(
    checkpoint, tmp_path, monkeypatch, error, outcome
):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("sagan_deploy.runtime.load", refuse)
    monkeypatch.setattr(compare, "open_candidates", lambda path: [as_plan(path, checkpoint)])
    if outcome == "raises":
        with pytest.raises(CorruptError):
            judge(checkpoint, [tmp_path / "g.plan"], count=1)
        return
    leg = judge(checkpoint, [tmp_path / "g.plan"], count=1).legs[-1]
    assert (leg.status, leg.reason) == ("not_run", str(error))


def test_with_a_device_files_are_drawn_there_as_they_are(checkpoint, exported, tmp_path, monkeypatch):
    from sagan_deploy.runtime import load

    asked, path = [], tmp_path / "g.onnx"

    def on_the_cpu(path, *, backend, device):
        asked.append((path, backend, device))
        return load(path, backend=backend, device="cpu")

    path.write_bytes(exported["fp16"])
    monkeypatch.setattr("sagan_deploy.runtime.load", on_the_cpu)
    leg = judge(checkpoint, [path], count=2, device="cuda:1").legs[-1]
    assert asked == [(path, "onnxruntime", "cuda:1")]
    assert (leg.status, leg.how) == ("passed", "ONNX Runtime on cuda:1")
    between = next(gate for gate in leg.gates if gate.rule == "tensor.between_batches")
    limit = next(gate for gate in leg.gates if gate.rule == "tensor.rel_l2").limit
    assert between.limit == limit  # a GPU takes other kernels for other batches
    assert judge(checkpoint, [path], count=2, device="cpu").legs[-1].how.startswith("true fp16 rounding")
    assert len(asked) == 1
    with pytest.raises(ConfigError, match="device"):
        judge(checkpoint, [path], device="gpu")


def test_half_precision_is_rounded_and_not_what_onnx_runtime_computes_by_itself(exported, tmp_path):
    import onnxruntime

    path = tmp_path / "g.onnx"
    path.write_bytes(exported["fp16"])
    z, labels = np.random.default_rng(0).normal(size=(4, TINY.z_dim)).astype(np.float32), np.arange(4) % 3
    with opened(open_candidates(path)[0]) as draw:
        images = draw(z, labels)
    plain = onnxruntime.InferenceSession(exported["fp16"], providers=["CPUExecutionProvider"])
    assert np.abs(images - plain.run(None, {"z": z, "labels": labels})[0]).max() > 1e-4


def test_the_stage_behind_the_last_comparable_one_is_named(checkpoint, exported, tmp_path):
    model = onnx.load_from_string(exported["fp32"])
    bias = next(t for t in model.graph.initializer if t.name == "tail.conv.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * 0, bias.name))
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    leg = judge(dataclasses.replace(checkpoint), [path], count=4).legs[-1]
    assert leg.fault.path == "stages.1 or tail"
