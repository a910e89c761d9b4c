"""Real builds with TensorRT for RTX, which need no GPU; nothing here runs a plan."""

import os
import signal
import threading
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from exporters import errors
from exporters.gpu import Gpu, local_gpus
from exporters.targets import resolve_targets
from exporters.tensorrt import builder as module
from exporters.tensorrt import timing
from exporters.tensorrt import weights as weights_module
from exporters.tensorrt.backend import load_backend
from exporters.tensorrt.builder import build_engine, check_engine
from exporters.tensorrt.plan import PlanHeader
from tests.exporters.models import WIDTH, engine_spec, exported, profile

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
no_gpu = pytest.mark.skipif(bool(local_gpus()[0]), reason="this machine has a GPU")


def build(onnx_bytes=None, progress=lambda *_: None, **changes):
    payload = exported().payload if onnx_bytes is None else onnx_bytes
    return build_engine(load_backend("rtx"), payload, engine_spec(**changes), progress)


@pytest.fixture(scope="module")
def fused():
    return build(targets=("rtx-4090,rtx-5090",), precision="fp16", fused_attention=2)


def test_header_says_what_was_asked(fused):
    version = tuple(map(int, load_backend("rtx").version.split(".")))
    assert fused.header == PlanHeader("rtx", version, len(fused.plan), ((8, 9), (12, 0)), fused.weight_bytes)
    assert [target.name for target in fused.targets] == ["sm_89", "sm_120"]
    assert fused.activation_bytes > 0
    assert 0 < fused.weight_bytes < len(fused.plan)
    assert fused.seconds > 0


def test_inputs_and_outputs_are_those_of_the_model(fused):
    tensors = {tensor.name: tensor for tensor in fused.layers.io}
    assert {name: (t.is_input, t.dtype, t.shape) for name, t in tensors.items()} == {
        "z": (True, "float32", (-1, 8)),
        "labels": (True, "int64", (-1,)),
        "images": (False, "float32", (-1, 3, 16, 16)),
    }
    assert {name: tensors[name].profiles for name in profile()} == {name: (shape,) for name, shape in profile().items()}


def test_one_kernel_per_attention_block_covers_its_nodes(fused):
    kernels = [layer for layer in fused.layers.layers if layer.is_fused_attention]
    assert len(kernels) == fused.layers.fused_attention == 2
    for index, kernel in enumerate(kernels):
        prefix = f"stages.{index}.attention/"
        assert {prefix + name for name in ("MatMul", "Softmax", "MatMul_1")} <= set(kernel.nodes)


def test_every_convolution_of_the_model_is_in_the_report(fused):
    nodes = onnx.load_from_string(exported().payload).graph.node
    multiplied = {name for layer in fused.layers.layers if layer.multiplies for name in layer.nodes}
    assert {node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")} <= multiplied


def test_the_usual_layout_is_not_fused():
    result = build(exported("plain").payload, precision="fp16", fused_attention=0)
    assert result.layers.fused_attention == 0
    with pytest.raises(errors.FusionMismatch, match=r"2 fused attention kernels .* has 0"):
        build(exported("plain").payload, fused_attention=2)


def test_equal_builds_have_equal_reports(fused):
    again = build(targets=("rtx-5090", "sm_89"))
    assert again.layers.digest == fused.layers.digest
    assert len(again.plan) == len(fused.plan)
    assert build(exported("plain").payload).layers.digest != fused.layers.digest


def test_a_dry_run_checks_everything_and_builds_nothing(monkeypatch):
    monkeypatch.setattr(module.LayerReport, "parse", lambda *_: pytest.fail("something was built"))
    checked = check_engine(load_backend("rtx"), exported().payload, engine_spec(targets=("rtx-4090",)))
    assert checked.inputs == (("z", "float", (-1, 8)), ("labels", "int64", (-1,)))
    assert checked.outputs == (("images", "float", (-1, 3, 16, 16)),)
    assert checked.layers > 20
    assert [target.name for target in checked.targets] == ["sm_89"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"targets": ("h100",)}, errors.UnsupportedTarget),
        ({"precision": "bf16"}, errors.PrecisionMismatch),
        ({"profiles": ()}, errors.BadProfile),
    ],
)
def test_a_dry_run_refuses_what_the_build_would(changes, kind):
    with pytest.raises(kind):
        check_engine(load_backend("rtx"), exported().payload, engine_spec(**changes))
    with pytest.raises(errors.InvalidOnnx):
        check_engine(load_backend("rtx"), b"no onnx", engine_spec())


