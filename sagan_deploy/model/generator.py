"""The generator in training form: it reads from top to bottom like the figure in the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError
from sagan_deploy.model.attention import SelfAttention
from sagan_deploy.model.blocks import BLOCKS
from sagan_deploy.model.layers import activation, conv, deconv, linear
from sagan_deploy.model.norm import BatchNorm2d, make_norm


class GeneratorForm(nn.Module):
    """How latents, labels and feature maps flow: the same in training form and in inference form."""

    config: GeneratorConfig
    embedding: nn.Embedding | None
    stem: nn.Module
    stages: nn.ModuleList
    tail: nn.Module

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (n, z_dim) and labels (n,), int64, to images (n, image_channels, h, w)."""
        if (labels is None) == self.config.conditional:
            state = "needs" if self.config.conditional else "takes no"
            raise InputError(f"this generator {state} labels (num_classes={self.config.num_classes})")
        embedding = self.embedding(labels) if self.embedding is not None else None
        latents = self._split(z)
        x = self.stem(self._stem_input(latents[0], embedding), self._condition(latents[0], labels, embedding))
        for stage, latent in zip(self.stages, latents[1:], strict=True):
            x = stage(x, self._condition(latent, labels, embedding))
        return self.tail(x)

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        parts = self.config.num_stages + 1
        return z.chunk(parts, dim=1) if self.config.latent_chunks else (z,) * parts

    def _stem_input(self, latent: Tensor, embedding: Tensor | None) -> Tensor:
        return self._join(embedding, latent) if self.config.stem_input == "condition" else latent

    def _condition(self, latent: Tensor, labels: Tensor | None, embedding: Tensor | None) -> Tensor | None:
        if self.config.norm != "vector":
            return labels
        return self._join(embedding, latent) if self.config.stage_condition == "embedding_and_latent" else embedding

    def _join(self, embedding: Tensor | None, latent: Tensor) -> Tensor:
        assert embedding is not None  # the config demands an embedding_dim here
        first = self.config.condition_order == "embedding_first"
        return torch.cat((embedding, latent) if first else (latent, embedding), dim=1)


class Generator(GeneratorForm):
    """Latents (and labels) to images in [−1, 1]: stem → stages with attention → tail.

    Zhang et al. 2018, arXiv 1805.08318; with other configs, the generators of its public relatives.
    """

    stem: Stem
    tail: Tail

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        # Indexing is enough to condition stem and stages; class tables are indexed inside each norm instead.
        self.embedding = nn.Embedding(config.num_classes, config.embedding_dim) if config.embedding_dim else None
        self.stem = Stem(config)
        self.stages = nn.ModuleList(Stage(config, index) for index in range(config.num_stages))
        self.tail = Tail(config)


class Stem(nn.Module):
    """Latent to the first feature map: a linear layer seen as (n, c, bottom_width, bottom_width)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.shape = (config.widths[0], config.bottom_width, config.bottom_width)
        size = latent_size(config) + (config.embedding_dim if config.stem_input == "condition" else 0)
        features = self.shape[0] * self.shape[1] * self.shape[2]
        self.linear = linear(size, features, bias=True, spectral=config.spectral_norm)
        wants_norm, wants_activation = config.stem_activation == "norm_activation", config.stem_activation != "none"
        self.norm = make_norm(config.widths[0], config, condition_size(config)) if wants_norm else None
        self.activation = activation(config.activation, config.activation_slope) if wants_activation else None

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.linear(x).view(-1, *self.shape)
        if self.norm is not None:
            x = self.norm(x, condition)
        return self.activation(x) if self.activation is not None else x


class Stage(nn.Module):
    """One block, followed by self-attention where the config asks for it."""

    def __init__(self, config: GeneratorConfig, index: int) -> None:
        super().__init__()
        width_in, width_out = config.widths[index], config.widths[index + 1]
        self.block = BLOCKS[config.block](config, width_in, width_out, config.upsamples[index], condition_size(config))
        attends = index + 1 in config.attention_after
        self.attention = SelfAttention(width_out, config.attention) if attends else None

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.block(x, condition)
        return self.attention(x) if self.attention is not None else x


class Tail(nn.Module):
    """The last feature map to an image: (norm–act–)3x3–tanh, or DCGAN's transposed convolution–tanh."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width, spectral = config.widths[-1], config.spectral_norm
        with_norm = config.tail == "norm_conv"
        self.norm = BatchNorm2d(width, eps=config.final_norm_eps) if with_norm else None
        self.activation = activation(config.final_activation, config.activation_slope) if with_norm else None
        self.conv: nn.Module
        if config.tail == "deconv":
            self.conv = deconv(width, config.image_channels, bias=True, spectral=spectral)
        else:
            self.conv = conv(width, config.image_channels, 3, bias=True, spectral=spectral)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None and self.activation is not None:
            x = self.activation(self.norm(x))
        return torch.tanh(self.conv(x))


def latent_size(config: GeneratorConfig) -> int:
    """How many latent entries stem and stages see: all of z, or one chunk of it."""
    return config.z_dim // (config.num_stages + 1) if config.latent_chunks else config.z_dim


def condition_size(config: GeneratorConfig) -> int:
    """Length of the condition vector that a stage's norms take; 0 when they take labels or nothing."""
    if config.norm != "vector":
        return 0
    return config.embedding_dim + (latent_size(config) if config.stage_condition == "embedding_and_latent" else 0)
