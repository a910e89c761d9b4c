"""What several origins share: attention, bottom width, blocks per resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sagan_deploy.checkpoints.parts import Edit, Part, layer, same, scalar, split_table, statistics
from sagan_deploy.checkpoints.settings import Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.checkpoints.spectral import SpectralNorm
from sagan_deploy.config import AttentionConfig
from sagan_deploy.errors import ConfigError, InputError


@dataclass(frozen=True)
class AttentionNames:
    """One attention block under its origin's names; `output` is None where there is no output projection."""

    query: str
    key: str
    value: str
    output: str | None
    gamma: str

    @classmethod
    def of(cls, pattern: str, output: str, gamma: str) -> AttentionNames:
        """The official code's names theta, phi and g, in `pattern`; `output` and `gamma` differ most."""
        query, key, value, last = (pattern.format(role) for role in ("theta", "phi", "g", output))
        return cls(query, key, value, last, gamma)


def attention_parts(
    source: Source, stage: int, names: AttentionNames, mode: SpectralNorm, *, bias: bool, edit: Edit = same
) -> list[Part]:
    """The block behind our stage `stage`, counted from 1."""
    ours = f"stages.{stage - 1}.attention"
    roles = {"query": names.query, "key": names.key, "value": names.value, "output": names.output}
    layers = [layer(source, f"{ours}.{r}", t, mode, bias=bias, edit=edit) for r, t in roles.items() if t is not None]
    return [*layers, scalar(f"{ours}.gamma", names.gamma)]


def attention_config(
    source: Source, blocks: Sequence[AttentionNames], *, dimensions: int = 4, **fields: Any
) -> AttentionConfig:
    """How the blocks project: the ratios of channels are read from the weights, the rest is the origin's."""
    shapes = [(source.weight_shape(b.query, dimensions), source.weight_shape(b.value, dimensions)) for b in blocks]
    return AttentionConfig(
        key_ratio=_ratio(source, [(query[1], query[0]) for query, _ in shapes], usual=8),
        value_ratio=_ratio(
            source, [(value[1], value[0]) for _, value in shapes], usual=2 if blocks_pool(fields) else 1
        ),
        spectral_norm=False,
        **fields,
    )


def blocks_pool(fields: dict[str, Any]) -> bool:
    """Whether these are the blocks of the official code, with pooled keys and halved values."""
    return bool(fields.get("pool", True))


def _ratio(source: Source, pairs: list[tuple[int, int]], usual: int) -> int:
    """The r with projected = ⌊channels / r⌋ in every block."""
    candidates: tuple[int, ...] = (usual, *range(1, max((channels for channels, _ in pairs), default=1) + 1))
    for ratio in candidates:
        if all(channels // ratio == projected for channels, projected in pairs):
            return ratio
    raise InputError(
        f"{source.name}: the attention projects (channels, to) {pairs}, which no common ratio explains: "
        "its shapes contradict each other."
    )


@dataclass(frozen=True)
class BlockNames:
    """One block under its origin's names: convolutions and norms in the order of computation."""

    convs: tuple[str, ...]
    norms: tuple[str, ...]
    skip: str | None = None


def block_parts(
    source: Source,
    index: int,
    names: BlockNames,
    mode: SpectralNorm,
    norm: Callable[[str, str], list[Part]],
    *,
    conv_bias: bool = True,
) -> list[Part]:
    """The block of our stage `index`, counted from 0; `norm` makes the parts of one norm from our name and theirs."""
    ours = f"stages.{index}.block"
    parts: list[Part] = []
    for number, (conv, its_norm) in enumerate(zip(names.convs, names.norms, strict=True), 1):
        parts.append(layer(source, f"{ours}.conv{number}", conv, mode, bias=conv_bias))
        parts += norm(f"{ours}.norm{number}", its_norm)
    if names.skip is not None:
        parts.append(layer(source, f"{ours}.skip", names.skip, mode))
    return parts


def one_table_norm(gain_offset: int) -> Callable[[str, str], list[Part]]:
    """Conditional batch norm as `bn` and one embedding `embed`, (classes, 2C)."""
    return lambda ours, theirs: [
        statistics(f"{ours}.statistics", f"{theirs}.bn"),
        split_table(ours, f"{theirs}.embed", gain_offset),
    ]


def widths_of(source: Source, blocks: Sequence[BlockNames]) -> tuple[int, ...]:
    """The channels that enter the first block, and those that leave each block."""
    first = source.weight_shape(blocks[0].convs[0], 4)[1]
    return (first, *(source.weight_shape(block.convs[-1], 4)[0] for block in blocks))


def chosen(settings: Settings) -> dict[str, Any]:
    """The fields of a config that come from settings alone."""
    return {
        "activation": settings["activation"],
        "final_activation": settings["activation"],
        "activation_slope": settings["activation_slope"] if settings["activation"] == "leaky_relu" else 0.2,
        "norm_eps": settings["norm_eps"],
        "final_norm_eps": settings["final_norm_eps"] if "final_norm_eps" in settings else settings["norm_eps"],
        "spectral_norm": False,  # it is folded into the weights
    }


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


def after_blocks(entries: Iterable[bool]) -> list[int]:
    """Entries of one list, True for attention: behind how many blocks each attention comes."""
    places, blocks = [], 0
    for is_attention in entries:
        if is_attention:
            places.append(blocks)
        else:
            blocks += 1
    return places
