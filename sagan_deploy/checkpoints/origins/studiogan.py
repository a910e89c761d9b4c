"""POSTECH-CVLab/PyTorch-StudioGAN: SAGAN (resnet) and the BigGAN backbones, in both layouts of its norms.

Until January 2022 a conditional norm held two embeddings, ``embed0`` and ``embed1``; since then two linear layers on
one-hot labels, ``gain`` and ``bias``. They are the same tables, transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sagan_deploy.checkpoints.origins.blocks import (
    AttentionNames,
    BlockNames,
    attention_config,
    stage_parts,
)
from sagan_deploy.checkpoints.origins.origin import RELU, RGB, Origin, Translation, chosen
from sagan_deploy.checkpoints.origins.shapes import bottom_width, split_entries, upsample_flags, widths_of
from sagan_deploy.checkpoints.parts import (
    Part,
    batch_norm,
    chain,
    in_order,
    layer,
    plus,
    statistics,
    table,
    transposed,
)
from sagan_deploy.checkpoints.settings import Assumption, Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.checkpoints.spectral import SpectralNorm
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError


def recognises(source: Source) -> bool:
    """Blocks in a list of lists, a first layer ``linear0`` and a last one ``conv2d5``."""
    return source.any(r"linear0\.") and source.any(r"blocks\.0\.0\.") and source.any(r"conv2d5\.|conv4\.|bn4\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    return {
        **RELU,
        **RGB,
        "activation_slope": Assumption(0.1, "the original's LeakyReLU"),
        "norm_eps": Assumption(1e-4, "the original's, everywhere"),
        "gain_offset": Assumption(1, "the original adds 1 to its gains"),
        "spectral_norm": Assumption(
            "iterate", "its evaluation keeps these layers in training mode; an average (EMA) needs it in any case"
        ),
    }


def translate(source: Source, settings: Settings) -> Translation:
    """Stem linear0, stages blocks.N with attention as entries of their own, tail bn4 and conv2d5."""
    _refuse_relatives(source)
    entries = [f"blocks.{i}.0" for i in source.consecutive(r"blocks\.(\d+)\.", 0, "entries blocks.")]
    blocks, attended = split_entries(source, entries, "sigma")
    deep = source.any(r"blocks\.\d+\.0\.conv2d4\.")
    names = [_names(block, deep) for block in blocks]
    attentions = {stage: _attention(entry) for stage, entry in attended.items()}
    mode, widths = settings["spectral_norm"], widths_of(source, names)
    features, stem_inputs = source.weight_shape("linear0", 2)
    bottom = bottom_width(source, "linear0", features, widths[0])
    config = GeneratorConfig(
        bottom_width=bottom,
        widths=widths,
        block="bottleneck" if deep else "residual",
        upsample=upsample_flags(source, widths, settings, bottom) if deep else (),
        attention_after=tuple(attentions),
        attention=attention_config(source, list(attentions.values())),
        **_conditioning(source, names, stem_inputs, deep=deep),
        **chosen(settings),
    )
    parts: list[Part] = [layer(source, "stem.linear", "linear0", mode)]
    if config.norm == "vector":
        parts.append(table(source, "embedding", "shared", mode))
    norm = _norm(source, config.norm, mode, settings)
    parts += stage_parts(source, names, attentions, mode, norm)
    parts += batch_norm("tail.norm", "bn4")
    parts.append(layer(source, "tail.conv", "conv2d5", mode, edit=in_order(settings["channel_order"])))
    legacy = source.any(r"blocks\.\d+\.0\.bn1\.embed0\.")
    return Translation(
        config,
        tuple(parts),
        facts={"layout": "before January 2022 (embed0, embed1)" if legacy else "since January 2022 (gain, bias)"},
        check=(
            "z: normal is assumed; a run with g_z_prior uniform drew from [-1, 1]",
            "published scores may use batch or standing statistics, which a single image cannot have",
        ),
    )


def _refuse_relatives(source: Source) -> None:
    if source.any(r"info_(mix|proj)_linear"):
        raise InputError(f"{source.name} is an InfoGAN variant of StudioGAN, whose second code is not supported.")
    if source.any(r"blocks\.\d+\.0\.conv2d4\.") and source.any(r"blocks\.\d+\.0\.conv2d0\."):
        raise InputError(
            f"{source.name} is StudioGAN's big_resnet_deep_studiogan, whose bottleneck blocks have a skip convolution; "
            "big_resnet_deep_legacy, which drops channels, is supported."
        )


def _names(block: str, deep: bool) -> BlockNames:
    numbers = range(1, 5 if deep else 3)
    return BlockNames(
        convs=tuple(f"{block}.conv2d{i}" for i in numbers),
        norms=tuple(f"{block}.bn{i}" for i in numbers),
        skip=None if deep else f"{block}.conv2d0",
    )


def _attention(block: str) -> AttentionNames:
    return AttentionNames.of(f"{block}.conv1x1_{{}}", output="attn", gamma=f"{block}.sigma")


def _conditioning(source: Source, names: list[BlockNames], stem_inputs: int, *, deep: bool) -> dict[str, Any]:
    norm = names[0].norms[0]
    if source.any(r"shared\."):
        classes, shared = source.weight_shape("shared", 2)
        condition = source.weight_shape(f"{norm}.gain", 2)[1]
        latent = condition - shared
        return {
            "z_dim": latent if deep else stem_inputs * (len(names) + 1),
            "num_classes": classes,
            "norm": "vector",
            "embedding_dim": shared,
            "stage_condition": "embedding_and_latent",
            "stem_input": "condition" if deep else "latent",
            "latent_chunks": not deep,
        }
    if source.any(norm.replace(".", r"\.") + r"\.embed0\."):
        return {"z_dim": stem_inputs, "norm": "class_table", "num_classes": source.weight_shape(f"{norm}.embed0", 2)[0]}
    if source.any(norm.replace(".", r"\.") + r"\.gain\."):
        return {"z_dim": stem_inputs, "norm": "class_table", "num_classes": source.weight_shape(f"{norm}.gain", 2)[1]}
    return {"z_dim": stem_inputs}


def _norm(source: Source, kind: str, mode: SpectralNorm, settings: Settings) -> Callable[[str, str], list[Part]]:
    if kind == "batch":
        return batch_norm
    if kind == "vector":
        if settings["gain_offset"] != 1:
            raise ConfigError("gain_offset must be 1 for generators with a shared embedding: the original adds it")
        return lambda ours, theirs: [
            statistics(f"{ours}.statistics", f"{theirs}.bn"),
            table(source, f"{ours}.gain", f"{theirs}.gain", mode),
            table(source, f"{ours}.shift", f"{theirs}.bias", mode),
        ]
    offset = plus(settings["gain_offset"])

    def tables(ours: str, theirs: str) -> list[Part]:
        legacy = source.any(theirs.replace(".", r"\.") + r"\.embed0\.")
        gain, shift = ("embed0", "embed1") if legacy else ("gain", "bias")
        turn = chain() if legacy else transposed
        return [
            statistics(f"{ours}.statistics", f"{theirs}.bn"),
            table(source, f"{ours}.gain", f"{theirs}.{gain}", mode, edit=chain(turn, offset)),
            table(source, f"{ours}.shift", f"{theirs}.{shift}", mode, edit=turn),
        ]

    return tables


ORIGIN = Origin("studiogan", "POSTECH-CVLab/PyTorch-StudioGAN", recognises, assume, translate)
