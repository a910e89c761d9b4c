"""Compiled networks take the steps of those that are not, and a run with them resumes bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from sagan_deploy.errors import ConfigError, MissingError
from sagan_deploy.model.layers import conv, set_power_iteration, take_power_iteration
from sagan_deploy.training.compiled import check_compiler
from sagan_deploy.training.run import train
from sagan_deploy.training.trainer import Trainer
from sagan_deploy.training.watch import Watchdog
from tests.training.presets import float64_trainer, with_settings

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler warns itself, and catches it


@pytest.mark.exhaustive
@pytest.mark.parametrize("changes", [{}, {"accumulation": 2, "augment": ("color",)}], ids=["plain", "parts"])
def test_compiled_steps_are_the_same_steps(tiny, squares, changes):
    """PyTorch's compiled gradient of σ is wrong where a pass takes its own power iteration, so none may."""
    plain, compiled = (
        float64_trainer(with_settings(tiny, **changes)),
        float64_trainer(with_settings(tiny, compile=True, **changes)),
    )
    batches = plain.batches(squares)
    start = copy.deepcopy(plain.discriminator.state_dict())
    for number in range(3):
        ours, theirs = compiled.step(number, batches), plain.step(number, batches)
        for name in ("discriminator", "generator", "real_score", "fake_score"):
            assert float(getattr(ours, name)) == pytest.approx(float(getattr(theirs, name)), rel=1e-9)
    assert any(not torch.equal(start[name], value) for name, value in plain.discriminator.state_dict().items())
    for name in ("generator", "discriminator"):
        expected = getattr(plain, name).state_dict()
        for key, value in getattr(compiled, name).state_dict().items():
            # What precedes a batch norm has no gradient but rounding, which Adam makes visible.
            torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.exhaustive
def test_a_compiled_run_resumes_bit_for_bit_and_goes_on_without_a_compiler(tiny, squares, tmp_path, monkeypatch):
    monkeypatch.setattr(Watchdog, "scores", lambda *_: None)
    preset = with_settings(tiny, compile=True, lr_decay_from=1.0)
    train(preset, squares, tmp_path / "whole", steps=6)
    train(preset, squares, tmp_path / "parts", steps=3)
    torch.compiler.reset()  # as a new process would begin
    train(preset, squares, tmp_path / "parts", steps=6, resume=True)
    whole, parts = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    train(with_settings(preset, compile=False), squares, tmp_path / "parts", steps=7, resume=True)


def test_without_a_compiler_there_is_one_line(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nowhere/g++"))
    with pytest.raises(MissingError, match=r"--compile: PyTorch cannot compile for cpu here .*/nowhere/g\+\+"):
        check_compiler("cpu")


def test_both_networks_are_compiled_and_the_average_is_not(tiny):
    trainer = Trainer(with_settings(tiny, compile=True))
    assert trainer.generator._compiled_call_impl is not None
    assert trainer.discriminator._compiled_call_impl is not None
    assert trainer.ema.generator._compiled_call_impl is None
    assert Trainer(tiny).generator._compiled_call_impl is None


def test_no_second_derivatives():
    from sagan_deploy.config import TrainConfig

    with pytest.raises(ConfigError, match=r"compile and r1 \(=10.0\) exclude each other"):
        TrainConfig(compile=True, r1=10.0)


def test_a_power_iteration_is_its_equations_and_passes_leave_the_vectors_alone():
    torch.manual_seed(0)
    layer = conv(5, 7, 3, bias=True, spectral=True).train()
    set_power_iteration(layer, False)
    spectral = layer.parametrizations.weight[0]
    rows = layer.parametrizations.weight.original.detach().flatten(1).double().numpy()
    v = spectral._v.double().numpy()
    layer(torch.zeros(1, 5, 4, 4))
    assert (spectral._v.double().numpy() == v).all()
    take_power_iteration(layer)
    u = rows @ v / ((rows @ v) ** 2).sum() ** 0.5
    v = rows.T @ u / ((rows.T @ u) ** 2).sum() ** 0.5
    assert spectral._u.numpy() == pytest.approx(u, abs=1e-6)
    assert spectral._v.numpy() == pytest.approx(v, abs=1e-6)
    assert layer.weight.detach().flatten(1).numpy() == pytest.approx(rows / (u @ rows @ v), abs=1e-5)


def test_each_network_takes_one_power_iteration_per_step(tiny, squares):
    trainer = Trainer(with_settings(tiny, accumulation=2, discriminator_steps=2))
    with torch.no_grad():  # orthogonal weights have no largest singular value, and vectors that never move
        for parameter in trainer.generator.parameters():
            parameter.add_(torch.randn_like(parameter))
    network = copy.deepcopy(trainer.generator)
    trainer.step(0, trainer.batches(squares))
    take_power_iteration(network)
    for name, value in network.state_dict().items():
        if name.endswith(("_u", "_v")):
            torch.testing.assert_close(trainer.generator.state_dict()[name], value)
