"""int8 and fp8 files: judged against what PyTorch's fake quantisation of the training form loses."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sagan_deploy.build import build_plan
from sagan_deploy.parity.candidates import open_candidates, share_in_declared_precision
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.depth import Depth
from sagan_deploy.parity.policy import Policy
from sagan_deploy.quantisation import quantised
from tests import exports


@pytest.fixture(autouse=True, scope="module")
def shared_exports():
    with exports.shared():
        yield


@pytest.fixture(scope="module")
def files(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    paths = {}
    for kind in ("int8", "fp8"):
        paths[kind] = folder / f"g.{kind}.onnx"
        paths[kind].write_bytes(quantised(checkpoint, kind, latents=16).payload)
    return paths


def leg_of(checkpoint, path):
    report = judge(checkpoint, [path], count=8)
    return next(leg for leg in report.legs if leg.path == str(path))


def test_a_right_int8_file_passes_with_limits_that_name_their_yardstick(checkpoint, files):
    leg = leg_of(checkpoint, files["int8"])
    assert leg.status == "passed", leg.reason
    gates = {gate.rule: gate for gate in leg.gates}
    assert "PyTorch's fake int8 quantisation" in gates["tensor.rel_l2"].derivation
    # Far from what half precision alone would lose: the codes are really computed with.
    assert gates["tensor.rel_l2"].value > 0.01
    assert "int8 convolutions" in leg.how


def test_float8_of_a_random_network_is_measured_and_held_to_the_ceiling(checkpoint, files):
    leg = leg_of(checkpoint, files["fp8"])
    gate = next(gate for gate in leg.gates if gate.rule == "tensor.rel_l2")
    assert gate.limit <= 0.1
    assert 0.03 < gate.value < 0.3
    assert (leg.status == "passed") == all(gate.passed for gate in leg.gates)


def edited(path, tmp_path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, tmp_path / "broken.onnx")
    return tmp_path / "broken.onnx"


def activation_scales(model):
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = {node.input[1] for node in pairs}
    return [tensor for tensor in model.graph.initializer if tensor.name in names]


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_wrong_ranges_fail(checkpoint, files, tmp_path, factor):
    def change(model):
        for tensor in activation_scales(model):
            scaled = numpy_helper.to_array(tensor) * np.float16(factor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(scaled, np.float16), tensor.name))

    leg = leg_of(checkpoint, edited(files["int8"], tmp_path, change))
    assert leg.status == "failed"


def test_a_convolution_that_was_not_quantised_is_noticed(files, tmp_path):
    def change(model):
        conv = next(n for n in model.graph.node if n.op_type == "Conv" and "dequant" in " ".join(n.input).lower())
        source = next(n for n in model.graph.node if conv.input[0] in n.output)
        quantise = next(n for n in model.graph.node if source.input[0] in n.output)
        conv.input[0] = quantise.input[0]

    (whole,) = open_candidates(files["int8"])
    assert share_in_declared_precision(whole) == 1.0
    (broken,) = open_candidates(edited(files["int8"], tmp_path, change))
    assert share_in_declared_precision(broken) < 1.0


def test_without_a_yardstick_the_ceilings_hold():
    limits = Policy().limits("int8", Depth(10, 100))
    assert (limits["tensor.rel_l2"].value, limits["tensor.max_abs"].value) == (0.1, 0.5)
    measured = Policy().limits(
        "int8", Depth(10, 100), {"tensor.rel_l2": 0.01, "tensor.max_abs": 0.1, "image.ssim": 0.999}
    )
    assert measured["tensor.rel_l2"].value == pytest.approx(0.015)
    assert measured["image.code_difference"].value == 26
    assert measured["image.ssim"].value == pytest.approx(0.997)


@pytest.mark.parametrize(("kind", "targets"), [("int8", "sm_86,sm_89,sm_120"), ("fp8", "sm_89,sm_120")])
def test_it_becomes_a_plan_whose_convolutions_are_quantised(files, kind, targets):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    built = build_plan(files[kind], targets=(targets,), flavour="rtx", max_batch=4)
    (artifact,) = built.manifest.artifacts
    assert artifact.precision == kind
    assert artifact.plan.fused_attention == 1
    assert any(step["step"] == "quantise" and step["kind"] == kind for step in built.manifest.provenance)


def test_targets_without_instructions_are_refused_before_the_build(files):
    from exporters.errors import UnsupportedTarget

    with pytest.raises(UnsupportedTarget, match="sm_86"):
        build_plan(files["fp8"], targets=("rtx-3090,rtx-4090",), flavour="rtx")
    with pytest.raises(UnsupportedTarget, match="sm_75"):
        build_plan(files["int8"], targets=("rtx-2080",), flavour="rtx")


def test_a_plan_that_lost_its_codes_is_refused(files, tmp_path):
    """A half-precision file that claims to be int8: the builder's report does not confirm it."""
    from exporters.errors import PrecisionMismatch
    from exporters.onnx import add_metadata

    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    model = onnx.load(files["int8"])
    names = json.loads(next(e.value for e in model.metadata_props if e.key == "sagan_deploy.quantised_convolutions"))
    extra = json.dumps([*names, "stages.0.block.conv1/NotThere"])
    path = tmp_path / "g.onnx"
    path.write_bytes(add_metadata(files["int8"].read_bytes(), {"sagan_deploy.quantised_convolutions": extra}))
    with pytest.raises(PrecisionMismatch):
        build_plan(path, targets=("sm_89",), flavour="rtx", max_batch=4)
