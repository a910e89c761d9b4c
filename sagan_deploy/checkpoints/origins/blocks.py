"""What one block of an origin consists of, under its own names: convolutions and norms, or attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagan_deploy.checkpoints.parts import Edit, Part, layer, same, scalar, split_table, statistics
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.checkpoints.spectral import SpectralNorm
from sagan_deploy.config import AttentionConfig
from sagan_deploy.errors import InputError


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


def stage_parts(
    source: Source,
    blocks: Sequence[BlockNames],
    attentions: Mapping[int, AttentionNames],
    mode: SpectralNorm,
    norm: Callable[[str, str], list[Part]],
    *,
    attention_bias: bool = False,
) -> list[Part]:
    """All blocks in their order, and the attention behind each stage (counted from 1) that has one."""
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        parts += block_parts(source, index, block, mode, norm)
    for stage, names in attentions.items():
        parts += attention_parts(source, stage, names, mode, bias=attention_bias)
    return parts


def one_table_norm(gain_offset: int) -> Callable[[str, str], list[Part]]:
    """Conditional batch norm as `bn` and one embedding `embed`, (classes, 2C)."""
    return lambda ours, theirs: [
        statistics(f"{ours}.statistics", f"{theirs}.bn"),
        split_table(ours, f"{theirs}.embed", gain_offset),
    ]
