"""rosinality/sagan-pytorch: conditional, 128x128, as residual network and as DCGAN with upsampling.

Its attention normalises over queries, which is the usual attention with queries and keys exchanged. Its files hold
each weight twice: `weight_orig` is the trained one, `weight` a stale quotient that its classes restore on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sagan_deploy.checkpoints.origins.blocks import (
    AttentionNames,
    BlockNames,
    attention_config,
    attention_parts,
    block_parts,
    one_table_norm,
)
from sagan_deploy.checkpoints.origins.origin import EPS_1E_5, RELU, RGB, Origin, Translation, chosen
from sagan_deploy.checkpoints.origins.shapes import bottom_width, split_entries
from sagan_deploy.checkpoints.parts import Part, batch_norm, in_order, layer
from sagan_deploy.checkpoints.settings import Assumption, Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.config import GeneratorConfig


def recognises(source: Source) -> bool:
    """The first layer is called ``lin_code``, the last one ``colorize``."""
    return source.any(r"lin_code\.") and source.any(r"colorize\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    return {
        **RELU,
        **RGB,
        "norm_eps": EPS_1E_5,
        "gain_offset": Assumption(0, "its table holds the gain itself"),
        "spectral_norm": Assumption(
            "iterate", "the trained weights, as its classes draw on a GPU; on a CPU they restore the stale ones: stored"
        ),
    }


def translate(source: Source, settings: Settings) -> Translation:
    """Stem lin_code, stages conv.N, tail bn and colorize (residual) or colorize alone (DCGAN)."""
    entries = source.consecutive(r"conv\.(\d+)\.", 0, "entries conv.")
    residual = source.any(r"conv\.0\.conv1\.")
    blocks, attended = split_entries(source, [f"conv.{i}" for i in entries], "gamma")
    inside = {i: f"{block}.attention" for i, block in enumerate(blocks, 1) if f"{block}.attention.gamma" in source}
    attentions = {stage: _exchanged(name) for stage, name in (attended | inside).items()}
    convs = ("conv1", "conv2") if residual else ("conv",)
    shapes = [[source.weight_shape(f"{block}.{conv}", 4) for conv in convs] for block in blocks]
    widths = (shapes[0][0][1], *(shape[-1][0] for shape in shapes))
    features, z_dim = source.weight_shape("lin_code", 2)
    mode = settings["spectral_norm"]
    config = GeneratorConfig(
        z_dim=z_dim,
        num_classes=source.shape(f"{blocks[0]}.norm{'1' if residual else ''}.embed.weight", 2)[0],
        bottom_width=bottom_width(source, "lin_code", features, widths[0]),
        widths=widths,
        norm="class_table",
        block="residual" if residual else "plain",
        tail="norm_conv" if residual else "conv",
        stem_activation="none" if residual else "activation",
        conv_bias=False,
        attention_after=tuple(attentions),
        attention=attention_config(
            source, list(attentions.values()), dimensions=3, pool=False, output_conv=False, bias=True
        ),
        **chosen(settings),
    )
    norm = one_table_norm(settings["gain_offset"])
    parts: list[Part] = [layer(source, "stem.linear", "lin_code", mode)]
    for index, block in enumerate(blocks):
        if residual:
            names = BlockNames((f"{block}.conv1", f"{block}.conv2"), (f"{block}.norm1", f"{block}.norm2"))
            parts += block_parts(source, index, names, mode, norm, conv_bias=False)
            parts.append(layer(source, f"stages.{index}.block.skip", f"{block}.conv_skip", mode))
        else:
            parts.append(layer(source, f"stages.{index}.block.conv", f"{block}.conv", mode, bias=False))
            parts += norm(f"stages.{index}.block.norm", f"{block}.norm")
    for stage, attention in attentions.items():
        parts += attention_parts(source, stage, attention, mode, bias=True, edit=_on_images)
    if residual:
        parts += batch_norm("tail.norm", "bn")
    parts.append(layer(source, "tail.conv", "colorize", mode, edit=in_order(settings["channel_order"])))
    return Translation(config, tuple(parts), facts={"model": "resnet" if residual else "dcgan"})


def _exchanged(block: str) -> AttentionNames:
    return AttentionNames(
        query=f"{block}.key", key=f"{block}.query", value=f"{block}.value", output=None, gamma=f"{block}.gamma"
    )


def _on_images(tensor: Tensor) -> Tensor:
    """A convolution over a sequence of positions as a 1x1 one: (out, in, 1) → (out, in, 1, 1)."""
    return tensor.unsqueeze(-1) if tensor.dim() == 3 else tensor


ORIGIN = Origin("rosinality", "rosinality/sagan-pytorch", recognises, assume, translate)
