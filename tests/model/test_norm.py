"""Batch norm, conditional batch norm and spectral norm against a few obvious NumPy lines."""

import numpy as np
import torch
from torch import nn

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.model.layers import conv, linear
from sagan_deploy.model.norm import BatchNorm2d, ConditionalBatchNorm2d, make_norm
from tests.generators import TINY, lively

VECTOR = GeneratorConfig(z_dim=8, num_classes=3, widths=(8, 8), norm="vector", embedding_dim=5)


def normalised(x, statistics):
    mean, variance = statistics.running_mean.numpy(), statistics.running_var.numpy()
    return (x.numpy() - mean[:, None, None]) / np.sqrt(variance + statistics.eps)[:, None, None]


def test_a_class_table_gives_every_class_its_own_gain_and_shift():
    norm = lively(ConditionalBatchNorm2d(4, TINY, 0).double())
    x, labels = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.tensor([2, 0, 2])
    gain = norm.gain.weight.numpy()[labels.numpy()]
    shift = norm.shift.weight.numpy()[labels.numpy()]
    expected = gain[:, :, None, None] * normalised(x, norm.statistics) + shift[:, :, None, None]
    np.testing.assert_allclose(norm(x, labels).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_a_vector_condition_maps_to_one_plus_gain_and_shift():
    norm = lively(ConditionalBatchNorm2d(4, VECTOR, 5).double())
    x, condition = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    gain = 1 + condition.numpy() @ norm.gain.weight.numpy().T
    shift = condition.numpy() @ norm.shift.weight.numpy().T
    expected = gain[:, :, None, None] * normalised(x, norm.statistics) + shift[:, :, None, None]
    np.testing.assert_allclose(norm(x, condition).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_an_unconditional_norm_ignores_the_condition():
    norm = make_norm(4, GeneratorConfig(widths=(8, 8)), 0)
    assert isinstance(norm, BatchNorm2d)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(norm.eval()(x, torch.tensor([1])), nn.BatchNorm2d.forward(norm, x))


def test_training_statistics_are_those_of_the_batch():
    norm = ConditionalBatchNorm2d(4, TINY, 0).double().train()
    x = 3 + torch.randn(64, 4, 5, 5, dtype=torch.float64)
    nn.init.ones_(norm.gain.weight)
    nn.init.zeros_(norm.shift.weight)
    pixels = norm(x, torch.zeros(64, dtype=torch.int64)).detach().numpy()
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(pixels.var(axis=(0, 2, 3)), 1, rtol=1e-4)


def test_spectral_norm_divides_by_the_largest_singular_value():
    torch.manual_seed(0)
    layer = conv(6, 10, 3, bias=True, spectral=True).double().train()
    raw = layer.parametrizations.weight.original.detach().numpy().reshape(10, -1)
    for _ in range(200):
        layer(torch.zeros(1, 6, 4, 4, dtype=torch.float64))  # one power iteration each
    largest = np.linalg.svd(raw, compute_uv=False)[0]
    np.testing.assert_allclose(layer.eval().weight.detach().numpy().reshape(10, -1), raw / largest, rtol=1e-9)


def test_spectral_norm_stands_still_in_evaluation_and_uses_the_stored_vectors():
    layer = linear(7, 5, bias=False, spectral=True).double().eval()
    raw = layer.parametrizations.weight.original.detach().numpy()
    u, v = (getattr(layer.parametrizations.weight[0], name).numpy().copy() for name in ("_u", "_v"))
    for _ in range(3):
        layer(torch.zeros(1, 7, dtype=torch.float64))
    np.testing.assert_allclose(layer.weight.detach().numpy(), raw / (u @ raw @ v), rtol=1e-13)
