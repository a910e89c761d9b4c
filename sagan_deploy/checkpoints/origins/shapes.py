"""What can be read from the shapes of many layers together: widths, sizes, where attention is, what upsamples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sagan_deploy.checkpoints.origins.blocks import BlockNames
from sagan_deploy.checkpoints.settings import Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.errors import ConfigError, InputError


def widths_of(source: Source, blocks: Sequence[BlockNames]) -> tuple[int, ...]:
    """The channels that enter the first block, and those that leave each block."""
    first = source.weight_shape(blocks[0].convs[0], 4)[1]
    return (first, *(source.weight_shape(block.convs[-1], 4)[0] for block in blocks))


def bottom_width(source: Source, stem: str, features: int, channels: int) -> int:
    """Height and width of the first feature map, from the length of the first layer's output."""
    width = math.isqrt(features // channels)
    if width < 1 or width * width * channels != features:
        raise InputError(
            f"{source.name}: {stem} has {features} outputs, which is no square of {channels} channels; "
            "its shapes contradict the first block's."
        )
    return width


def upsample_flags(
    source: Source, widths: Sequence[int], settings: Settings, bottom: int, *, usual: int | None = None
) -> tuple[bool, ...]:
    """For networks with several blocks per resolution, of which the last one upsamples: which ones do.

    The last block of a resolution is also where the width changes, if it changes. Where no width ever does, the depth
    is the origin's `usual` one, or must be given.
    """
    count = len(widths) - 1
    changes = [i for i in range(count) if widths[i] != widths[i + 1]]
    gaps = [after - before for before, after in zip([-1, *changes], changes, strict=False)]
    depth = settings.told("depth")
    resolution = settings.told("resolution")
    if depth is None and resolution is not None:
        resolutions = round(math.log2(resolution / bottom))
        depth = count // resolutions if resolutions > 0 else 0
    if depth is None and gaps:
        depth = math.gcd(*gaps, count)
    if depth is None:
        depth = usual
    if depth is None:
        raise ConfigError(
            f"{source.name} has {count} blocks of one width, so the number of blocks per resolution cannot be seen. "
            "Give it: --set depth=N (G_depth of the training), or --set resolution=PIXELS."
        )
    if depth < 1 or count % depth or any((i + 1) % depth for i in changes):
        raise ConfigError(
            f"depth={depth} does not fit {source.name}: it has {count} blocks, whose width changes after "
            f"block {', '.join(str(i + 1) for i in changes) or 'none'}."
        )
    return tuple((i + 1) % depth == 0 for i in range(count))


def split_entries(source: Source, entries: Iterable[str], mark: str) -> tuple[list[str], dict[int, str]]:
    """A list in which attention blocks are entries of their own, told by a tensor called `mark`.

    Returns:
        The names of the other blocks, and each attention's name by the number of blocks before it.
    """
    blocks: list[str] = []
    attentions: dict[int, str] = {}
    for entry in entries:
        if f"{entry}.{mark}" in source:
            attentions[len(blocks)] = entry
        else:
            blocks.append(entry)
    return blocks, attentions
