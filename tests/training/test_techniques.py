"""The techniques that options switch on, each against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils.parametrizations import _SpectralNorm

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.model.generator import Generator
from sagan_deploy.training import precision
from sagan_deploy.training.augment import DRAWS, augment
from sagan_deploy.training.data.dataset import without_classes
from sagan_deploy.training.losses import r1_penalty
from sagan_deploy.training.precision import check_precision
from sagan_deploy.training.run import train
from sagan_deploy.training.standing import with_standing_statistics
from sagan_deploy.training.state import restore
from sagan_deploy.training.trainer import Trainer
from tests.training.presets import with_settings


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
    preset = with_settings(tiny, lr_decay_from=1.0, **changes)
    train(preset, squares, tmp_path / "parts", steps=3)
    train(preset, squares, tmp_path / "parts", steps=6, resume=True)
    train(preset, squares, tmp_path / "whole", steps=6)
    train(with_settings(tiny, lr_decay_from=1.0), squares, tmp_path / "plain", steps=6)
    parts, whole, plain = ((tmp_path / n / "generator.safetensors").read_bytes() for n in ("parts", "whole", "plain"))
    assert parts == whole != plain


def test_accumulated_parts_have_the_gradient_of_the_whole_batch(tiny, squares):
    """Of the discriminator, for the same fakes: batch norm in the generator sees parts, as it must."""
    gradients = []
    for accumulation in (1, 2):
        trainer = Trainer(with_settings(tiny, accumulation=accumulation))
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
        Trainer(with_settings(tiny, accumulation=3))


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
    seconds = {"fp32": 0.02, "bf16": 0.22, "fp16": 0.01}
    monkeypatch.setattr(precision, "_seconds", seconds.get)
    with pytest.raises(ConfigError, match=r"bf16 does not pay on this CPU: a convolution takes 11\.0 times as long"):
        check_precision("bf16", "cpu")
    check_precision("fp16", "cpu")
    with pytest.raises(ConfigError, match=r"precision \(=fp8\) must be one of fp32, bf16, fp16"):
        with_settings(tiny, precision="fp8")
    with pytest.raises(ConfigError, match=r"precision fp16 and r1 \(=1.0\) exclude each other"):
        with_settings(tiny, precision="fp16", r1=1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError, match=r"no faster on Tesla T4.*8\.0\. Take fp16"):
        check_precision("bf16", "cuda")
    check_precision("fp16", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    for name in ("bf16", "fp16"):
        with pytest.raises(ConfigError, match="Train in fp32"):
            check_precision(name, "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_precision("bf16", "cuda:1")


def test_what_is_timed_is_a_convolution_in_that_precision(monkeypatch):
    seen, original = [], torch.nn.functional.conv2d

    def conv2d(x, weight, **options):
        seen.append((x.dtype, weight.dtype))
        return original(x, weight, **options)

    monkeypatch.setattr(precision.F, "conv2d", conv2d)
    assert precision._seconds("bf16") > 0
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}


@pytest.mark.parametrize("case", ["plain", "r1 and augment", "unconditional", "fp16"])
def test_half_precision_rounds_products_and_nothing_that_is_kept(tiny, squares, case, monkeypatch):
    # On the CPU, where it is slow and right: what a GPU will be asked for.
    changes = {"r1": 2.0, "augment": ("color",)} if case == "r1 and augment" else {}
    kind, dtype, bits = ("fp16", torch.float16, 11) if case == "fp16" else ("bf16", torch.bfloat16, 8)
    presets = {name: with_settings(tiny, precision=name, **changes) for name in ("fp32", kind)}
    if case == "unconditional":
        squares, presets = without_classes(squares), {name: preset.with_classes(0) for name, preset in presets.items()}
    rounding, original = set(), _SpectralNorm.forward

    def forward(self, weight):
        rounding.add(torch.is_autocast_enabled("cpu"))  # CUDA would round its products, though the CPU does not
        return original(self, weight)

    monkeypatch.setattr(_SpectralNorm, "forward", forward)
    trainers = {name: Trainer(preset) for name, preset in presets.items()}
    dtypes, inputs = set(), set()
    half = trainers[kind]
    for network in (half.generator, half.discriminator):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, args, out: dtypes.add(out.dtype))
    half.discriminator.register_forward_pre_hook(lambda _, args: inputs.add(args[0].dtype))
    if kind == "fp16":  # the first steps find the scale, and leave the weights alone meanwhile
        half.scaler.load_state_dict(half.scaler.state_dict() | {"scale": 256.0})
    losses = {name: trainer.step(0, trainer.batches(squares)) for name, trainer in trainers.items()}
    assert (dtypes, inputs, rounding) == ({dtype}, {torch.float32}, {False})
    for name in ("discriminator", "generator", "real_score", "fake_score"):
        ours, exact = (getattr(losses[key], name) for key in (kind, "fp32"))
        assert ours.dtype == torch.float32
        # Scores are sums of terms up to 5, of which bfloat16 keeps 8 bits and float16 11.
        assert 0 < abs(float(ours) - float(exact)) < 5 * 2**-bits * 2
    for name in ("generator", "discriminator"):
        ours, exact = (getattr(trainers[key], name).state_dict() for key in (kind, "fp32"))
        assert {tensor.dtype for tensor in ours.values()} <= {torch.float32, torch.int64}
        for key in ours:
            if key.endswith(("._u", "._v")):  # σ saw the same weights: no product of it was rounded
                assert torch.equal(ours[key], exact[key]), key
            elif key.endswith("running_mean"):
                torch.testing.assert_close(ours[key], exact[key], rtol=0, atol=0.01)


def test_losses_are_scaled_for_fp16_and_a_step_that_overflows_is_left_out(tiny, squares):
    trainer, plain = Trainer(with_settings(tiny, precision="fp16")), Trainer(tiny)
    batches = trainer.batches(squares)
    found = []
    trainer.discriminator.linear.register_full_backward_hook(lambda _, inputs, out: found.append(out[0]))
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 256.0})
    trainer.step(0, batches)
    scaled = found[0].abs().max()
    plain.discriminator.linear.register_full_backward_hook(lambda _, inputs, out: found.append(out[0]))
    plain.step(0, batches)
    assert float(scaled / found[-2].abs().max()) == pytest.approx(256, rel=0.05)  # of the discriminator's step
    before = [parameter.clone() for parameter in trainer.generator.parameters()]
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 2.0**40})
    trainer.step(1, batches)
    assert trainer.scaler.get_scale() == 2.0**38  # halved for each network
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.generator.parameters(), strict=True))


def test_an_fp16_run_resumes_bit_for_bit_with_its_scale(tiny, squares, tmp_path):
    preset = with_settings(tiny, precision="fp16", lr_decay_from=1.0)
    train(preset, squares, tmp_path / "whole", steps=6)
    train(preset, squares, tmp_path / "parts", steps=3)
    state = load_file(tmp_path / "parts/training.safetensors")
    assert float(state["loss_scaling/scale"]) > 1
    train(preset, squares, tmp_path / "parts", steps=6, resume=True)
    whole, parts = (load_file(tmp_path / name / "training.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert int(whole["loss_scaling/_growth_tracker"]) > 6 or float(whole["loss_scaling/scale"]) < 2**16
    trainer = Trainer(preset)
    with pytest.raises(InputError, match="does not fit"):
        restore(trainer, {name: tensor for name, tensor in whole.items() if "scaling" not in name}, path=tmp_path)


def test_unknown_augmentations_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"augment \(=colour\) may list color, translation, cutout"):
        with_settings(tiny, augment=("colour",))
