"""What builds: every preset in every precision for every GPU that TensorRT for RTX serves, for real and without a GPU.

Each plan is asserted by the builder's own report: its convolutions read the precision that was asked for, every
attention block is one fused kernel, and inputs and outputs have their types. Nothing here runs a plan.
"""

import pytest

from exporters.errors import UnsupportedTarget
from sagan_deploy.build import build_plan
from sagan_deploy.checkpoints.native import checkpoint_of
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.export import export_generator
from sagan_deploy.model.generator import Generator
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.presets import PRESETS

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121", "all-rtx")
PRECISIONS = ("fp32", "fp16", "bf16")
# Turing has no bfloat16, and TensorRT for RTX no float32 matrix product for it.
NEVER = {("bf16", "sm_75"): "cannot compute in BF16", ("fp32", "sm_75"): "no float32 matrix product for sm_75"}


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    """Path of a preset's ONNX file in a precision; each is exported once."""
    folder, made = tmp_path_factory.mktemp("matrix"), {}

    def path(name, precision):
        if (name, precision) not in made:
            checkpoint = checkpoint_of(Generator(PRESETS[name].generator).eval())
            file = folder / f"{name}.{precision}.onnx"
            file.write_bytes(export_generator(checkpoint, InferenceOptions(precision=precision)).payload)
            made[name, precision] = file
        return made[name, precision]

    return path


def check(path, precision, target, attention_blocks):
    built = build_plan(path, targets=(target,), flavour="rtx", max_batch=4)
    (artifact,) = built.manifest.artifacts
    assert artifact.precision == precision
    assert artifact.plan.fused_attention == (0 if precision == "fp32" else attention_blocks)
    tensors = {tensor.name: (tensor.dtype, tensor.shape[0]) for tensor in built.result.layers.io}
    assert tensors == {"z": ("float32", -1), "labels": ("int64", -1), "images": ("float32", -1)}
    assert built.result.header.compute_capabilities == artifact.plan.compute_capabilities
    assert len(artifact.plan.targets) == (5 if target == "all-rtx" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_in_every_precision_for_every_target(onnx_files, name, precision):
    blocks = len(PRESETS[name].generator.attention_after)
    for target in TARGETS:
        if (precision, target) in NEVER:
            with pytest.raises(UnsupportedTarget, match=NEVER[precision, target]):
                build_plan(onnx_files(name, precision), targets=(target,), flavour="rtx", max_batch=4)
        else:
            check(onnx_files(name, precision), precision, target, blocks)


# Half the width is that of the values: one head up to 192, then two, three ... No BigGAN attends at more than 1536.
WIDTHS = {16: 1, 24: 1, 192: 1, 384: 1, 392: 2, 512: 2, 768: 2, 1024: 3, 1536: 4}


@pytest.mark.parametrize("width", WIDTHS)
def test_attention_of_every_width_is_one_fused_kernel(width, tmp_path):
    config = GeneratorConfig(z_dim=4, bottom_width=4, widths=(8, width), attention_after=(1,))
    generator = Generator(config).eval()
    form = to_inference(generator, InferenceOptions(precision="fp16"))
    assert form.stages[0].attention.heads == WIDTHS[width]
    path = tmp_path / "g.onnx"
    path.write_bytes(export_generator(checkpoint_of(generator), InferenceOptions(precision="fp16")).payload)
    plan = build_plan(path, targets=("sm_75,sm_89,sm_120",), flavour="rtx", max_batch=4).manifest.artifacts[0].plan
    assert plan.fused_attention == 1
