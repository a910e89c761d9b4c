"""The training step as it is usually written: the peer that the trainer's speed and sums are held against.

Straight from the papers' equations, with functions of its own over plain weights, and nothing of this package's layers
or trainer: NCHW; real and fake images pass the discriminator one after the other; one power iteration of spectral norm
in every forward pass (Miyato et al. 2018, arXiv 1802.05957, algorithm 1); upsampling before and average pooling after
the convolutions; the fakes of the discriminator's step are made with gradient and then detached; the generator's step
computes the discriminator's gradients too; Adam and the average loop over the weights. So do the public code bases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.config import AttentionConfig, DiscriminatorConfig, GeneratorConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.presets import Preset


class _Network:
    """Weights by name, read from the state of one of this package's networks, and the layers' equations."""

    def __init__(self, state: Mapping[str, Tensor], trained: set[str]) -> None:
        self.tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        self.parameters = {name: self.tensors[name].requires_grad_(True) for name in self.tensors if name in trained}

    def weight(self, name: str) -> Tensor:
        """W/σ after one power iteration: u = Wv/‖Wv‖, v = Wᵀu/‖Wᵀu‖, σ = uᵀWv. Without vectors, W itself."""
        stored = f"{name}.parametrizations.weight"
        if f"{stored}.original" not in self.tensors:
            return self.tensors[f"{name}.weight"]
        weight = self.tensors[f"{stored}.original"]
        rows = weight.reshape(len(weight), -1)
        with torch.no_grad():
            u = F.normalize(rows @ self.tensors[f"{stored}.0._v"], dim=0, eps=1e-12)
            v = F.normalize(rows.T @ u, dim=0, eps=1e-12)
            self.tensors[f"{stored}.0._u"], self.tensors[f"{stored}.0._v"] = u, v
        return weight / (u @ rows @ v)

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.weight(name)
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), padding=weight.shape[2] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(name), self.tensors.get(f"{name}.bias"))

    def attention(self, name: str, x: Tensor, config: AttentionConfig) -> Tensor:
        """Zhang et al. 2018, eq. (1) to (3): s = f(x)ᵀg(x), β = softmax(s), y = γ·v(β h(x)) + x."""
        n, _, h, w = x.shape
        query, key, value = (self.conv(f"{name}.{part}", x) for part in ("query", "key", "value"))
        if config.pool:
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        beta = torch.softmax(torch.bmm(query.flatten(2).transpose(1, 2), key.flatten(2)), dim=-1)
        out = torch.bmm(value.flatten(2), beta.transpose(1, 2)).view(n, -1, h, w)
        return self.tensors[f"{name}.gamma"] * self.conv(f"{name}.output", out) + x

    def norm(self, name: str, x: Tensor, labels: Tensor | None) -> Tensor:
        """(x − μ)/√(v + ε) by the batch's statistics, times the class's gain plus its shift, or one for all."""
        if f"{name}.statistics.running_mean" in self.tensors:
            assert labels is not None
            plain = self._normalised(f"{name}.statistics", x)
            gain, shift = (F.embedding(labels, self.tensors[f"{name}.{part}.weight"]) for part in ("gain", "shift"))
            return plain * gain[:, :, None, None] + shift[:, :, None, None]
        gain, shift = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return self._normalised(name, x, gain, shift)

    def _normalised(self, name: str, x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        mean, variance = self.tensors[f"{name}.running_mean"], self.tensors[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, gain, shift, training=True, momentum=0.1, eps=1e-5)


class UsualStep:
    """Copies of a trainer's two networks, trained the usual way.

    Args:
        preset: residual blocks, class tables or plain batch norm, paper's attention; others are refused.
        generator: the weights to begin with.
        discriminator: likewise.

    Raises:
        ConfigError: the preset has a variant that is not written here.
    """

    def __init__(self, preset: Preset, generator: nn.Module, discriminator: nn.Module) -> None:
        _check_written(preset.generator)
        self.preset = preset
        self.generator = _Network(generator.state_dict(), {name for name, _ in generator.named_parameters()})
        self.discriminator = _Network(
            discriminator.state_dict(), {name for name, _ in discriminator.named_parameters()}
        )
        self.average = {name: weight.detach().clone() for name, weight in self.generator.parameters.items()}
        betas: Any = tuple(float(beta) for beta in preset.train.betas)
        self.generator_adam = torch.optim.Adam(
            self.generator.parameters.values(), lr=preset.train.generator_lr, betas=betas
        )
        self.discriminator_adam = torch.optim.Adam(
            self.discriminator.parameters.values(), lr=preset.train.discriminator_lr, betas=betas
        )

    def step(
        self,
        number: int,
        real: tuple[Tensor, Tensor | None],
        for_discriminator: tuple[Tensor, Tensor | None],
        for_generator: tuple[Tensor, Tensor | None],
    ) -> tuple[float, float]:
        """One step of both networks on images in [−1, 1] and labels, and two draws of latents and labels.

        Returns:
            The losses of discriminator and generator: eq. (4) of Zhang et al. 2018.
        """
        fake = self.draw(*for_discriminator).detach()
        real_scores, fake_scores = self.score(*real), self.score(fake, for_discriminator[1])
        d_loss = torch.relu(1.0 - real_scores).mean() + torch.relu(1.0 + fake_scores).mean()
        self.discriminator_adam.zero_grad()
        d_loss.backward()  # type: ignore[no-untyped-call]
        self.discriminator_adam.step()
        g_loss = -self.score(self.draw(*for_generator), for_generator[1]).mean()
        self.generator_adam.zero_grad()
        g_loss.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        decay = min(self.preset.train.ema_decay, (1 + number) / (10 + number))
        for name, weight in self.generator.parameters.items():
            self.average[name].mul_(decay).add_(weight.detach(), alpha=1.0 - decay)
        return d_loss.item(), g_loss.item()

    def draw(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Latents and labels to images: up-sampling residual blocks with self-attention."""
        net, config = self.generator, self.preset.generator
        if config.stem_input == "condition":
            assert labels is not None
            z = torch.cat((F.embedding(labels, net.tensors["embedding.weight"]), z), dim=1)
        x = net.linear("stem.linear", z).view(len(z), config.widths[0], config.bottom_width, config.bottom_width)
        for i in range(config.num_stages):
            name = f"stages.{i}.block"
            out = F.relu(net.norm(f"{name}.norm1", x, labels))
            if config.upsamples[i]:
                out, x = F.interpolate(out, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)
            out = net.conv(f"{name}.conv1", out)
            out = net.conv(f"{name}.conv2", F.relu(net.norm(f"{name}.norm2", out, labels)))
            x = out + net.conv(f"{name}.skip", x)
            if i + 1 in config.attention_after:
                x = net.attention(f"stages.{i}.attention", x, config.attention)
        return torch.tanh(net.conv("tail.conv", F.relu(net.norm("tail.norm", x, None))))

    def score(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Images and labels to scores: down-sampling residual blocks, then Miyato & Koyama's projection."""
        net, config, x = self.discriminator, self.preset.discriminator, images
        for i, down in enumerate(config.downsample):
            name = f"blocks.{i}"
            out = F.relu(net.conv(f"{name}.conv1", x if i == 0 else F.relu(x)))
            out = net.conv(f"{name}.conv2", out)
            if _has_skip(config, i):
                x = net.conv(f"{name}.skip", x)
            if down:
                out, x = F.avg_pool2d(out, 2), F.avg_pool2d(x, 2)
            x = out + x
            if i + 1 in config.attention_after:
                x = net.attention(f"attention.{i + 1}", x, config.attention)
        features = F.relu(x).sum(dim=(2, 3))
        scores = net.linear("linear", features).squeeze(1)
        if labels is None or not config.num_classes:
            return scores
        return scores + (F.embedding(labels, net.weight("embedding")) * features).sum(dim=1)


def _has_skip(config: DiscriminatorConfig, block: int) -> bool:
    before = config.image_channels if block == 0 else config.widths[block - 1]
    return config.downsample[block] or before != config.widths[block]


_WRITTEN = {
    "block": "residual", "tail": "norm_conv", "stem_activation": "none", "upsampling": "nearest", "activation": "relu",
    "final_activation": "relu", "latent_chunks": False, "norm_eps": 1e-5, "final_norm_eps": 1e-5,
}  # fmt: skip


def _check_written(config: GeneratorConfig) -> None:
    attention = (config.attention.output_conv, config.attention.scale, config.attention.attention_map)
    same = all(getattr(config, name) == value for name, value in _WRITTEN.items())
    if not same or config.norm == "vector" or attention != (True, "none", "standard"):
        raise ConfigError("the usual step is written for SAGAN's own blocks; this preset's generator has others")
