"""`to_inference`: the whole generator in inference form."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.errors import ConfigError
from sagan_deploy.model import generator as training
from sagan_deploy.model.blocks import ResidualBlock
from sagan_deploy.model.inference.affine import ConditionalAffine, ConstantAffine, to_affine
from sagan_deploy.model.inference.attention import InferenceAttention, at_least_float32
from sagan_deploy.model.inference.blocks import Final, to_inference_block
from sagan_deploy.model.inference.fold import batch_norm, copied, effective
from sagan_deploy.model.inference.options import InferenceOptions
from sagan_deploy.model.inference.upconv import transposed_conv, up_conv
from sagan_deploy.model.norm import BatchNorm2d

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "mixed": torch.float16}


def to_inference(generator: training.Generator, options: InferenceOptions | None = None) -> InferenceGenerator:
    """The same function with spectral norm, batch norm, upsampling and attention in their cheaper forms.

    Args:
        generator: the training form in evaluation mode; it is not changed.
        options: the form to write; its `precision` is *not* applied here. The result is float64, so that it can be
            held against the training form to the last bits; `InferenceGenerator.rounded` makes the exported one.

    Raises:
        ConfigError: the generator is in training mode, where batch norm depends on the batch.
    """
    if generator.training:
        raise ConfigError("the generator is in training mode; call .eval() first: batch statistics cannot be exported")
    options = options or InferenceOptions()
    return InferenceGenerator(copied(generator, torch.float64), options).eval().requires_grad_(False)


class InferenceGenerator(training.GeneratorForm):
    """Latents and labels to images, exactly as the training form, with the same names for stem, stages and tail."""

    stem: InferenceStem
    tail: InferenceTail

    def __init__(self, generator: training.Generator, options: InferenceOptions) -> None:
        super().__init__()
        self.config = generator.config
        self.options = options
        self.embedding = generator.embedding
        self.final_norm_folded = _last_norm_folds(generator)
        final = batch_norm(generator.tail.norm) if self.final_norm_folded and generator.tail.norm is not None else None
        self.stem = InferenceStem(generator.stem)
        last = len(generator.stages) - 1
        stages = cast("list[training.Stage]", list(generator.stages))
        self.stages = nn.ModuleList(
            InferenceStage(stage, options, final if index == last else None) for index, stage in enumerate(stages)
        )
        self.tail = InferenceTail(generator.tail, options, norm_folded=self.final_norm_folded)

    def rounded(self) -> InferenceGenerator:
        """A copy with weights rounded once, from float64 to the precision of the options.

        Raises:
            ConfigError: a float32 part that this generator has not, or nothing left for float16.
        """
        rounded = copied(self, DTYPES[self.options.precision])
        for part in self.options.float32:
            try:
                island = copied(self.get_submodule(part), torch.float32)
            except AttributeError:
                island = None
            if island is None:
                raise ConfigError(
                    f"this generator has no part {part!r}; it has stem, tail and {len(self.stages)} stages"
                )
            path, _, leaf = part.rpartition(".")
            setattr(rounded.get_submodule(path), leaf, island)
        if self.options.float32 and all(parameter.dtype == torch.float32 for parameter in rounded.parameters()):
            raise ConfigError("these float32 parts leave nothing of the generator in float16: export it with fp32")
        return rounded

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (n, z_dim) and labels (n,), int64, to images as `InferenceOptions.output` says."""
        # A float32 stem reads the latents as they come: of a product between a cast from half and one to half TensorRT
        # makes a product in half.
        return super().forward(z.to(self.stem.weight.dtype), labels)

    @property
    def attention_layouts(self) -> tuple[str, ...]:
        """The layout of every attention block, in order."""
        stages = cast("list[InferenceStage]", list(self.stages))
        return tuple(stage.attention.layout for stage in stages if stage.attention is not None)


class InferenceStem(nn.Module):
    """The linear layer, with an unconditional norm folded into it."""

    def __init__(self, stem: training.Stem) -> None:
        super().__init__()
        self.shape = stem.shape
        self.activation = stem.activation
        weights, positions = effective(stem.linear), stem.shape[1] * stem.shape[2]
        self.affine: ConditionalAffine | ConstantAffine | None = None
        if isinstance(stem.norm, BatchNorm2d):
            scale, shift = batch_norm(stem.norm)  # one per channel; the linear layer has one output per position
            weights = weights.then_affine(scale.repeat_interleave(positions), shift.repeat_interleave(positions))
        elif stem.norm is not None:
            self.affine = to_affine(stem.norm)
        self.weight, self.bias = nn.Parameter(weights.weight), nn.Parameter(weights.bias)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = F.linear(x.to(self.weight.dtype), self.weight, self.bias).view(-1, *self.shape)
        if self.affine is not None:
            x = self.affine(x, _like(condition, x))
        return self.activation(x) if self.activation is not None else x


class InferenceStage(nn.Module):
    """A block and its attention."""

    def __init__(self, stage: training.Stage, options: InferenceOptions, final: Final) -> None:
        super().__init__()
        self.block = to_inference_block(stage.block, options, final)
        attention = stage.attention
        self.attention = InferenceAttention(attention, options.attention_layout) if attention is not None else None

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = x.to(_dtype(self.block))
        x = self.block(x, _like(condition, x))
        return self.attention(x.to(_dtype(self.attention))) if self.attention is not None else x


class InferenceTail(nn.Module):
    """act–conv–tanh and the image head, whose arithmetic is float32 whatever the weights are."""

    def __init__(self, tail: training.Tail, options: InferenceOptions, *, norm_folded: bool) -> None:
        super().__init__()
        unfolded = tail.norm is not None and not norm_folded
        self.affine = ConstantAffine(*batch_norm(tail.norm)) if unfolded and tail.norm is not None else None
        self.activation = tail.activation
        weights = effective(tail.conv)
        deconv = isinstance(tail.conv, nn.ConvTranspose2d)
        self.conv = transposed_conv(weights, options.deconv) if deconv else up_conv(weights, None, options)
        self.output = options.output

    @property
    def dtype(self) -> torch.dtype:
        """The type that the network computes in."""
        return next(self.conv.parameters()).dtype

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.affine is not None:
            x = self.affine(x)
        if self.activation is not None:
            x = self.activation(x)
        images = at_least_float32(torch.tanh(self.conv(x)))
        return images if self.output == "float" else to_codes(images)


def to_codes(images: Tensor) -> Tensor:
    """Images (n, c, h, w) in [−1, 1] to 8-bit codes (n, h, w, c): round(127.5·x + 127.5), halves to even."""
    codes = (images * 127.5 + 127.5).round().clamp(0.0, 255.0)
    # TensorRT takes uint8 for outputs only, so the cast comes last.
    return codes.permute(0, 2, 3, 1).to(torch.uint8)


def _dtype(part: nn.Module) -> torch.dtype:
    return next(part.parameters()).dtype


def _like(condition: Tensor | None, x: Tensor) -> Tensor | None:
    """A condition vector in the type of the features; labels are indices and stay."""
    return condition.to(x.dtype) if condition is not None and condition.is_floating_point() else condition


def _last_norm_folds(generator: training.Generator) -> bool:
    """Whether the tail's norm can disappear into the last block: a residual one with no attention behind it."""
    last = cast("training.Stage", generator.stages[-1])
    residual = isinstance(last.block, ResidualBlock)
    return generator.tail.norm is not None and residual and last.attention is None


__all__ = ["DTYPES", "InferenceGenerator", "to_codes", "to_inference"]
