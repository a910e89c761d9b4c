"""What builds: every preset in every precision for every GPU that TensorRT for RTX serves, for real and without a GPU.

Each plan is asserted by the builder's own report: its convolutions and products read the precision that was asked for,
every attention block outside of a float32 part is one fused kernel, and inputs and outputs have their types. Nothing
here runs a plan.

The smallest preset is built for every target by itself, and so is every preset in fp16. The larger ones in the other
precisions are built as one plan for all targets that can have them: it is compiled for each of them, and its header
says so.
"""

import dataclasses

import pytest
import torch

from exporters.errors import UnsupportedTarget
from exporters.onnx import export_onnx
from exporters.specs import EngineSpec, OnnxSpec, ShapeRange
from exporters.tensorrt.backend import load_backend
from exporters.tensorrt.builder import build_engine
from sagan_deploy.build import build_plan
from sagan_deploy.checkpoints.native import checkpoint_of
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.model.generator import Generator
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.presets import PRESETS
from sagan_deploy.quantisation import quantised
from tests import exports

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

SINGLE = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
TARGETS = (*SINGLE, "all-rtx")
PRECISIONS = ("fp32", "fp16", "bf16", "mixed", "int8", "fp8")
FLOAT32 = ("stem", "tail")  # of mixed: a matrix product and a convolution
# Turing has no bfloat16 and no use for int8 here, and TensorRT for RTX no float32 matrix product for it.
NEVER = {
    ("fp32", "sm_75"): "no float32 matrix product for sm_75",
    ("bf16", "sm_75"): "cannot compute in BF16",
    ("mixed", "sm_75"): "no float32 matrix product for sm_75",
    ("int8", "sm_75"): "int8 convolutions need sm_80 or later, not sm_75",
    **{("fp8", target): "fp8 convolutions need sm_89 or later" for target in ("sm_75", "sm_80", "sm_86", "all-rtx")},
}
# Tables of 1000 classes are most of what sagan128 weighs and nothing of what is built.
CLASSES = 4


def config_of(name):
    config = PRESETS[name].generator
    return dataclasses.replace(config, num_classes=min(config.num_classes, CLASSES))


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    """Path of a preset's ONNX file in a precision."""
    folder, made = tmp_path_factory.mktemp("matrix"), {}

    def path(name, precision):
        if (name, precision) not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # so that the workers share their exports
                checkpoint = checkpoint_of(Generator(config_of(name)).eval())
            if precision in ("int8", "fp8"):
                with exports.shared():
                    payload = quantised(checkpoint, precision, latents=2).payload
            else:
                parts = FLOAT32 if precision == "mixed" else ()
                options = InferenceOptions(precision=precision, float32=parts)
                payload = exports.export_once(checkpoint, options).payload
            made[name, precision] = folder / f"{name}.{precision}.onnx"
            made[name, precision].write_bytes(payload)
        return made[name, precision]

    return path


def check(path, name, precision, targets):
    built = build_plan(path, targets=targets, flavour="rtx", max_batch=4)  # asserts what the ONNX file promises
    (artifact,) = built.manifest.artifacts
    assert artifact.precision == precision
    blocks = len(config_of(name).attention_after)
    assert artifact.plan.fused_attention == (0 if precision == "fp32" else blocks)
    tensors = {tensor.name: (tensor.dtype, tensor.shape[0]) for tensor in built.result.layers.io}
    assert tensors == {"z": ("float32", -1), "labels": ("int64", -1), "images": ("float32", -1)}
    assert built.result.header.compute_capabilities == artifact.plan.compute_capabilities
    assert len(artifact.plan.targets) == (5 if targets == ("all-rtx",) else len(targets))


USUALLY = ("fp16", "int8")  # with the small preset; all the rest is for make test-all


def plans_of(name, precision):
    """The targets of each plan that is built; every target that can be is in one of them."""
    able = [target for target in SINGLE if (precision, target) not in NEVER]
    if name == "sagan32" or precision == "fp16":
        return [(target,) for target in TARGETS if (precision, target) not in NEVER]
    return [tuple(able)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(
            name, precision, marks=[] if name == "sagan32" and precision in USUALLY else pytest.mark.exhaustive
        )
        for name in PRESETS
        for precision in PRECISIONS
    ],
)
def test_every_preset_builds_in_every_precision_for_every_target(onnx_files, name, precision):
    path = onnx_files(name, precision)
    for target in TARGETS:
        if (precision, target) in NEVER:
            with pytest.raises(UnsupportedTarget, match=NEVER[precision, target]):
                build_plan(path, targets=(target,), flavour="rtx", max_batch=4)
    for targets in plans_of(name, precision):
        check(path, name, precision, targets)


def test_every_target_is_built_or_refused():
    for name in PRESETS:
        for precision in PRECISIONS:
            built = {target for plan in plans_of(name, precision) for target in plan}
            assert built | {t for t in SINGLE if (precision, t) in NEVER} >= set(SINGLE)


# Half the width is that of the values: one head up to 192, then two, three ... No BigGAN attends at more than 1536.
WIDTHS = {16: 1, 24: 1, 192: 1, 384: 1, 392: 2, 512: 2, 768: 2, 1024: 3, 1536: 4}


@pytest.mark.parametrize("width", WIDTHS)
def test_attention_of_every_width_is_one_fused_kernel(width):
    config = GeneratorConfig(z_dim=4, bottom_width=4, widths=(8, width), attention_after=(1,))
    form = to_inference(Generator(config).eval(), InferenceOptions(precision="fp16"))
    attention = form.rounded().stages[0].attention
    assert attention.heads == WIDTHS[width]
    spec = OnnxSpec(("x",), ("y",), {"x": {0: "n"}})
    payload = export_onnx(attention, {"x": torch.zeros(2, width, 8, 8, dtype=torch.float16)}, spec).payload
    shapes = ShapeRange(*((n, width, 8, 8) for n in (1, 4, 4)))
    engine = EngineSpec(("sm_75,sm_89,sm_120",), ({"x": shapes},), precision="fp16", fused_attention=1)
    assert build_engine(load_backend("rtx"), payload, engine).layers.fused_attention == 1
