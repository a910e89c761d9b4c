"""The generator's four kinds of block in inference form; each is built from its training form.

`final` is the scale and shift of the network's last batch norm, where that can be folded into the last block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sagan_deploy.model import blocks as training
from sagan_deploy.model.inference.affine import to_affine
from sagan_deploy.model.inference.fold import Weights, batch_norm, effective
from sagan_deploy.model.inference.options import InferenceOptions
from sagan_deploy.model.inference.upconv import PlainConv, transposed_conv, up_conv
from sagan_deploy.model.layers import upsample
from sagan_deploy.model.norm import BatchNorm2d, ConditionalBatchNorm2d

Final = tuple[Tensor, Tensor] | None


class NormalisedConv(nn.Module):
    """A convolution and the batch norm after it: one convolution when unconditional, else its bias joins the norm."""

    def __init__(
        self,
        weights: Weights,
        norm: BatchNorm2d | ConditionalBatchNorm2d,
        mode: str | None,
        options: InferenceOptions,
    ) -> None:
        super().__init__()
        if isinstance(norm, BatchNorm2d):
            self.conv = up_conv(weights.then_affine(*batch_norm(norm)), mode, options)
            self.affine = None
        else:
            self.conv = up_conv(weights.without_bias(), mode, options)
            self.affine = to_affine(norm, weights.bias)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.conv(x)
        return self.affine(x, condition) if self.affine is not None else x


class InferenceResidual(nn.Module):
    """affine–act–upconv–affine–act–3x3 beside 1x1–up: the skip's 1x1 commutes with upsampling, at a quarter of
    the cost, and its bias joins the other branch's.
    """

    def __init__(self, block: training.ResidualBlock, options: InferenceOptions, final: Final) -> None:
        super().__init__()
        self.mode = block.mode if block.upsamples else None
        self.activation = block.activation
        self.affine = to_affine(block.norm1)
        self.conv1 = NormalisedConv(effective(block.conv1), block.norm2, self.mode, options)
        main, skip = effective(block.conv2), effective(block.skip)
        main = Weights(main.weight, main.bias + skip.bias)
        skip = skip.without_bias()
        if final is not None:
            scale, shift = final  # s·(main + skip) + t = (s·main + t) + s·skip
            main, skip = main.then_affine(scale, shift), skip.then_affine(scale, torch.zeros_like(shift))
        self.conv2 = up_conv(main, None, options)
        self.skip = PlainConv(skip)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        out = self.conv1(self.activation(self.affine(x, condition)), condition)
        out = self.conv2(self.activation(out))
        skip = self.skip(x)
        return out + (upsample(skip, self.mode) if self.mode is not None else skip)


class InferenceBottleneck(nn.Module):
    """1x1 – 3x3 – 3x3 – 1x1 with every norm folded or affine, beside a skip of the first channels."""

    def __init__(self, block: training.BottleneckBlock, options: InferenceOptions) -> None:
        super().__init__()
        self.mode = block.mode if block.upsamples else None
        self.width_out = block.width_out
        self.activation = block.activation
        self.affine = to_affine(block.norm1)
        self.conv1 = NormalisedConv(effective(block.conv1), block.norm2, None, options)
        self.conv2 = NormalisedConv(effective(block.conv2), block.norm3, self.mode, options)
        self.conv3 = NormalisedConv(effective(block.conv3), block.norm4, None, options)
        self.conv4 = PlainConv(effective(block.conv4))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        out = self.activation(self.affine(x, condition))
        for conv in (self.conv1, self.conv2, self.conv3):
            out = self.activation(conv(out, condition))
        skip = x[:, : self.width_out]
        return self.conv4(out) + (upsample(skip, self.mode) if self.mode is not None else skip)


class InferencePlain(nn.Module):
    """upconv–act with the norm inside the convolution or as an affine map."""

    def __init__(self, block: training.PlainBlock, options: InferenceOptions) -> None:
        super().__init__()
        self.activation = block.activation
        self.conv = NormalisedConv(effective(block.conv), block.norm, block.mode if block.upsamples else None, options)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return self.activation(self.conv(x, condition))


class InferenceDeconv(nn.Module):
    """4x4 transposed convolution–act with the norm inside the convolution or as an affine map."""

    def __init__(self, block: training.DeconvBlock, form: str) -> None:
        super().__init__()
        self.activation = block.activation
        weights = effective(block.conv)
        conditional = isinstance(block.norm, ConditionalBatchNorm2d)
        self.affine = to_affine(block.norm, weights.bias) if conditional else None
        if isinstance(block.norm, BatchNorm2d):
            weights = weights.then_affine(*batch_norm(block.norm))
        else:
            weights = weights.without_bias()
        self.conv = transposed_conv(weights, form)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.conv(x)
        return self.activation(self.affine(x, condition) if self.affine is not None else x)


def to_inference_block(block: nn.Module, options: InferenceOptions, final: Final) -> nn.Module:
    """The inference form of a training-form block. `final` must be None for all but residual blocks."""
    if isinstance(block, training.ResidualBlock):
        return InferenceResidual(block, options, final)
    assert final is None
    if isinstance(block, training.BottleneckBlock):
        return InferenceBottleneck(block, options)
    if isinstance(block, training.PlainBlock):
        return InferencePlain(block, options)
    assert isinstance(block, training.DeconvBlock)
    return InferenceDeconv(block, options.deconv)
