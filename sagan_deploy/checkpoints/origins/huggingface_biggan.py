"""huggingface/pytorch-pretrained-BigGAN: BigGAN-deep, with batch norm statistics that depend on the truncation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sagan_deploy.checkpoints.origins.blocks import (
    AttentionNames,
    BlockNames,
    attention_config,
    stage_parts,
)
from sagan_deploy.checkpoints.origins.origin import EVAL_STORED, RELU, RGB, Origin, OriginConfig, Translation, chosen
from sagan_deploy.checkpoints.origins.shapes import bottom_width, split_entries, upsample_flags, widths_of
from sagan_deploy.checkpoints.parts import (
    Part,
    State,
    chain,
    from_height_width_channels,
    in_order,
    layer,
    table,
    transposed,
    value,
)
from sagan_deploy.checkpoints.settings import Assumption, Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError

_IMAGE_CHANNELS = 3  # its last convolution has as many outputs as inputs, of which three are drawn


def recognises(source: Source) -> bool:
    """All but the class embedding lies under ``generator.``."""
    return source.any(r"generator\.gen_z\.") and source.any(r"embeddings\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    return {
        **RELU,
        **RGB,
        "norm_eps": Assumption(1e-4, "the original's, everywhere"),
        "truncation": Assumption(1.0, "statistics belong to one truncation; 0.4 is its README's"),
        "spectral_norm": EVAL_STORED,
    }


def read_config(config: Mapping[str, Any]) -> OriginConfig:
    """Its config.json."""
    try:
        flags = [bool(layer[0]) for layer in config["layers"]]
        depth = flags.index(True) + 1
        if flags != [(i + 1) % depth == 0 for i in range(len(flags))]:
            raise InputError(f"the config's layers upsample at {flags}: expected every second one.")
        return OriginConfig(
            {"norm_eps": float(config["eps"]), "depth": depth},
            {
                "image_size": int(config["output_dim"]),
                "z_dim": int(config["z_dim"]),
                "num_classes": int(config["num_classes"]),
            },
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the config is not one of pytorch-pretrained-BigGAN: {error!r} "
            "(expected layers, eps, output_dim, z_dim, num_classes)."
        ) from error


def translate(source: Source, settings: Settings) -> Translation:
    """Stem gen_z, stages layers.N with attention as an entry of its own, tail bn and conv_to_rgb."""
    numbers = source.consecutive(r"generator\.layers\.(\d+)\.", 0, "entries generator.layers.")
    blocks, attended = split_entries(source, [f"generator.layers.{i}" for i in numbers], "gamma")
    names = [_names(block) for block in blocks]
    attentions = {stage: _attention(entry) for stage, entry in attended.items()}
    widths, mode = widths_of(source, names), settings["spectral_norm"]
    embedding_dim, classes = source.shape("embeddings.weight", 2)
    features, condition = source.weight_shape("generator.gen_z", 2)
    bottom = bottom_width(source, "generator.gen_z", features, widths[0])
    config = GeneratorConfig(
        z_dim=condition - embedding_dim,
        num_classes=classes,
        bottom_width=bottom,
        widths=widths,
        upsample=upsample_flags(source, widths, settings, bottom, usual=2),
        norm="vector",
        embedding_dim=embedding_dim,
        stem_input="condition",
        stage_condition="embedding_and_latent",
        condition_order="latent_first",
        block="bottleneck",
        attention_after=tuple(attentions),
        attention=attention_config(source, list(attentions.values())),
        **chosen(settings),
    )
    norm = _norm(source, mode, settings["truncation"])
    parts: list[Part] = [
        value("embedding.weight", "embeddings.weight", transposed),
        layer(source, "stem.linear", "generator.gen_z", mode, edit=from_height_width_channels(bottom)),
    ]
    parts += stage_parts(source, names, attentions, mode, norm)
    parts += [
        _statistics("tail.norm", "generator.bn", settings["truncation"]),
        value("tail.norm.weight", "generator.bn.weight"),
        value("tail.norm.bias", "generator.bn.bias"),
        layer(
            source, "tail.conv", "generator.conv_to_rgb", mode,
            edit=chain(_drawn_channels, in_order(settings["channel_order"])),
        ),
    ]  # fmt: skip
    return Translation(
        config,
        tuple(parts),
        check=("truncation: the imported generator is right for this one only; z must be drawn with the same",),
    )


def truncated_statistics(rows: Tensor, truncation: float) -> Tensor:
    """The row of a table over truncations 0 to 1 that the original uses, exactly as it picks it.

    Between two rows it gives each the weight of the other, and which row a round truncation hits depends on the
    rounding of a division (0.14 takes the next one): both are repeated here, since users compare pictures.
    """
    fraction, whole = math.modf(truncation / (1.0 / (rows.shape[0] - 1)))
    if fraction == 0.0:
        return rows[int(whole)]
    return fraction * rows[int(whole)] + (1.0 - fraction) * rows[int(whole) + 1]


def _statistics(ours: str, theirs: str, truncation: float) -> Part:
    def build(state: State) -> dict[str, Tensor]:
        mean, variance = (
            truncated_statistics(state[f"{theirs}.{name}"].double(), truncation)
            for name in ("running_means", "running_vars")
        )
        count = mean.new_zeros(()).long()
        return {f"{ours}.running_mean": mean, f"{ours}.running_var": variance, f"{ours}.num_batches_tracked": count}

    return Part((f"{theirs}.running_means", f"{theirs}.running_vars"), build)


def _norm(source: Source, mode: Any, truncation: float) -> Callable[[str, str], list[Part]]:
    return lambda ours, theirs: [
        _statistics(f"{ours}.statistics", theirs, truncation),
        table(source, f"{ours}.gain", f"{theirs}.scale", mode),
        table(source, f"{ours}.shift", f"{theirs}.offset", mode),
    ]


def _drawn_channels(tensor: Tensor) -> Tensor:
    return tensor[:_IMAGE_CHANNELS]


def _names(block: str) -> BlockNames:
    return BlockNames(
        convs=tuple(f"{block}.conv_{i}" for i in range(4)), norms=tuple(f"{block}.bn_{i}" for i in range(4))
    )


def _attention(block: str) -> AttentionNames:
    return AttentionNames.of(f"{block}.snconv1x1_{{}}", output="o_conv", gamma=f"{block}.gamma")


ORIGIN = Origin(
    "huggingface-biggan", "huggingface/pytorch-pretrained-BigGAN", recognises, assume, translate, read_config
)
