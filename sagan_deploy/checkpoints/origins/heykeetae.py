"""heykeetae/Self-Attention-GAN: unconditional, 64x64, transposed convolutions, unpooled attention in two places.

Forks that keep its names (other sizes, no spectral norm) are read too: the number of layers and the widths are taken
from the tensors, and an attention belongs behind the layer of its width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sagan_deploy.checkpoints.origins.blocks import AttentionNames, attention_config, attention_parts
from sagan_deploy.checkpoints.origins.origin import EPS_1E_5, RELU, RGB, Origin, Translation, chosen
from sagan_deploy.checkpoints.parts import Part, batch_norm, in_order, layer
from sagan_deploy.checkpoints.settings import Assumption, Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError


def recognises(source: Source) -> bool:
    """``l1.0`` is a transposed convolution and ``l1.1`` its norm; the discriminator's first layer has no norm."""
    return source.any(r"l1\.0\.") and source.any(r"l1\.1\.") and source.any(r"last\.0\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    return {
        **RELU,
        **RGB,
        "norm_eps": EPS_1E_5,
        "attention_map": Assumption("standard", "as since 2018-06-15; files of the week before have the same shapes"),
    }


def translate(source: Source, settings: Settings) -> Translation:
    """Stem l1, stages l2, l3 ..., tail last."""
    if source.any(r"attn\d+\.(f_|g_|h_)"):
        raise InputError(
            f"{source.name} holds the attention of heykeetae's code before 2018-06-08 (one channel per position), "
            "which no later code can run and this one does not read either. Train again with a newer revision."
        )
    names = [f"l{i}.0" for i in source.consecutive(r"l(\d+)\.0\.", 1, "layers l")]
    shapes = [source.weight_shape(name, 4) for name in names]
    widths = tuple(shape[1] for shape in shapes)
    places, unused = _places(source, widths)
    blocks = [_names(i) for i in places]
    config = GeneratorConfig(
        z_dim=shapes[0][0],
        widths=widths,
        bottom_width=shapes[0][2],
        image_channels=source.weight_shape("last.0", 4)[1],
        block="deconv",
        tail="deconv",
        stem_activation="norm_activation",
        attention_after=tuple(places.values()),
        attention=attention_config(
            source, blocks, pool=False, output_conv=False, bias=True, attention_map=settings["attention_map"]
        ),
        **chosen(settings),
    )
    parts: list[Part] = [
        layer(source, "stem.linear", names[0], "iterate", edit=_on_one_point),
        *batch_norm("stem.norm", "l1.1"),
    ]
    for index, name in enumerate(names[1:]):
        parts += [layer(source, f"stages.{index}.block.conv", name, "iterate")]
        parts += batch_norm(f"stages.{index}.block.norm", name.replace(".0", ".1"))
    for block, stage in zip(blocks, places.values(), strict=True):
        parts += attention_parts(source, stage, block, "iterate", bias=True)
    parts.append(_last(source, settings))
    return Translation(
        config,
        tuple(parts),
        ignored=tuple(key for key in source.tensors if key.split(".")[0] in {f"attn{i}" for i in unused}),
        facts={"unused attention": [f"attn{i}" for i in unused]} if unused else {},
        check=("attention_map: a file of 2018-06-08 to 06-14 needs --set attention_map=untransposed",),
    )


def _last(source: Source, settings: Settings) -> Part:
    order = in_order(settings["channel_order"])

    def edit(tensor: Tensor) -> Tensor:  # (in, out, 4, 4), or the bias
        return order(tensor) if tensor.dim() == 1 else order(tensor.transpose(0, 1)).transpose(0, 1).contiguous()

    return layer(source, "tail.conv", "last.0", "iterate", edit=edit)


def _places(source: Source, widths: tuple[int, ...]) -> tuple[dict[int, int], list[int]]:
    """Number of each attention → the stage behind which it comes; and the numbers of those that fit no stage."""
    places, unused = {}, []
    for number in source.numbers(r"attn(\d+)\."):
        width = source.weight_shape(f"attn{number}.value_conv", 4)[1]
        stages = [stage for stage, stage_width in enumerate(widths) if stage_width == width and stage >= 1]
        if stages:
            places[number] = stages[-1]
        else:
            unused.append(number)
    if unused and not places:
        raise InputError(f"{source.name}: no layer has the width of its attention; layers have {widths}.")
    return places, unused


def _names(number: int) -> AttentionNames:
    block = f"attn{number}"
    return AttentionNames(f"{block}.query_conv", f"{block}.key_conv", f"{block}.value_conv", None, f"{block}.gamma")


def _on_one_point(tensor: Tensor) -> Tensor:
    """A transposed convolution on a 1x1 map is a linear layer: (z, c, h, w) → (c·h·w, z), and its bias per channel."""
    if tensor.dim() == 4:
        return tensor.permute(1, 2, 3, 0).reshape(-1, tensor.shape[0])
    return tensor.repeat_interleave(16)


ORIGIN = Origin("heykeetae", "heykeetae/Self-Attention-GAN", recognises, assume, translate)
