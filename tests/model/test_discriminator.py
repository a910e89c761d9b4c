from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sagan_deploy.model.discriminator import DownBlock, conv_then_pool
from sagan_deploy.model.layers import conv


@pytest.mark.parametrize("size", [2, 6, 8])
def test_convolution_and_average_pooling_are_one_strided_convolution(size):
    torch.manual_seed(size)
    layer = conv(3, 5, 3, bias=True, spectral=True).double().eval()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(conv_then_pool(x, layer), F.avg_pool2d(layer(x), 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("downsamples", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_block_is_its_description_step_by_step(downsamples, first):
    torch.manual_seed(1)
    block = DownBlock(4, 6, downsamples, first=first, spectral=False).double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    out = block.conv2(block.conv1(x if first else x.clamp(min=0)).clamp(min=0))
    short = block.skip(x)
    expected = F.avg_pool2d(out, 2) + F.avg_pool2d(short, 2) if downsamples else out + short
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
