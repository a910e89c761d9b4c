"""kwotsin/mimicry (torch-mimicry): conditional, 32x32 and 128x128, with bilinear upsampling."""

from __future__ import annotations

from collections.abc import Mapping

from sagan_deploy.checkpoints.origins.blocks import (
    AttentionNames,
    BlockNames,
    attention_config,
    one_table_norm,
    stage_parts,
)
from sagan_deploy.checkpoints.origins.origin import EPS_1E_5, EVAL_STORED, RELU, RGB, Origin, Translation, chosen
from sagan_deploy.checkpoints.origins.shapes import bottom_width, widths_of
from sagan_deploy.checkpoints.parts import Part, batch_norm, in_order, layer
from sagan_deploy.checkpoints.settings import Assumption, Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError

_ATTENTION = AttentionNames.of("attn_block.{}", output="o", gamma="attn_block.gamma")
_ATTENTION_AFTER = {3: 2, 5: 3}  # by number of blocks: its two networks, of 32 and of 128 pixels


def recognises(source: Source) -> bool:
    """Residual blocks from ``block2`` on, with a skip called ``c_sc``; the discriminator begins with ``block1``."""
    return source.any(r"l1\.(weight|bias)") and source.any(r"block2\.c_sc\.") and not source.any(r"block1\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    return {
        **RELU,
        **RGB,
        "norm_eps": EPS_1E_5,
        "gain_offset": Assumption(0, "its table holds the gain itself"),
        "spectral_norm": EVAL_STORED,
    }


def translate(source: Source, settings: Settings) -> Translation:
    """Stem l1, stages block2 ..., tail b5 and c5 (or b7 and c7)."""
    numbers = source.consecutive(r"block(\d+)\.", 2, "blocks")
    if len(numbers) not in _ATTENTION_AFTER:
        raise InputError(f"{source.name} has {len(numbers)} blocks; mimicry's SAGAN has 3 (32x32) or 5 (128x128).")
    place, last = _ATTENTION_AFTER[len(numbers)], numbers[-1] + 1
    blocks = [_names(f"block{i}") for i in numbers]
    widths = widths_of(source, blocks)
    features, z_dim = source.weight_shape("l1", 2)
    mode = settings["spectral_norm"]
    config = GeneratorConfig(
        z_dim=z_dim,
        num_classes=source.shape("block2.b1.embed.weight", 2)[0],
        bottom_width=bottom_width(source, "l1", features, widths[0]),
        widths=widths,
        norm="class_table",
        upsampling="bilinear",
        attention_after=(place,),
        attention=attention_config(source, [_ATTENTION]),
        **chosen(settings),
    )
    parts: list[Part] = [layer(source, "stem.linear", "l1", mode)]
    norm = one_table_norm(settings["gain_offset"])
    parts += stage_parts(source, blocks, {place: _ATTENTION}, mode, norm)
    parts += batch_norm("tail.norm", f"b{last}")
    parts.append(layer(source, "tail.conv", f"c{last}", mode, edit=in_order(settings["channel_order"])))
    return Translation(config, tuple(parts))


def _names(block: str) -> BlockNames:
    return BlockNames(convs=(f"{block}.c1", f"{block}.c2"), norms=(f"{block}.b1", f"{block}.b2"), skip=f"{block}.c_sc")


ORIGIN = Origin("mimicry", "kwotsin/mimicry", recognises, assume, translate)
