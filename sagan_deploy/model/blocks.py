"""The generator's four kinds of block. Each maps (n, c_in, h, w) and a condition to (n, c_out, 2h, 2w), or the
same resolution where the stage does not upsample.
"""

from __future__ import annotations

from torch import Tensor, nn

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.model.layers import activation, conv, deconv, upsample
from sagan_deploy.model.norm import make_norm
from sagan_deploy.model.resampling import upsample_then_conv


class _Block(nn.Module):
    # Training switches this on: upsampling merged into the convolution behind it, the same sums sooner. The reference
    # that exported files are held against stays in the plain form.
    folds_resampling = False

    def __init__(self, config: GeneratorConfig, upsamples: bool) -> None:
        super().__init__()
        self.upsamples = upsamples
        self.mode = config.upsampling
        self.activation = activation(config.activation, config.activation_slope)

    def up(self, x: Tensor) -> Tensor:
        return upsample(x, self.mode) if self.upsamples else x

    def up_conv(self, x: Tensor, layer: nn.Conv2d) -> Tensor:
        """`layer` (3x3) after `up`."""
        if self.upsamples and self.folds_resampling and self.mode == "nearest":
            return upsample_then_conv(x, layer)
        return layer(self.up(x))


class ResidualBlock(_Block):
    """norm–act–up–3x3–norm–act–3x3 beside 1x1–up: the block of SAGAN and BigGAN."""

    def __init__(self, config: GeneratorConfig, width_in: int, width_out: int, upsamples: bool, condition: int) -> None:
        super().__init__(config, upsamples)
        spectral = config.spectral_norm
        self.norm1 = make_norm(width_in, config, condition)
        self.conv1 = conv(width_in, width_out, 3, bias=config.conv_bias, spectral=spectral)
        self.norm2 = make_norm(width_out, config, condition)
        self.conv2 = conv(width_out, width_out, 3, bias=config.conv_bias, spectral=spectral)
        self.skip = conv(width_in, width_out, 1, bias=config.skip_bias, spectral=spectral)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        out = self.up_conv(self.activation(self.norm1(x, condition)), self.conv1)
        out = self.conv2(self.activation(self.norm2(out, condition)))
        return out + self.up(self.skip(x))  # a 1x1 convolution and upsampling commute; this order costs a quarter


class BottleneckBlock(_Block):
    """1x1 – 3x3 – 3x3 – 1x1 through a quarter of the channels; the skip keeps the first channels: BigGAN-deep."""

    def __init__(self, config: GeneratorConfig, width_in: int, width_out: int, upsamples: bool, condition: int) -> None:
        super().__init__(config, upsamples)
        hidden = max(1, width_in // 4)
        self.width_out = width_out
        options = {"bias": config.conv_bias, "spectral": config.spectral_norm}
        self.norm1 = make_norm(width_in, config, condition)
        self.conv1 = conv(width_in, hidden, 1, **options)
        self.norm2 = make_norm(hidden, config, condition)
        self.conv2 = conv(hidden, hidden, 3, **options)
        self.norm3 = make_norm(hidden, config, condition)
        self.conv3 = conv(hidden, hidden, 3, **options)
        self.norm4 = make_norm(hidden, config, condition)
        self.conv4 = conv(hidden, width_out, 1, **options)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        out = self.conv1(self.activation(self.norm1(x, condition)))
        out = self.up_conv(self.activation(self.norm2(out, condition)), self.conv2)
        out = self.conv3(self.activation(self.norm3(out, condition)))
        out = self.conv4(self.activation(self.norm4(out, condition)))
        return out + self.up(x[:, : self.width_out])


class PlainBlock(_Block):
    """up–3x3–norm–act, without a skip."""

    def __init__(self, config: GeneratorConfig, width_in: int, width_out: int, upsamples: bool, condition: int) -> None:
        super().__init__(config, upsamples)
        self.conv = conv(width_in, width_out, 3, bias=config.conv_bias, spectral=config.spectral_norm)
        self.norm = make_norm(width_out, config, condition)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return self.activation(self.norm(self.up_conv(x, self.conv), condition))


class DeconvBlock(_Block):
    """4x4 stride-2 transposed convolution–norm–act: DCGAN's block."""

    def __init__(self, config: GeneratorConfig, width_in: int, width_out: int, upsamples: bool, condition: int) -> None:
        super().__init__(config, upsamples)
        self.conv = deconv(width_in, width_out, bias=config.conv_bias, spectral=config.spectral_norm)
        self.norm = make_norm(width_out, config, condition)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return self.activation(self.norm(self.conv(x), condition))


BLOCKS = {"residual": ResidualBlock, "bottleneck": BottleneckBlock, "plain": PlainBlock, "deconv": DeconvBlock}
