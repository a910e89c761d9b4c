"""The projection discriminator with self-attention: Miyato & Koyama 2018, arXiv 1802.05637; SAGAN's layout."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.config import DiscriminatorConfig
from sagan_deploy.errors import InputError
from sagan_deploy.model.attention import SelfAttention
from sagan_deploy.model.layers import conv, linear, normalised
from sagan_deploy.model.resampling import conv_then_pool


class Discriminator(nn.Module):
    """Images (and labels) to scores: residual blocks → sum over space h → ψ(h) + ⟨embedding(y), h⟩."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.image_channels, *config.widths)
        self.blocks = nn.ModuleList(
            DownBlock(widths[i], widths[i + 1], config.downsample[i], first=i == 0, spectral=config.spectral_norm)
            for i in range(len(config.widths))
        )
        self.attention = nn.ModuleDict(
            {str(i): SelfAttention(config.widths[i - 1], config.attention) for i in config.attention_after}
        )
        self.linear = linear(config.widths[-1], 1, bias=True, spectral=config.spectral_norm)
        self.embedding = (
            normalised(nn.Embedding(config.num_classes, config.widths[-1]), spectral=config.spectral_norm)
            if config.num_classes
            else None
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (n, c, h, w) in [−1, 1] and labels (n,), int64, to scores (n,)."""
        if (labels is None) == (self.config.num_classes > 0):
            raise InputError(f"labels must be given exactly when num_classes (={self.config.num_classes}) is positive")
        x = images
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if str(number) in self.attention:
                x = self.attention[str(number)](x)
        features = F.relu(x).sum(dim=(2, 3))
        scores = self.linear(features).squeeze(1)
        if self.embedding is not None:
            scores = scores + (self.embedding(labels) * features).sum(dim=1)
        return scores


class DownBlock(nn.Module):
    """act–3x3–act–3x3–pool beside 1x1–pool. The first block sees pixels, so it has no leading activation."""

    folds_resampling = True  # off: pool the result, as the figure reads

    def __init__(self, width_in: int, width_out: int, downsamples: bool, *, first: bool, spectral: bool) -> None:
        super().__init__()
        self.first = first
        self.downsamples = downsamples
        self.conv1 = conv(width_in, width_out, 3, bias=True, spectral=spectral)
        self.conv2 = conv(width_out, width_out, 3, bias=True, spectral=spectral)
        needs_skip = downsamples or width_in != width_out
        self.skip = conv(width_in, width_out, 1, bias=True, spectral=spectral) if needs_skip else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x if self.first else F.relu(x)).relu_()  # in place: nothing else reads a convolution's result
        if self.downsamples and self.folds_resampling:
            out = conv_then_pool(out, self.conv2)
        else:
            out = self.pool(self.conv2(out))
        # Average pooling and a 1x1 convolution commute; pooling first costs a quarter.
        short = self.pool(x)
        return out + (self.skip(short) if self.skip is not None else short)

    def pool(self, x: Tensor) -> Tensor:
        """Halve the resolution by 2x2 averages, where this block downsamples."""
        return F.avg_pool2d(x, 2) if self.downsamples else x
