"""Differentiable augmentation: Zhao et al. 2020, arXiv 2006.10738. Real and drawn images change alike before they are
judged, so the discriminator cannot learn few images by heart, and the generator does not learn the changes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DRAWS = 7  # uniform numbers per image: brightness, saturation, contrast, two shifts, two corners of the cut


def augment(images: Tensor, kinds: tuple[str, ...], draws: Tensor) -> Tensor:
    """Images [n, 3, h, w] changed by ``color``, ``translation`` and ``cutout``, in this order, where `kinds` has them.

    Args:
        images: in [−1, 1]; gradients flow through.
        kinds: which changes.
        draws: uniform in [0, 1), [n, `DRAWS`].
    """
    if "color" in kinds:
        images = _colour(images, draws[:, :3])
    if "translation" in kinds:
        images = _translate(images, draws[:, 3:5])
    if "cutout" in kinds:
        images = _cut(images, draws[:, 5:7])
    return images


def _colour(images: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = (draws[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2.0 * saturation) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _translate(images: Tensor, draws: Tensor, ratio: float = 0.125) -> Tensor:
    """Whole pixels, up to an eighth of the side each way; what comes in is zero (grey)."""
    n, _, height, width = images.shape
    down, right = (_whole(draws[:, i], size, ratio) for i, size in enumerate((height, width)))
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    # One pixel of zeros all around, and everything outside is taken from it.
    rows, columns = (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cut(images: Tensor, draws: Tensor, ratio: float = 0.5) -> Tensor:
    """A square of half the side becomes zero; its centre may lie anywhere."""
    _, _, height, width = images.shape
    inside = []
    for i, size in enumerate((height, width)):
        side = int(size * ratio + 0.5)
        centre = (draws[:, i] * (size + 1 - side % 2)).floor()
        first = centre - side // 2
        place = torch.arange(size, device=images.device)
        inside.append((place >= first[:, None]) & (place < first[:, None] + side))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return images * (~hole)[:, None].to(images.dtype)


def _whole(draws: Tensor, size: int, ratio: float) -> Tensor:
    most = int(size * ratio + 0.5)
    return (draws * (2 * most + 1)).floor().long() - most
