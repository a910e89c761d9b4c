"""Batch norm with and without a condition, behind one signature: ``norm(x, condition)``."""

from __future__ import annotations

from torch import Tensor, nn

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.model.layers import linear


class BatchNorm2d(nn.BatchNorm2d):
    """γ·(x − μ)/√(v + ε) + β with one γ and β per channel (Ioffe & Szegedy 2015); the condition is ignored."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(n, c, h, w) → (n, c, h, w)."""
        return super().forward(x)


class ConditionalBatchNorm2d(nn.Module):
    """γ(y)·(x − μ)/√(v + ε) + β(y): gains and shifts depend on the condition (Dumoulin et al., arXiv 1610.07629).

    With class tables the condition is the label (n,) and γ, β are rows of two tables (num_classes, c). With vectors
    it is (n, k) and γ = 1 + W_γ·condition, β = W_β·condition (Brock et al., arXiv 1809.11096, appendix C).
    """

    gain: nn.Embedding | nn.Linear
    shift: nn.Embedding | nn.Linear

    def __init__(self, channels: int, config: GeneratorConfig, condition_size: int) -> None:
        super().__init__()
        self.statistics = nn.BatchNorm2d(channels, eps=config.norm_eps, affine=False)
        self.gain_offset = 0.0
        if config.norm == "class_table":
            self.gain = nn.Embedding(config.num_classes, channels)
            self.shift = nn.Embedding(config.num_classes, channels)
            # Classes that start out different are told apart much sooner in short runs.
            nn.init.normal_(self.gain.weight, 1.0, 0.02)
            nn.init.normal_(self.shift.weight, 0.0, 0.02)
        else:
            self.gain_offset = 1.0
            self.gain = linear(condition_size, channels, bias=False, spectral=config.spectral_norm)
            self.shift = linear(condition_size, channels, bias=False, spectral=config.spectral_norm)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(n, c, h, w) and the condition → (n, c, h, w)."""
        gain = self.gain_offset + self.gain(condition)
        # In place: nothing else reads the product, and its gradient does not need it.
        return (self.statistics(x) * gain[:, :, None, None]).add_(self.shift(condition)[:, :, None, None])


def make_norm(channels: int, config: GeneratorConfig, condition_size: int) -> BatchNorm2d | ConditionalBatchNorm2d:
    """The normalisation that a generator's blocks use; `condition_size` is the length of a condition vector."""
    if config.norm == "batch":
        return BatchNorm2d(channels, eps=config.norm_eps)
    return ConditionalBatchNorm2d(channels, config, condition_size)
