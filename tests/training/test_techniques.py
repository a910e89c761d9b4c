"""The techniques that options switch on, each against its definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrizations import _SpectralNorm

from sagan_deploy.errors import ConfigError
from sagan_deploy.model.generator import Generator
from sagan_deploy.training.augment import DRAWS, augment
from sagan_deploy.training.data.dataset import without_classes
from sagan_deploy.training.losses import r1_penalty
from sagan_deploy.training.precision import check_precision
from sagan_deploy.training.run import train
from sagan_deploy.training.standing import with_standing_statistics
from sagan_deploy.training.trainer import Trainer


def _with(preset, **changes):
    return dataclasses.replace(preset, train=dataclasses.replace(preset.train, **changes))


def test_translation_moves_whole_pixels_and_fills_with_zero():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float64).view(2, 3, 8, 8) + 1
    draws = torch.tensor([[0.0, 0.0], [0.99, 0.5]], dtype=torch.float64)  # up-left by one; down by one, right by none
    moved = augment(images, ("translation",), torch.cat((torch.zeros(2, 3), draws, torch.zeros(2, 2)), 1))
    expected = np.zeros((2, 3, 8, 8))
    expected[0, :, :7, :7] = images[0, :, 1:, 1:]
    expected[1, :, 1:, :] = images[1, :, :7, :]
    np.testing.assert_array_equal(moved.numpy(), expected)


def test_colour_is_brightness_then_saturation_then_contrast():
    torch.manual_seed(0)
    x, draws = torch.randn(3, 3, 4, 4, dtype=torch.float64), torch.rand(3, DRAWS, dtype=torch.float64)
    changed = augment(x, ("color",), draws).numpy()
    for i, (b, s, c) in enumerate(draws[:, :3].tolist()):
        image = x[i].numpy() + b - 0.5
        image = (image - image.mean(0)) * 2 * s + image.mean(0)
        image = (image - image.mean()) * (c + 0.5) + image.mean()
        np.testing.assert_allclose(changed[i], image, rtol=1e-12)


def test_cutout_takes_a_square_of_half_the_side():
    draws = torch.full((1, DRAWS), 0.5)
    cut = augment(torch.ones(1, 3, 8, 8), ("cutout",), draws)
    assert cut.sum() == 3 * (64 - 16)
    corner = augment(torch.ones(1, 3, 8, 8), ("cutout",), torch.zeros(1, DRAWS))
    assert corner.sum() == 3 * (64 - 4)


def test_gradients_reach_the_image_that_was_changed():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    draws = torch.rand(2, DRAWS, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: augment(y, ("color", "translation", "cutout"), draws), (x,))


def test_r1_is_half_the_squared_gradient_of_each_score():
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    scores = (x**2).sum(dim=(1, 2, 3)) * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    slopes = 2 * x.detach() * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(4, 1, 1, 1)
    assert r1_penalty(scores, x).item() == pytest.approx((slopes**2).sum(dim=(1, 2, 3)).mean().item() / 2)


@pytest.mark.parametrize(
    "changes",
    [{"r1": 10.0}, {"augment": ("color", "translation", "cutout")}, {"balanced": True}, {"accumulation": 2}],
    ids=str,
)
def test_each_changes_the_run_and_resumes_bit_for_bit(tiny, squares, tmp_path, changes):
    preset = _with(tiny, lr_decay_from=1.0, **changes)
    train(preset, squares, tmp_path / "parts", steps=3)
    train(preset, squares, tmp_path / "parts", steps=6, resume=True)
    train(preset, squares, tmp_path / "whole", steps=6)
    train(_with(tiny, lr_decay_from=1.0), squares, tmp_path / "plain", steps=6)
    parts, whole, plain = ((tmp_path / n / "generator.safetensors").read_bytes() for n in ("parts", "whole", "plain"))
    assert parts == whole != plain


def test_accumulated_parts_have_the_gradient_of_the_whole_batch(tiny, squares):
    """Of the discriminator, for the same fakes: batch norm in the generator sees parts, as it must."""
    gradients = []
    for accumulation in (1, 2):
        trainer = Trainer(_with(tiny, accumulation=accumulation))
        trainer.generator.eval()
        images, labels = trainer.batches(squares).batch(0)
        trainer._discriminator_step(images, labels, *trainer._noise(0))
        gradients.append([p.grad.clone() for p in trainer.discriminator.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_a_batch_that_does_not_divide_into_parts_is_refused(tiny):
    with pytest.raises(
        ConfigError, match=r"batch_size \(=4\) must be a multiple of processes x accumulation \(=1 x 3\)"
    ):
        Trainer(_with(tiny, accumulation=3))


def test_standing_statistics_are_the_means_over_batches(tiny):
    torch.manual_seed(0)
    generator = Generator(tiny.generator).eval()
    before = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    seen = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: (
            seen.append(args[0].mean((0, 2, 3))) if module.__class__.__name__ == "BatchNorm2d" else None
        )
    )
    settled = with_standing_statistics(generator, batches=5, batch_size=16, seed=3)
    handle.remove()
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in generator.modules())
    last = torch.stack(seen[norms - 1 :: norms]).mean(0)
    torch.testing.assert_close(settled.tail.norm.running_mean, last, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(buffer, before[name]) for name, buffer in generator.named_buffers())
    assert not settled.training


def test_spectral_norm_can_be_left_out_of_each_network(tiny, squares, tmp_path):
    for network in ("generator", "discriminator"):
        trainer = Trainer(tiny.with_spectral_norm(network, False))
        parts = {
            name: any("_u" in key for key in getattr(trainer, name).state_dict())
            for name in ("generator", "discriminator")
        }
        assert parts == {"generator": network != "generator", "discriminator": network != "discriminator"}


def test_precisions_that_do_not_pay_are_refused_with_a_reason(tiny, monkeypatch):
    check_precision("fp32", "cpu")
    with pytest.raises(ConfigError, match="slower than fp32 on the CPU: 11 times"):
        check_precision("bf16", "cpu")
    with pytest.raises(ConfigError, match=r"precision \(=fp8\) must be one of fp32, bf16"):
        _with(tiny, precision="fp8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError, match="no faster on Tesla T4"):
        check_precision("bf16", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_precision("bf16", "cuda:1")


@pytest.mark.parametrize("case", ["plain", "r1 and augment", "unconditional"])
def test_bf16_rounds_products_and_nothing_that_is_kept(tiny, squares, case, monkeypatch):
    # On the CPU, where it is slow and right: what a GPU will be asked for.
    changes = {"r1": 2.0, "augment": ("color",)} if case == "r1 and augment" else {}
    presets = {name: _with(tiny, precision=name, **changes) for name in ("fp32", "bf16")}
    if case == "unconditional":
        squares, presets = without_classes(squares), {name: preset.with_classes(0) for name, preset in presets.items()}
    rounding, original = set(), _SpectralNorm.forward

    def forward(self, weight):
        rounding.add(torch.is_autocast_enabled("cpu"))  # CUDA would round its products, though the CPU does not
        return original(self, weight)

    monkeypatch.setattr(_SpectralNorm, "forward", forward)
    trainers = {name: Trainer(preset) for name, preset in presets.items()}
    dtypes, inputs = set(), set()
    half = trainers["bf16"]
    for network in (half.generator, half.discriminator):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, args, out: dtypes.add(out.dtype))
    half.discriminator.register_forward_pre_hook(lambda _, args: inputs.add(args[0].dtype))
    losses = {name: trainer.step(0, trainer.batches(squares)) for name, trainer in trainers.items()}
    assert (dtypes, inputs, rounding) == ({torch.bfloat16}, {torch.float32}, {False})
    for name in ("discriminator", "generator", "real_score", "fake_score"):
        ours, exact = (getattr(losses[key], name) for key in ("bf16", "fp32"))
        assert ours.dtype == torch.float32
        # Scores are sums of terms up to 5, of which bfloat16 keeps 8 bits.
        assert 0 < abs(float(ours) - float(exact)) < 5 * 2**-8 * 2
    for name in ("generator", "discriminator"):
        ours, exact = (getattr(trainers[key], name).state_dict() for key in ("bf16", "fp32"))
        assert {tensor.dtype for tensor in ours.values()} <= {torch.float32, torch.int64}
        for key in ours:
            if key.endswith(("._u", "._v")):  # σ saw the same weights: no product of it was rounded
                assert torch.equal(ours[key], exact[key]), key
            elif key.endswith("running_mean"):
                torch.testing.assert_close(ours[key], exact[key], rtol=0, atol=0.01)


def test_unknown_augmentations_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"augment \(=colour\) may list color, translation, cutout"):
        _with(tiny, augment=("colour",))