def test_memory_is_told_for_every_profile():
    result = build(profiles=(profile(1, 1, 2), profile(2, 8, 64)))
    small, large = result.profile_activation_bytes
    assert 0 < small < large == result.activation_bytes


def test_the_timing_cache_is_refused_where_there_is_none():
    with pytest.raises(errors.SpecError, match=r"has no timing cache; leave the option out"):
        build(timing_cache=b"")


class Timings:
    """A builder's config as the classic TensorRT has it, as far as timing caches go."""

    def __init__(self, agrees=True):
        self.agrees, self.given = agrees, []

    def create_timing_cache(self, content):
        self.given.append(content)
        return self if self.agrees is not None else None

    def set_timing_cache(self, cache, ignore_mismatch):
        self.given.append((cache, ignore_mismatch))
        return self.agrees

    def serialize(self):
        return b"measured"


def test_the_classic_builder_reads_and_extends_a_timing_cache():
    backend = load_backend("rtx")
    classic = replace(backend, flavour="tensorrt", caps=replace(backend.caps, cc_targets=False))
    config = Timings()
    assert timing.attach(classic, config, None) is None
    assert timing.content(timing.attach(classic, config, b"before")) == b"measured"
    # A cache of another GPU must not be taken silently.
    assert config.given == [b"before", (config, False)]
    for refused in (False, None):
        with pytest.raises(errors.SpecError, match=r"6 bytes\) is not of .* delete it"):
            timing.attach(classic, Timings(refused), b"before")


@no_gpu
@pytest.mark.parametrize("weights", ["refittable", "stripped"])
def test_other_than_fixed_weights_need_a_driver(monkeypatch, weights):
    for refused in (build_engine, check_engine):
        with pytest.raises(errors.NoGpu, match=rf"plan with {weights} weights only where .*Leave --refit and"):
            refused(load_backend("rtx"), exported().payload, engine_spec(weights=weights))
    # The builder's own refusal, should it be reached, is understood as well.
    monkeypatch.setattr(weights_module, "check", lambda *_: None)
    with pytest.raises(errors.NoGpu, match=r"CUDA_SUCCESS.*leave --refit and --strip out") as caught:
        build(weights=weights)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("weights", "flags"),
    [("fixed", []), ("refittable", ["REFIT"]), ("stripped", ["REFIT_IDENTICAL", "STRIP_PLAN"])],
)
def test_the_flags_of_weights_are_really_set(weights, flags):
    """On the real config; which of them a build obeys can only be seen with a driver."""
    backend = load_backend("rtx")
    config = backend.trt.Builder(backend.logger).create_builder_config()
    weights_module.apply(backend.trt, config, weights)
    names = ("REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL", "STRIP_PLAN")
    assert [name for name in names if config.get_flag(getattr(backend.trt.BuilderFlag, name))] == flags


def test_several_profiles():
    result = build(profiles=(profile(1, 1, 2), profile(2, 4, 8)), precision="fp16", fused_attention=2)
    assert result.layers.profiles == 2
    assert result.layers.io[0].profiles[1] == profile(2, 4, 8)["z"]


def test_a_batch_fixed_to_one_is_not_fused():
    """Not ours to change; `sagan_deploy.build` avoids it. When this fails, TensorRT has learnt it."""
    assert build(profiles=(profile(1, 1, 1),)).layers.fused_attention == 0
    with pytest.raises(errors.FusionMismatch, match="let the batch exceed 1"):
        build(profiles=(profile(1, 1, 1), profile(2, 4, 8)), fused_attention=2)


@pytest.mark.parametrize(
    ("dtype", "right", "wrong"), [(torch.float32, "fp32", "fp16"), (torch.bfloat16, "bf16", "fp16")]
)
def test_precision_is_that_of_the_model(dtype, right, wrong):
    payload = exported("fused", dtype).payload
    assert build(payload, precision=right).plan[:4] == b"vtrt"
    with pytest.raises(errors.PrecisionMismatch, match=f"{wrong} was asked for, but .* 'stem/Gemm' for one reads"):
        build(payload, precision=wrong)


def test_the_report_alone_would_find_a_wrong_precision(monkeypatch):
    monkeypatch.setattr(module, "check_network", lambda *_: None)
    with pytest.raises(errors.PrecisionMismatch, match=r"bf16 was asked for, but 1\d of 1\d .*reads float16"):
        build(precision="bf16")


