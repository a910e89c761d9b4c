"""What a plan draws, held against PyTorch on the same GPU and against the training form in float64."""

import dataclasses

import numpy as np
import pytest
import torch

from sagan_deploy.config import AttentionConfig
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.runtime import load
from sagan_deploy.verify import default_limits, image_errors
from tests.generators import CONFIGS, TINY, tiny_checkpoint
from tests.gpu.plans import float64_images, plan_of

pytestmark = pytest.mark.gpu


def errors_of(plan, checkpoint, count=8):
    """The images of a plan, and their relative L2 and largest errors against float64."""
    with load(plan, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(count, seed=3)
        images = generator(z, labels)
    return z, labels, images, *image_errors(images, float64_images(checkpoint, z, labels))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["sagan", "unconditional", "biggan", "transposed-convolutions"])
def test_a_plan_against_float64(tmp_path, flavour, name, precision):
    checkpoint = tiny_checkpoint(CONFIGS[name])
    *_, rel_l2, max_abs = errors_of(plan_of(checkpoint, tmp_path, flavour, precision=precision), checkpoint)
    limits = default_limits(CONFIGS[name], precision)
    assert rel_l2.max() <= limits.rel_l2
    if name != "biggan":  # its untrained weights are so steep that ONNX Runtime's fp16 misses single pixels as well
        assert max_abs.max() <= limits.max_abs


def test_a_float32_plan_against_float64(tmp_path, flavour):
    """TensorRT may compute float32 products in TF32, with ten bits behind the point: as many as float16 has."""
    checkpoint = tiny_checkpoint()
    *_, rel_l2, max_abs = errors_of(plan_of(checkpoint, tmp_path, flavour, precision="fp32"), checkpoint)
    limits = default_limits(TINY, "fp16")
    assert rel_l2.max() <= limits.rel_l2
    assert max_abs.max() <= limits.max_abs


def test_eight_bit_images(tmp_path, flavour):
    checkpoint = tiny_checkpoint()
    z, labels, images, _, _ = errors_of(
        plan_of(checkpoint, tmp_path, flavour, precision="fp16", output="uint8"), checkpoint
    )
    assert images.dtype == np.uint8
    exact = float64_images(checkpoint, z, labels).transpose(0, 2, 3, 1) * 127.5 + 127.5
    assert np.abs(images - exact).max() <= 1.5  # one code of the float16 network, half of one of rounding


def test_a_plan_against_pytorch_on_the_same_gpu(tmp_path, flavour, torch_cuda):
    """Two float16 computations of one network, each within the limit of float64: together within twice that."""
    checkpoint = tiny_checkpoint()
    options = InferenceOptions(precision="fp16")
    z, labels, images, plan_error, _ = errors_of(plan_of(checkpoint, tmp_path, flavour, precision="fp16"), checkpoint)
    network = to_inference(checkpoint.generator(), options).rounded().cuda()
    with torch_cuda.inference_mode():
        theirs = network(torch.from_numpy(z).cuda(), torch.from_numpy(labels).cuda()).float().cpu().numpy()
    limits = default_limits(TINY, "fp16")
    torch_error, _ = image_errors(theirs, float64_images(checkpoint, z, labels))
    assert torch_error.max() <= limits.rel_l2
    rel_l2, max_abs = image_errors(images, theirs)
    assert rel_l2.max() <= 2 * limits.rel_l2
    assert max_abs.max() <= 2 * limits.max_abs
    assert plan_error.max() <= 4 * max(torch_error.max(), 2.0**-11)  # no worse than rounding explains


def test_batches_of_every_size_draw_the_same_rows(tmp_path, flavour):
    checkpoint = tiny_checkpoint()
    plan = plan_of(checkpoint, tmp_path, flavour, precision="fp16")
    with load(plan, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(11)
        exact = float64_images(checkpoint, z, labels)
        for count in (1, 2, 7, 8, 11):  # the last one is split
            rel_l2, _ = image_errors(generator(z[:count], labels[:count]), exact[:count])
            assert rel_l2.max() <= default_limits(TINY, "fp16").rel_l2


def loud_checkpoint():
    """A generator whose attention scores are large: no scale, no spectral norm, and wide queries and keys."""
    config = dataclasses.replace(TINY, attention=AttentionConfig(spectral_norm=False))
    checkpoint = tiny_checkpoint(config)
    state = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
    for name in state:
        if "attention" in name and (".query." in name or ".key." in name):
            state[name] *= 8
    return dataclasses.replace(checkpoint, state=state)


def largest_score(checkpoint, z, labels):
    """The largest |f(x)ᵀg(x)| in float64."""
    generator = checkpoint.generator().double().eval()
    seen = {}
    for name, part in generator.named_modules():
        if name.endswith((".attention.query", ".attention.key")):
            part.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name.rpartition(".")[2], out))
    with torch.inference_mode():
        generator(torch.from_numpy(z).double(), torch.from_numpy(labels))
    scores = torch.einsum("ncp,ncq->npq", seen["query"].flatten(2), seen["key"].flatten(2))
    return float(scores.abs().max())


def test_fused_attention_is_as_exact_as_decomposed_on_large_scores(tmp_path, flavour):
    checkpoint = loud_checkpoint()
    errors = {}
    for attention in ("fused", "decomposed"):
        plan = plan_of(checkpoint, tmp_path, flavour, precision="fp16", attention=attention)
        z, labels, _, errors[attention], _ = errors_of(plan, checkpoint)
    assert largest_score(checkpoint, z, labels) > 100  # where a softmax in float16 would go wrong
    # Scores of 100 carry an absolute error of 100 · 2⁻¹¹ in float16, so both may miss; fusion must not miss more.
    assert errors["fused"].max() <= 2 * errors["decomposed"].max() + default_limits(TINY, "fp16").rel_l2
