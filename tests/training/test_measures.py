"""Every measure of speed against the step as it is usually written, in float64: the same sums."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from sagan_deploy.errors import ConfigError
from sagan_deploy.training.data.batches import noise
from sagan_deploy.training.measures import Measures
from sagan_deploy.training.speed import measure_speed, speed_preset
from sagan_deploy.training.trainer import Trainer
from sagan_deploy.training.usual import UsualStep

ALL_OFF = dict.fromkeys((field.name for field in dataclasses.fields(Measures)), False)
CASES = {"all": {}, "none": ALL_OFF} | {f"without_{name}": {name: False} for name in ALL_OFF}


def _trainer(preset, measures):
    trainer, random = Trainer(preset, measures=measures), torch.Generator().manual_seed(1)
    with torch.no_grad():  # attention begins switched off, and must be seen here
        for network in (trainer.generator, trainer.discriminator):
            network.double()
            for name, parameter in network.named_parameters():
                if name.endswith("gamma"):
                    parameter.fill_(0.7)
                elif name.endswith("original"):  # orthogonal so far: without a largest singular value
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
            _settle(network)
    trainer.ema = type(trainer.ema)(trainer.generator, preset.train.ema_decay, foreach=measures.foreach_average)
    trainer.discriminator.register_forward_pre_hook(lambda module, args: (args[0].double(), args[1]))
    trainer.generator.register_forward_pre_hook(lambda module, args: (args[0].double(), args[1]))
    return trainer


def _settle(network):
    """The vectors where power iteration ends: only there is one iteration more or less no difference."""
    for module in network.modules():
        if hasattr(module, "parametrizations"):
            weight, spectral = module.parametrizations.weight.original, module.parametrizations.weight[0]
            u, _, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            spectral._u.copy_(u[:, 0])
            spectral._v.copy_(v[0])


def _usual(trainer, batches, preset, steps):
    usual = UsualStep(preset, trainer.generator, trainer.discriminator)
    losses = []
    for number in range(steps):
        images, labels = batches.batch(number)
        draws = [noise(preset.train.seed, 2 * number + i, 4, 6, preset.generator.num_classes) for i in range(2)]
        real = (images.float() / 127.5 - 1).double()
        losses.append(usual.step(number, (real, labels), *((z.double(), y) for z, y in draws)))
    return usual, losses


@pytest.mark.parametrize("case", CASES)
def test_one_step_with_spectral_norm_is_the_usual_one(tiny, squares, case):
    trainer = _trainer(tiny, Measures(**CASES[case]))
    batches = trainer.batches(squares)
    _, ((d_loss, g_loss),) = _usual(trainer, batches, tiny, 1)
    ours = trainer.step(0, batches)
    # For the generator's step the discriminator has moved, and its vectors are no longer settled: without one more
    # iteration its σ is off by the square of that move. With as many iterations as usual nothing is.
    assert float(ours.discriminator) == pytest.approx(d_loss, rel=1e-12)
    assert float(ours.generator) == pytest.approx(g_loss, rel=1e-12 if case == "none" else 1e-4)
    for name, parameter in trainer.discriminator.named_parameters():
        if not CASES[case].get("frozen_discriminator", True):
            continue  # there the generator's step has added to them
        expected = usual_gradient(tiny, squares, name)
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


_GRADIENTS: dict[str, torch.Tensor] = {}


def usual_gradient(preset, squares, name):
    """The discriminator's gradient of its first step, the usual way, from freshly settled weights."""
    if not _GRADIENTS:
        fresh = _trainer(preset, Measures(**ALL_OFF))
        usual = UsualStep(preset, fresh.generator, fresh.discriminator)
        images, labels = fresh.batches(squares).batch(0)
        z, fake_labels = noise(preset.train.seed, 0, 4, 6, preset.generator.num_classes)
        fake = usual.draw(z.double(), fake_labels).detach()
        real_scores = usual.score((images.float() / 127.5 - 1).double(), labels)
        fake_scores = usual.score(fake, fake_labels)
        (torch.relu(1 - real_scores).mean() + torch.relu(1 + fake_scores).mean()).backward()
        _GRADIENTS.update({key: value.grad for key, value in usual.discriminator.parameters.items()})
    return _GRADIENTS[name]


@pytest.mark.parametrize("case", CASES)
def test_three_steps_without_spectral_norm_are_the_usual_ones(without_spectral_norm, squares, case):
    """Without vectors nothing has to settle: weights, average, statistics and losses agree to float64's rounding."""
    preset = without_spectral_norm
    trainer = _trainer(preset, Measures(**CASES[case]))
    batches = trainer.batches(squares)
    before = copy.deepcopy((trainer.generator, trainer.discriminator))
    usual, losses = _usual(trainer, batches, preset, 3)
    for number, (d_loss, g_loss) in enumerate(losses):
        ours = trainer.step(number, batches)
        assert float(ours.discriminator) == pytest.approx(d_loss, rel=1e-9)
        assert float(ours.generator) == pytest.approx(g_loss, rel=1e-9)
    for network, peer, start in (
        (trainer.generator, usual.generator, before[0]),
        (trainer.discriminator, usual.discriminator, before[1]),
    ):
        assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), start.parameters(), strict=True))
        for name, tensor in network.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(
                    tensor, peer.tensors[name], rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
                )
    for name, average in trainer.ema.generator.named_parameters():
        torch.testing.assert_close(
            average, usual.average[name], rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_average_keeps_the_plain_form(tiny):
    trainer = Trainer(tiny)
    assert trainer.generator.stages[0].block.folds_resampling
    assert not trainer.ema.generator.stages[0].block.folds_resampling


def test_the_benchmark_measures_all_of_them(tiny):
    report = measure_speed(tiny, seconds=0.1, threads=1)
    names = [row.name for row in report.rows]
    assert names[:2] == ["the usual step", "all measures"]
    assert len(names) == 2 + len(ALL_OFF)
    assert report.rounds >= 3
    usual, ours = report.rows[:2]
    assert (usual.against_usual, usual.cpu_against_usual, ours.brings) == (1.0, 1.0, 1.0)
    assert all(row.wall_ms > 0 and row.cpu_ms > 0 for row in report.rows)


def test_settings_that_make_no_sense():
    with pytest.raises(ConfigError, match=r"width \(=4\) must be at least 8"):
        speed_preset(4)
    with pytest.raises(ConfigError, match=r"seconds \(=0\)"):
        measure_speed(seconds=0)
    preset = speed_preset(8)
    deep = dataclasses.replace(preset, generator=dataclasses.replace(preset.generator, block="bottleneck"))
    with pytest.raises(ConfigError, match="the usual step is written for SAGAN's own blocks"):
        measure_speed(deep, seconds=1)