@pytest.mark.parametrize(
    ("targets", "kind", "words"),
    [
        (("h100",), errors.UnsupportedTarget, "--flavour tensorrt --target local"),
        (("v100",), errors.UnsupportedTarget, "older than sm_75"),
        (("rtx-6090",), errors.UnknownTarget, "Did you mean"),
    ],
)
def test_targets_that_cannot_be(targets, kind, words):
    with pytest.raises(kind, match=words):
        build(targets=targets)


@no_gpu
def test_local_without_a_gpu():
    with pytest.raises(errors.NoGpu, match="'local' is the GPU of this machine, and no NVIDIA driver") as caught:
        build(targets=("local",))
    assert caught.value.exit_code == 3


@no_gpu
def test_the_builders_own_refusal_without_a_gpu_is_understood(monkeypatch):
    def current(backend, config, targets):
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(backend.trt.ComputeCapability.CURRENT, 0)

    monkeypatch.setattr(module, "_apply_targets", current)
    with pytest.raises(errors.NoGpu, match="cudaError 35"):
        build()


def test_classic_builds_for_the_local_gpu_only(monkeypatch):
    backend = load_backend("rtx")
    classic = replace(backend, flavour="tensorrt", caps=replace(backend.caps, cc_targets=False))
    monkeypatch.setattr(module, "local_gpus", lambda: ((), "there is none"))
    with pytest.raises(errors.NoGpu, match=r"builds on the GPU that the plan is for, and there is none.*--flavour rtx"):
        build_engine(classic, exported().payload, engine_spec(targets=("h100",)))
    monkeypatch.setattr(module, "local_gpus", lambda: ((Gpu("NVIDIA H200", (9, 0), 1),), ""))
    with pytest.raises(errors.UnsupportedTarget, match=r"NVIDIA H200, sm_90\), not for sm_89"):
        build_engine(classic, exported().payload, engine_spec(targets=("rtx-4090",)))
    module._check_targets(classic, resolve_targets("h200"))


def test_bfloat16_on_turing_is_refused_before_and_by_the_builder(monkeypatch):
    payload = exported("fused", torch.bfloat16).payload
    with pytest.raises(errors.UnsupportedTarget, match=r"sm_75 cannot compute in BF16.*needs sm_80"):
        build(payload, targets=("rtx-2080,rtx-4090",))
    monkeypatch.setattr(module, "check_network", lambda *_: None)
    with pytest.raises(errors.HardwareDatatype, match="HW-specific datatypes"):
        build(payload, targets=("rtx-2080,rtx-4090",))


def test_float32_on_turing_is_refused_before_and_by_the_builder(monkeypatch):
    payload = exported("fused", torch.float32).payload
    with pytest.raises(errors.UnsupportedTarget, match=r"no float32 matrix product for sm_75.*export in fp16"):
        build(payload, targets=("rtx-2080,rtx-4090",))
    monkeypatch.setattr(module, "check_network", lambda *_: None)
    with pytest.raises(errors.HardwareDatatype, match="Leave sm_75 out"):
        build(payload, targets=("rtx-2080,rtx-4090",))


@pytest.mark.parametrize("size", [1, 100_000])
def test_tiny_workspace(size):
    with pytest.raises(errors.WorkspaceTooSmall, match="Allow more workspace"):
        build(workspace_bytes=size)


@pytest.mark.parametrize(
    ("payload", "words"), [(b"", "nothing to build"), (b"garbage" * 9, "no whole ONNX"), (None, "no whole ONNX")]
)
def test_no_onnx_model(payload, words):
    payload = exported().payload[:5000] if payload is None else payload
    with pytest.raises(errors.InvalidOnnx, match=words):
        build(payload)


def small(*nodes, weights=(), out=TensorProto.FLOAT):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def test_an_operator_that_tensorrt_does_not_know():
    payload = small(helper.make_node("Sharpen", ["x"], ["y"], name="tail/Sharpen", domain="custom"))
    with pytest.raises(errors.OnnxRejected, match=r"at node 0 'tail/Sharpen' \(Sharpen\): .*lugin not found") as caught:
        build(payload, profiles=())
    assert (caught.value.node, caught.value.operator) == ("tail/Sharpen", "Sharpen")
    assert caught.value.reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_weight_of_another_type():
    weight = torch.ones(4, 3, 1, 1).half().numpy()
    payload = small(helper.make_node("Conv", ["x", "w"], ["y"], name="conv/Conv"), weights=[("w", weight)])
    with pytest.raises(
        errors.OnnxRejected,
        match=r"'conv/Conv' \(Conv\): .*type is Float but `kernel` is of type Half.*Convert all weights",
    ):
        build(payload, profiles=())


