"""open-mmlab/mmgeneration and mmagic: SAGAN at 32, 64 and 128 pixels, drawn as BGR by what was trained there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sagan_deploy.checkpoints.origins.blocks import (
    AttentionNames,
    BlockNames,
    attention_config,
    stage_parts,
)
from sagan_deploy.checkpoints.origins.origin import EVAL_STORED, RELU, Origin, Translation, chosen
from sagan_deploy.checkpoints.origins.shapes import bottom_width, split_entries, widths_of
from sagan_deploy.checkpoints.parts import Part, batch_norm, in_order, layer, plus, statistics, table
from sagan_deploy.checkpoints.settings import Assumption, Settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.checkpoints.spectral import SpectralNorm
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError


def recognises(source: Source) -> bool:
    """The first layer is called ``noise2feat``, the last one ``to_rgb``."""
    return source.any(r"noise2feat\.") and source.any(r"to_rgb\.conv\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    order = Assumption("bgr", "its pipelines train on BGR")
    if "-rgb" in source.name:
        order = Assumption("rgb", "the file's name says rgb")
    return {
        **RELU,
        "norm_eps": Assumption(1e-4, "the default; the BigGAN-schedule config has 1e-5"),
        "gain_offset": Assumption(1, "init types studio and BigGAN add 1, sagan and sngan do not"),
        "channel_order": order,
        "spectral_norm": EVAL_STORED,
    }


def translate(source: Source, settings: Settings) -> Translation:
    """Stem noise2feat, stages conv_blocks.N with attention as entries of their own, tail to_rgb."""
    if source.any(r".*\.u1$"):
        raise InputError(
            f"{source.name} tracks several singular values per layer (num_svs > 1), and this origin divides by the "
            "last of them; only one is supported."
        )
    entries = [f"conv_blocks.{i}" for i in source.consecutive(r"conv_blocks\.(\d+)\.", 0, "entries conv_blocks.")]
    blocks, attended = split_entries(source, entries, "gamma")
    names = [_names(block) for block in blocks]
    attentions = {stage: _attention(entry) for stage, entry in attended.items()}
    widths, mode = widths_of(source, names), settings["spectral_norm"]
    features, z_dim = source.weight_shape("noise2feat", 2)
    conditional = source.any(r"conv_blocks\.0\.norm_1\.weight_embedding\.")
    classes = source.weight_shape("conv_blocks.0.norm_1.weight_embedding", 2)[0] if conditional else 0
    config = GeneratorConfig(
        z_dim=z_dim,
        num_classes=classes,
        bottom_width=bottom_width(source, "noise2feat", features, widths[0]),
        widths=widths,
        norm="class_table" if conditional else "batch",
        attention_after=tuple(attentions),
        attention=attention_config(source, list(attentions.values())),
        **chosen(settings),
    )
    norm = _tables(source, mode, settings["gain_offset"]) if conditional else _plain
    parts: list[Part] = [layer(source, "stem.linear", "noise2feat", mode)]
    parts += stage_parts(source, names, attentions, mode, norm)
    parts += batch_norm("tail.norm", "to_rgb.bn")
    parts.append(layer(source, "tail.conv", "to_rgb.conv", mode, edit=in_order(settings["channel_order"])))
    undivided = conditional and "conv_blocks.0.norm_1.weight_embedding.weight" in source
    schedule = ("embeddings without spectral norm: the BigGAN-schedule config, whose norm_eps is 1e-5",)
    return Translation(config, tuple(parts), check=schedule if undivided else ())


def _names(block: str) -> BlockNames:
    return BlockNames(
        convs=(f"{block}.conv_1.conv", f"{block}.conv_2.conv"),
        norms=(f"{block}.norm_1", f"{block}.norm_2"),
        skip=f"{block}.shortcut.conv",
    )


def _attention(block: str) -> AttentionNames:
    return AttentionNames.of(f"{block}.{{}}.conv", output="o", gamma=f"{block}.gamma")


def _plain(ours: str, theirs: str) -> list[Part]:
    return batch_norm(ours, f"{theirs}.norm")


def _tables(source: Source, mode: SpectralNorm, gain_offset: int) -> Callable[[str, str], list[Part]]:
    return lambda ours, theirs: [
        statistics(f"{ours}.statistics", f"{theirs}.norm"),
        table(source, f"{ours}.gain", f"{theirs}.weight_embedding", mode, edit=plus(gain_offset)),
        table(source, f"{ours}.shift", f"{theirs}.bias_embedding", mode),
    ]


ORIGIN = Origin("mmgeneration", "open-mmlab/mmgeneration, mmagic", recognises, assume, translate)
