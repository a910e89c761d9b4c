"""Training on a GPU: the steps of the CPU, runs that resume, half precision, compiled networks."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch

from sagan_deploy.presets import preset
from sagan_deploy.training.data import Dataset
from sagan_deploy.training.run import train
from tests.training.conftest import squares, tiny
from tests.training.presets import float64_trainer, with_settings

pytestmark = pytest.mark.gpu
_ = (tiny, squares)  # fixtures


@pytest.fixture(autouse=True)
def _cuda(torch_cuda):
    return torch_cuda


def _check_same_steps(ours, theirs, data):
    """Images and noise are float32, and a GPU divides float32 by a constant as it multiplies by the inverse: 6e-8."""
    batches = theirs.batches(data)
    for number in range(3):
        one, other = ours.step(number, batches), theirs.step(number, batches)
        for name in ("discriminator", "generator", "real_score", "fake_score"):
            assert float(getattr(one, name)) == pytest.approx(float(getattr(other, name)), rel=1e-6)
    for name in ("generator", "discriminator"):
        expected = getattr(theirs, name).state_dict()
        for key, value in getattr(ours, name).state_dict().items():
            # What precedes a batch norm has no gradient but rounding, which Adam makes visible.
            torch.testing.assert_close(value.cpu(), expected[key].cpu(), rtol=1e-5, atol=1e-6, msg=key)


def test_a_step_is_that_of_the_cpu(tiny, squares):
    _check_same_steps(float64_trainer(tiny, "cuda"), float64_trainer(tiny, "cpu"), squares)


@pytest.mark.filterwarnings("ignore")  # the compiler warns itself, and catches it
def test_a_compiled_step_is_that_of_the_cpu(tiny, squares):
    _check_same_steps(float64_trainer(with_settings(tiny, compile=True), "cuda"), float64_trainer(tiny, "cpu"), squares)


def _small_sagan(**changes):
    return with_settings(
        preset("sagan32").with_classes(10), batch_size=32, checkpoint_every=5, sample_every=10**6, **changes
    )


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return Dataset(
        "random", random.integers(0, 256, (256, 3, 32, 32), dtype=np.uint8), np.arange(256, dtype=np.int64) % 10,
        tuple(map(str, range(10))), source="random.npz",
    )  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"precision": "fp16"}], ids=str)
def test_a_run_that_is_interrupted_ends_as_one_that_is_not(images, tmp_path, changes):
    def interrupt(task, completed, total):
        if completed == 7:
            signal.raise_signal(signal.SIGINT)

    settings = _small_sagan(watch=False, **changes)
    whole = train(settings, images, tmp_path / "whole", steps=12, device="cuda")
    assert math.isfinite(whole.discriminator_loss + whole.generator_loss)
    with pytest.raises(KeyboardInterrupt):
        train(settings, images, tmp_path / "cut", steps=12, device="cuda", progress=interrupt)
    train(settings, images, tmp_path / "cut", resume=True, device="cuda")
    assert (tmp_path / "cut/generator.safetensors").read_bytes() == whole.checkpoint.read_bytes()
