"""A network small enough to train in a test, and images for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sagan_deploy.config import AttentionConfig, DiscriminatorConfig, GeneratorConfig, TrainConfig
from sagan_deploy.presets import Preset
from sagan_deploy.training.data import Dataset


@pytest.fixture(autouse=True)
def _one_thread():
    # Several threads on tiny tensors only wait for each other, all the more beside other tests.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> Preset:
    return Preset(
        GeneratorConfig(
            z_dim=6, num_classes=3, bottom_width=4, widths=(8, 8), norm="class_table", embedding_dim=4,
            stem_input="condition", attention_after=(1,),
        ),
        DiscriminatorConfig(image_size=8, num_classes=3, widths=(8, 8), downsample=(True, False), attention_after=(1,)),
        TrainConfig(
            steps=8, batch_size=4, generator_lr=1e-3, discriminator_lr=2e-3, ema_decay=0.9, lr_decay_from=0.5,
            log_every=2, sample_every=4, checkpoint_every=3,
        ),
    )  # fmt: skip


@pytest.fixture
def without_spectral_norm(tiny) -> Preset:
    changes = {"spectral_norm": False, "attention": AttentionConfig(spectral_norm=False)}
    return Preset(
        dataclasses.replace(tiny.generator, **changes), dataclasses.replace(tiny.discriminator, **changes), tiny.train
    )


@pytest.fixture
def squares() -> Dataset:
    """22 noisy 8x8 images in three classes: more than five batches of four, so that epochs end inside a batch."""
    random = np.random.default_rng(5)
    labels = np.arange(22, dtype=np.int64) % 3
    images = random.integers(0, 80, (22, 3, 8, 8), dtype=np.uint8)
    images[np.arange(22), labels] += 150
    return Dataset("squares", images, labels, ("red", "green", "blue"), "Squares: by the tests", source="squares.npz")