def test_an_attention_node_without_a_kernel():
    cast = helper.make_node("Identity", ["x"], ["q"], name="a/Identity")
    attend = helper.make_node("Attention", ["q", "q", "q"], ["y"], name="a/Attention", scale=1.0)
    with pytest.raises(errors.AttentionUnsupported, match="MatMul–Softmax–MatMul"):
        build(small(cast, attend), profiles=())


def model(*nodes, inputs, output, weights=()):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (*inputs, output)]
    graph = helper.make_graph(list(nodes), "refused", values[:-1], values[-1:], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def attend(**attributes):
    return helper.make_node("Attention", ["q", "k", "v"], ["y"], name="a/Attention", scale=1.0, **attributes)


HALF = TensorProto.FLOAT16
REFUSED = {
    "unequal heads": (
        model(
            attend(),
            inputs=[("q", HALF, ["n", 1, 64, 8]), ("k", HALF, ["n", 1, 16, 8]), ("v", HALF, ["n", 1, 16, 32])],
            output=("y", HALF, None),
        ),
        "Key and Value must have the same shape.*Pad queries, keys and values",
    ),
    "softmax precision": (
        model(
            attend(softmax_precision=1),
            inputs=[(name, HALF, ["n", 1, 16, 32]) for name in "qkv"],
            output=("y", HALF, None),
        ),
        "softmax precision.*Leave softmax_precision out",
    ),
    "uint8 inside": (
        model(
            helper.make_node("Cast", ["x"], ["c"], to=TensorProto.UINT8),
            helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
            inputs=[("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            output=("y", TensorProto.UINT8, ["n", 8, 8, 3]),
        ),
        "UINT8.*the last node, after any transpose",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_parser_refuses_comes_with_the_way_out(name):
    refused, words = REFUSED[name]
    with pytest.raises(errors.OnnxRejected, match=words) as caught:
        build(refused.SerializeToString(), profiles=())
    assert len(str(caught.value).splitlines()) == 1


def test_weights_in_another_file_are_named(tmp_path):
    refused = model(
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        inputs=[("x", TensorProto.FLOAT, ["n", 64])],
        output=("y", TensorProto.FLOAT, ["n", 64]),
        weights=[numpy_helper.from_array(torch.ones(64, 64).numpy(), "w")],
    )
    onnx.save(refused, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=10)
    with pytest.raises(errors.OnnxRejected, match="save it in one file"):
        build((tmp_path / "m.onnx").read_bytes(), profiles=())


@pytest.mark.parametrize(
    ("profiles", "words"),
    [
        ((), "labels, z have free sizes"),
        (({"z": profile()["z"]},), "forgets labels"),
        (({**profile(), "w": profile()["z"]},), "names w"),
        (({"z": profile()["labels"], "labels": profile()["labels"]},), r"gives z the shape \(1,\).*declares \(-1, 8\)"),
    ],
)
def test_profiles_that_do_not_fit(profiles, words):
    with pytest.raises(errors.BadProfile, match=words):
        build(profiles=profiles)


def test_progress_reaches_the_end():
    seen = []
    build(progress=lambda task, done, total: seen.append((task, done, total)))
    numbers = [done for _, done, _ in seen]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 20
    assert seen[-1] == ("build", 100, 100)
    assert numbers.count(100) == 1


def test_ctrl_c_cancels_the_build():
    steps = []

    def progress(task, done, total):
        steps.append(done)
        if len(steps) == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(progress=progress)
    assert len(steps) <= 21
    assert build().plan  # and the next one is whole


def test_an_exception_of_the_callback_cancels_the_build():
    def progress(task, done, total):
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        build(progress=progress)


def test_builds_in_two_threads():
    payload, results = exported().payload, []
    threads = [threading.Thread(target=lambda: results.append(build(payload, fused_attention=2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.layers.digest for result in results}) == 1
    assert len(results) == 2


def test_nothing_is_printed(capfd):
    build()
    with pytest.raises(errors.WorkspaceTooSmall):
        build(workspace_bytes=1)
    assert capfd.readouterr() == ("", "")


def test_width_of_the_tiny_network_is_one_that_fuses():
    assert WIDTH // 2 >= 16  # narrower heads have no fused kernel, and the tests above would prove nothing
