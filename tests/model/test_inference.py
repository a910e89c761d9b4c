"""Every identity of the inference form, in float64 against the training form or a naive computation."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sagan_deploy.config import AttentionConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.model.attention import SelfAttention
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.model.inference import attention as attention_module
from sagan_deploy.model.inference.attention import InferenceAttention, split_heads
from sagan_deploy.model.inference.fold import Weights, effective
from sagan_deploy.model.inference.generator import to_codes
from sagan_deploy.model.inference.upconv import DifferenceConv, phase_kernels, transposed_kernel, up_conv
from sagan_deploy.model.inference.winograd import WinogradConv
from sagan_deploy.model.layers import conv, deconv
from sagan_deploy.presets import preset
from tests.generators import CONFIGS, TINY, inputs, lively, tiny_generator

EXACT = 1e-12  # relative, in float64


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("attention", "upsample_conv", "conv"),
    [
        *itertools.product(["fused", "decomposed"], ["phases", "transposed", "plain"], ["direct"]),
        ("decomposed", "differences", "winograd"),
    ],
)
def test_the_inference_form_is_the_same_function(name, attention, upsample_conv, conv):
    config = CONFIGS[name]
    generator = tiny_generator(config).double()
    form = to_inference(generator, InferenceOptions(attention=attention, upsample_conv=upsample_conv, conv=conv))
    assert relative(form(*inputs(config)), generator(*inputs(config))) <= EXACT


def test_the_presets_attention_widths_are_exact_too():
    config = preset("sagan32").generator
    generator = tiny_generator(config).double()
    assert relative(to_inference(generator)(*inputs(config)), generator(*inputs(config))) <= EXACT


@pytest.mark.parametrize("attention_map", ["standard", "untransposed"])
def test_attention_in_parts_is_the_attention(attention_map, monkeypatch):
    torch.manual_seed(0)
    config = AttentionConfig(spectral_norm=False, attention_map=attention_map, pool=attention_map == "standard")
    block = SelfAttention(16, config).double().eval().requires_grad_(False)
    block.gamma.fill_(0.7)
    monkeypatch.setattr(attention_module, "_SCORES", 110)  # 6x10 queries and 15 keys: 9 parts, the last one shorter
    form = InferenceAttention(block, "decomposed").requires_grad_(False)
    x = torch.randn(2, 16, 6, 10, dtype=torch.float64)
    assert relative(form(x), block(x)) <= EXACT
    used = []
    monkeypatch.setattr(attention_module, "softmax", lambda scores: used.append(scores.shape[1]) or scores.softmax(-1))
    form(x)
    assert used == ([7] * 8 + [4] if attention_map == "standard" else [60])


def test_the_original_is_left_alone_and_training_mode_is_refused():
    generator = tiny_generator()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    to_inference(generator)
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    with pytest.raises(ConfigError, match="training mode"):
        to_inference(generator.train())


def naive_upsampled_conv(x, kernel):
    """Repeat every pixel, then add up nine products per output pixel."""
    big = np.pad(x.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (1, 1), (1, 1)))
    height, width = 2 * x.shape[1], 2 * x.shape[2]
    windows = [big[:, a : a + height, b : b + width] for a in range(3) for b in range(3)]
    taps = [kernel[:, :, a, b] for a in range(3) for b in range(3)]
    return sum(np.einsum("oc,chw->ohw", tap, window) for tap, window in zip(taps, windows, strict=True))


def test_the_transposed_kernel_equals_upsampling_and_convolution_borders_included():
    torch.manual_seed(0)
    kernel, x = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    result = F.conv_transpose2d(x[None], transposed_kernel(kernel).transpose(0, 1), stride=2, padding=1)[0]
    np.testing.assert_allclose(result.numpy(), naive_upsampled_conv(x.numpy(), kernel.numpy()), rtol=1e-12, atol=1e-12)


def test_differences_of_neighbours_equal_upsampling_and_convolution_borders_included():
    torch.manual_seed(0)
    kernel, x = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    conv = DifferenceConv(Weights(kernel, bias))
    expected = naive_upsampled_conv(x.numpy(), kernel.numpy()) + bias.numpy()[:, None, None]
    np.testing.assert_allclose(conv(x[None])[0].detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert sum(part.numel() for part in conv.kernels) == kernel.numel()


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 2)])
def test_winograd_products_are_the_convolution_at_every_size(size):
    torch.manual_seed(0)
    kernel, x = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(2, 2, *size, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    big = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = size
    expected = bias.numpy()[:, None, None] + sum(
        np.einsum("oc,nchw->nohw", kernel.numpy()[:, :, a, b], big[:, :, a : a + height, b : b + width])
        for a in range(3)
        for b in range(3)
    )
    found = WinogradConv(Weights(kernel, bias))(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("precision", "channels", "up", "same"),
    [
        ("fp32", 512, "DifferenceConv", "WinogradConv"),
        ("fp32", 128, "DifferenceConv", "WinogradConv"),
        ("fp32", 127, "DifferenceConv", "PlainConv"),
        ("fp32", 63, "PhaseConv", "PlainConv"),
        ("fp32", 4, "PhaseConv", "MirroredConv"),
        ("fp16", 3, "PhaseConv", "PlainConv"),
        ("fp16", 512, "PhaseConv", "PlainConv"),
        ("bf16", 512, "PhaseConv", "PlainConv"),
    ],
)
def test_wide_float32_layers_take_the_forms_with_fewer_multiplications(precision, channels, up, same):
    weights, options = Weights(torch.zeros(channels, 512, 3, 3), torch.zeros(channels)), InferenceOptions(precision)
    assert type(up_conv(weights, "nearest", options)).__name__ == up
    assert type(up_conv(weights, None, options)).__name__ == same
    assert type(up_conv(Weights(weights.weight[:, :, :1, :1], weights.bias), None, options)).__name__ == "PlainConv"
    assert type(up_conv(weights, "bilinear", options)).__name__ == "PlainConv"


def test_a_phase_kernel_sees_each_input_pixel_once_with_all_taps_that_fall_on_it():
    kernel = torch.arange(9, dtype=torch.float64).view(1, 1, 3, 3)
    (top_left, _, _, bottom_right) = phase_kernels(transposed_kernel(kernel))
    assert top_left[0, 0].tolist() == [[0.0, 1.0 + 2.0], [3.0 + 6.0, 4.0 + 5.0 + 7.0 + 8.0]]
    assert bottom_right[0, 0].tolist() == [[0.0 + 1.0 + 3.0 + 4.0, 2.0 + 5.0], [6.0 + 7.0, 8.0]]


def test_a_transposed_convolution_is_its_four_phases_where_no_kernel_exists():
    config = CONFIGS["transposed-convolutions"]
    generator = tiny_generator(config).double()
    form = to_inference(generator, InferenceOptions(precision="bf16"))
    assert [type(stage.block.conv).__name__ for stage in form.stages] == ["PhaseConv", "PhaseConv"]
    assert type(form.tail.conv).__name__ == "PhaseConv"
    assert relative(form(*inputs(config)), generator(*inputs(config))) <= EXACT
    plain = to_inference(generator, InferenceOptions(precision="fp16"))
    assert type(plain.stages[0].block.conv).__name__ == "TransposedConv"


def test_effective_weights_are_divided_by_sigma_with_the_stored_vectors():
    for layer, axis in ((conv(3, 5, 3, bias=True, spectral=True), 0), (deconv(3, 5, bias=False, spectral=True), 1)):
        layer = layer.double().eval()
        raw = layer.parametrizations.weight.original.detach().numpy()
        rows = np.moveaxis(raw, axis, 0).reshape(raw.shape[axis], -1)
        norm = layer.parametrizations.weight[0]
        sigma = norm._u.numpy() @ rows @ norm._v.numpy()
        np.testing.assert_allclose(
            effective(layer).weight.numpy(), np.moveaxis(raw, axis, 0) / sigma, rtol=1e-13, atol=1e-15
        )


def test_a_following_affine_map_folds_into_the_layer():
    weights = Weights(torch.randn(4, 3), torch.randn(4))
    scale, shift, x = torch.randn(4), torch.randn(4), torch.randn(3)
    folded = weights.then_affine(scale, shift)
    torch.testing.assert_close(
        folded.weight @ x + folded.bias, scale * (weights.weight @ x + weights.bias) + shift, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("keys", "values", "expected"),
    [
        (1, 1, (1, 16)),
        (2, 16, (1, 16)),
        (3, 17, (1, 24)),
        (32, 128, (1, 128)),
        (48, 192, (1, 192)),
        (49, 196, (2, 104)),  # 2 heads of 98, in steps of 8
        (64, 256, (2, 128)),
        (128, 512, (3, 176)),
        (192, 1536, (8, 192)),
        (193, 193, None),
    ],
)
def test_fused_heads_have_a_width_that_tensorrt_fuses(keys, values, expected):
    assert split_heads(keys, values) == expected


WIDE = [
    AttentionConfig(),  # 2 heads of 104 for 196 values, 12 of them padded
    AttentionConfig(pool=False, output_conv=False, value_ratio=1, bias=True),  # 3 heads of 136 for 392 values
    AttentionConfig(scale="rsqrt", bias=True, value_ratio=1),
]


@pytest.mark.parametrize("config", WIDE, ids=["padded", "no-output-convolution", "scaled"])
def test_wide_attention_in_several_heads_is_the_same_function(config):
    torch.manual_seed(0)
    attention = lively(SelfAttention(392, config)).double()
    form = InferenceAttention(attention, "fused").double().requires_grad_(False)
    assert form.layout == "fused"
    assert form.heads > 1
    x = torch.randn(2, 392, 8, 8, dtype=torch.float64)
    assert relative(form(x), attention(x)) <= EXACT


def test_untransposed_attention_falls_back_to_the_decomposed_layout():
    attention = tiny_generator(CONFIGS["transposed-convolutions"]).double().stages[0].attention
    assert InferenceAttention(attention, "fused").layout == "decomposed"


def test_the_layout_follows_the_precision_unless_it_is_asked_for():
    assert InferenceOptions(precision="fp16").attention_layout == "fused"
    assert InferenceOptions(precision="fp32").attention_layout == "decomposed"
    assert InferenceOptions(precision="fp32", attention="fused").attention_layout == "fused"
    with pytest.raises(ConfigError, match=r"precision \(='fp8'\)"):
        InferenceOptions(precision="fp8")


def test_half_precision_rounds_the_folded_weights_once_and_keeps_the_head_in_float32():
    generator = tiny_generator()
    exact = to_inference(generator, InferenceOptions(precision="fp16"))
    half = exact.rounded()
    for name, value in exact.state_dict().items():
        assert torch.equal(half.state_dict()[name], value.half()), name
    images = half(*inputs(TINY, dtype=torch.float32))
    assert images.dtype == torch.float32
    assert relative(images.double(), exact(*inputs(TINY))) < 5e-3


def test_codes_are_rounded_not_truncated_and_stand_in_nhwc():
    images = torch.tensor([-1.0, -0.999, 0.0, 0.9961, 1.0, 0.5]).view(1, 1, 2, 3)
    expected = np.clip(np.rint(images.numpy() * 127.5 + 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    codes = to_codes(images)
    assert codes.dtype == torch.uint8
    assert np.array_equal(codes.numpy(), expected)


def test_uint8_output_is_the_quantised_float_output():
    generator = tiny_generator()
    floats = to_inference(generator)(*inputs(TINY)).numpy()
    codes = to_inference(generator, InferenceOptions(output="uint8"))(*inputs(TINY)).numpy()
    assert np.array_equal(codes, np.rint(floats * 127.5 + 127.5).astype(np.uint8).transpose(0, 2, 3, 1))
