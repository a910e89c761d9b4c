"""Self-attention against the paper's equations, written position by position in NumPy."""

import numpy as np
import pytest
import torch

from sagan_deploy.config import AttentionConfig
from sagan_deploy.model.attention import SelfAttention


def matrix(layer):
    weight = layer.weight.detach().numpy()[:, :, 0, 0]
    bias = layer.bias.detach().numpy() if layer.bias is not None else np.zeros(len(weight))
    return lambda columns: weight @ columns + bias[:, None]


def pooled(columns, size):
    image = columns.reshape(len(columns), size // 2, 2, size // 2, 2)
    return image.max(axis=(2, 4)).reshape(len(columns), -1)


def paper(block, image):
    """Zhang et al. eq. (1) to (3): keys are f, queries g, values h, and v projects the result."""
    channels, size, _ = image.shape
    x = image.reshape(channels, -1)
    f, g, h = (matrix(layer)(x) for layer in (block.key, block.query, block.value))
    if block.config.pool:
        f, h = pooled(f, size), pooled(h, size)
    if block.config.scale == "rsqrt":
        f = f / np.sqrt(len(f))
    out = np.zeros((len(h), x.shape[1]))
    if block.config.attention_map == "standard":
        for j in range(x.shape[1]):
            s = np.array([f[:, i] @ g[:, j] for i in range(f.shape[1])])
            beta = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
            for i in range(f.shape[1]):
                out[:, j] += beta[i] * h[:, i]
    else:  # row j of the map is normalised, and the sum runs over the rows
        for j in range(x.shape[1]):
            s = np.array([f[:, i] @ g[:, j] for i in range(f.shape[1])])
            beta = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
            out += np.outer(h[:, j], beta)
    if block.output is not None:
        out = matrix(block.output)(out)
    return (block.gamma.item() * out + x).reshape(image.shape)


@pytest.mark.parametrize(
    "config",
    [
        AttentionConfig(),
        AttentionConfig(scale="rsqrt", bias=True),
        AttentionConfig(pool=False, key_ratio=4),
        AttentionConfig(pool=False, output_conv=False, value_ratio=1, bias=True, attention_map="untransposed"),
    ],
    ids=["paper", "scaled", "unpooled", "untransposed"],
)
def test_attention_is_the_papers_equation(config):
    torch.manual_seed(0)
    block = SelfAttention(16, config).double().eval()
    block.gamma.data.fill_(0.7)
    if config.bias:
        for layer in (block.query, block.key, block.value):
            layer.bias.data.normal_()
    x = 2 * torch.randn(2, 16, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        result = block(x).numpy()
    expected = np.stack([paper(block, image.numpy()) for image in x])
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_gamma_starts_at_zero_so_that_training_begins_with_local_convolutions():
    block = SelfAttention(16, AttentionConfig()).eval()
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(block(x), x)
