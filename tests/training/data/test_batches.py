from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sagan_deploy.training.data.batches import Batches, Order, noise


@pytest.mark.parametrize(("count", "batch"), [(22, 4), (3, 8), (8, 8), (7, 1)])
def test_every_epoch_shows_every_row_once_and_in_another_order(count, batch):
    order = Order(count, batch, seed=3)
    seen = np.concatenate([order.rows(i) for i in range(-(-6 * count // batch))])[: 6 * count]
    epochs = seen.reshape(6, count)
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_depends_on_its_number_only(squares):
    straight = Batches(squares, 4, seed=1, flip=True)
    images = [straight.batch(i) for i in range(13)]
    for i in (12, 0, 6):
        again, labels = Batches(squares, 4, seed=1, flip=True).batch(i)
        assert torch.equal(again, images[i][0])
        assert torch.equal(labels, images[i][1])
    other, _ = Batches(squares, 4, seed=2, flip=True).batch(0)
    assert not torch.equal(other, images[0][0])


def test_labels_stay_with_their_images(squares):
    batches = Batches(squares, 4, seed=1)
    for i in range(6):
        images, labels = batches.batch(i)
        assert (images.numpy().mean(axis=(2, 3)).argmax(axis=1) == labels.numpy()).all()


def test_flip_mirrors_about_half_and_nothing_in_the_dataset(squares):
    before = squares.images.copy()
    plain, flipped = Batches(squares, 22, seed=1), Batches(squares, 22, seed=1, flip=True)
    mirrored = 0
    for i in range(10):
        for a, b in zip(plain.batch(i)[0], flipped.batch(i)[0], strict=True):
            same, other = torch.equal(a, b), torch.equal(a.flip(-1), b)
            assert same != other
            mirrored += other
    assert 80 < mirrored < 140  # 220 fair coins: 110 ± 7.4
    assert (squares.images == before).all()


def test_unlabelled_images_come_without_labels(squares):
    bare = dataclasses.replace(squares, labels=None, class_names=())
    assert Batches(bare, 4, seed=0).batch(0)[1] is None


def test_noise_is_standard_normal_and_labels_are_uniform():
    z, labels = noise(7, 3, 20000, 4, 5)
    assert z.dtype == torch.float32
    assert abs(float(z.mean())) < 0.02
    assert abs(float(z.std()) - 1) < 0.02
    counts = np.bincount(labels.numpy(), minlength=5)
    assert counts.min() > 3700
    assert counts.max() < 4300  # 4000 ± 57
    assert torch.equal(noise(7, 3, 20000, 4, 5)[0], z)
    assert not torch.equal(noise(7, 4, 20000, 4, 5)[0], z)
    assert noise(7, 3, 2, 4, 0)[1] is None
