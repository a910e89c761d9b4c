"""voletiv/self-attention-GAN-pytorch: conditional, 128x128, the paper's network with biases in its attention."""

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

_ATTENTION_AFTER = 3  # written into its code: behind block3, at 32x32
_ATTENTION = AttentionNames.of("self_attn.snconv1x1_{}", output="attn", gamma="self_attn.sigma")


def recognises(source: Source) -> bool:
    """The first layer is called ``snlinear0``."""
    return source.any(r"snlinear0\.") and source.any(r"block1\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    old = "snlinear0.weight_orig" in source and "snlinear0.weight_v" not in source
    drawn = Assumption("stored", "a file of torch 0.4.1, which drew with the stored, divided weight")
    return {
        **RELU,
        **RGB,
        "norm_eps": EPS_1E_5,
        "gain_offset": Assumption(0, "its table holds the gain itself"),
        "spectral_norm": drawn if old else EVAL_STORED,
    }


def translate(source: Source, settings: Settings) -> Translation:
    """Stem snlinear0, stages block1 ..., tail bn and snconv2d1."""
    blocks = [_names(f"block{i}") for i in source.consecutive(r"block(\d+)\.", 1, "blocks")]
    widths = widths_of(source, blocks)
    features, z_dim = source.weight_shape("snlinear0", 2)
    mode = settings["spectral_norm"]
    config = GeneratorConfig(
        z_dim=z_dim,
        num_classes=source.shape("block1.cond_bn1.embed.weight", 2)[0],
        bottom_width=bottom_width(source, "snlinear0", features, widths[0]),
        widths=widths,
        norm="class_table",
        attention_after=(_ATTENTION_AFTER,),
        attention=attention_config(source, [_ATTENTION], bias=True),
        **chosen(settings),
    )
    parts: list[Part] = [layer(source, "stem.linear", "snlinear0", mode)]
    norm = one_table_norm(settings["gain_offset"])
    parts += stage_parts(source, blocks, {_ATTENTION_AFTER: _ATTENTION}, mode, norm, attention_bias=True)
    parts += batch_norm("tail.norm", "bn")
    parts.append(layer(source, "tail.conv", "snconv2d1", mode, edit=in_order(settings["channel_order"])))
    return Translation(config, tuple(parts))


def _names(block: str) -> BlockNames:
    return BlockNames(
        convs=(f"{block}.snconv2d1", f"{block}.snconv2d2"),
        norms=(f"{block}.cond_bn1", f"{block}.cond_bn2"),
        skip=f"{block}.snconv2d0",
    )


ORIGIN = Origin("voletiv", "voletiv/self-attention-GAN-pytorch", recognises, assume, translate)
