"""ajbrock/BigGAN-PyTorch: its SAGAN, BigGAN and BigGAN-deep, and the weights ported from TF-Hub.

Three ways of conditioning: class tables per norm (SAGAN); a shared embedding alone; a shared embedding with a chunk
of z (BigGAN) or all of z (BigGAN-deep).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sagan_deploy.checkpoints.origins.blocks import (
    AttentionNames,
    BlockNames,
    attention_config,
    stage_parts,
)
from sagan_deploy.checkpoints.origins.origin import RELU, RGB, Origin, OriginConfig, Translation, chosen
from sagan_deploy.checkpoints.origins.shapes import bottom_width, upsample_flags, widths_of
from sagan_deploy.checkpoints.parts import Part, State, in_order, layer, plus, statistics, table, value
from sagan_deploy.checkpoints.settings import Assumption, Settings, Value
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.checkpoints.spectral import SpectralNorm
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError

_MODE: SpectralNorm = "iterate"  # its layers iterate once from u0 in evaluation too, and throw the result away


def recognises(source: Source) -> bool:
    """Blocks in a list of lists and a last layer ``output_layer``, which the discriminator has not."""
    return source.any(r"blocks\.0\.0\.conv1\.") and source.any(r"output_layer\.")


def assume(source: Source) -> Mapping[str, Assumption]:
    """All that the tensors do not say."""
    ported = source.any(r"linear\.u0$") and not source.any(r".*\.sv0$")
    eps = Assumption(1e-4, "without sv0 this is a port from TF-Hub, made with --BN_eps 1e-4")
    return {
        **RELU,
        **RGB,
        "norm_eps": eps if ported else Assumption(1e-5, "the default of BN_eps"),
        "final_norm_eps": Assumption(1e-5, "the original's last norm ignores BN_eps"),
        "gain_offset": Assumption(1, "the original adds 1 to its gains"),
    }


def read_config(config: Mapping[str, Any]) -> OriginConfig:
    """The run's options, as its ``state_dict.pth`` holds them."""
    if not {"BN_eps", "resolution", "G_activation"} & set(config):
        raise InputError("the config holds none of BigGAN-PyTorch's options (BN_eps, resolution, G_activation).")
    style = config.get("norm_style", "bn")
    if style not in ("bn", "in"):
        raise InputError(f"the run used norm_style={style!r}, which has no stored statistics; bn and in are supported.")
    found: dict[str, Value] = {"activation": "relu"}
    if "BN_eps" in config:
        found["norm_eps"] = float(config["BN_eps"])
    if config.get("model") == "BigGANdeep":
        found["depth"] = int(config.get("G_depth", 1))
    used = config.get("G_activation")
    if used is not None:
        known = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu", "GELU": "gelu"}
        kind = type(used).__name__
        if kind not in known:
            raise InputError(f"the run used the activation {kind}; expected one of {', '.join(known)}.")
        found["activation"] = known[kind]
        if kind == "LeakyReLU":
            found["activation_slope"] = float(used.negative_slope)
    names = {"resolution": "image_size", "n_classes": "num_classes"}
    return OriginConfig(found, {ours: int(config[theirs]) for theirs, ours in names.items() if theirs in config})


def translate(source: Source, settings: Settings) -> Translation:
    """Stem linear, stages blocks.N.0, each with attention in blocks.N.1 where it has any, tail output_layer."""
    entries = [f"blocks.{i}" for i in source.consecutive(r"blocks\.(\d+)\.", 0, "entries blocks.")]
    deep = source.any(r"blocks\.0\.0\.conv4\.")
    names = [_names(f"{entry}.0", deep) for entry in entries]
    attentions = {
        stage: _attention(f"{entry}.1") for stage, entry in enumerate(entries, 1) if f"{entry}.1.gamma" in source
    }
    widths = widths_of(source, names)
    features, stem_inputs = source.weight_shape("linear", 2)
    bottom = bottom_width(source, "linear", features, widths[0])
    config = GeneratorConfig(
        bottom_width=bottom,
        widths=widths,
        block="bottleneck" if deep else "residual",
        upsample=upsample_flags(source, widths, settings, bottom) if deep else (),
        attention_after=tuple(attentions),
        attention=attention_config(source, list(attentions.values())),
        **_conditioning(source, len(names), stem_inputs, deep=deep),
        **chosen(settings),
    )
    parts: list[Part] = [layer(source, "stem.linear", "linear", _MODE)]
    if config.norm == "vector":
        parts.append(table(source, "embedding", "shared", _MODE))
        if settings["gain_offset"] != 1:
            raise ConfigError("gain_offset must be 1 for generators with a shared embedding: the original adds it")
    norm = _norm(source, config.norm, settings["gain_offset"])
    parts += stage_parts(source, names, attentions, _MODE, norm)
    parts += [
        _statistics(source, "tail.norm", "output_layer.0"),
        value("tail.norm.weight", "output_layer.0.gain"),
        value("tail.norm.bias", "output_layer.0.bias"),
        layer(source, "tail.conv", "output_layer.2", _MODE, edit=in_order(settings["channel_order"])),
    ]
    return Translation(config, tuple(parts), facts={"model": _model(config)}, check=_check(source))


def _model(config: GeneratorConfig) -> str:
    if config.norm == "class_table":
        return "SAGAN (class tables)"
    return "BigGAN-deep" if config.block == "bottleneck" else "BigGAN"


def _check(source: Source) -> tuple[str, ...]:
    if not source.any(r"blocks\.0\.0\.bn1\.bn\.running_mean"):
        return ()
    return (
        "cross_replica: its evaluation outside of multi-GPU training adds the gain where training multiplied; "
        "imported as trained, so it differs from the original's own eval() on one GPU",
    )


def _names(block: str, deep: bool) -> BlockNames:
    numbers = range(1, 5 if deep else 3)
    return BlockNames(
        convs=tuple(f"{block}.conv{i}" for i in numbers),
        norms=tuple(f"{block}.bn{i}" for i in numbers),
        skip=None if deep else f"{block}.conv_sc",
    )


def _attention(block: str) -> AttentionNames:
    return AttentionNames.of(f"{block}.{{}}", output="o", gamma=f"{block}.gamma")


def _conditioning(source: Source, blocks: int, stem_inputs: int, *, deep: bool) -> dict[str, Any]:
    if "shared.weight" not in source:
        classes = source.shape("blocks.0.0.bn1.gain.weight", 2)[0]
        return {"z_dim": stem_inputs, "num_classes": classes, "norm": "class_table"}
    classes, shared = source.shape("shared.weight", 2)
    fields = {"num_classes": classes, "norm": "vector", "embedding_dim": shared}
    latent = source.shape("blocks.0.0.bn1.gain.weight", 2)[1] - shared
    if latent == 0 and not deep:
        return {**fields, "z_dim": stem_inputs, "stage_condition": "embedding"}
    fields["stage_condition"] = "embedding_and_latent"
    if deep:
        return {**fields, "z_dim": latent, "stem_input": "condition"}
    return {**fields, "z_dim": stem_inputs * (blocks + 1), "latent_chunks": True}


def _norm(source: Source, kind: str, gain_offset: int) -> Callable[[str, str], list[Part]]:
    edit = plus(gain_offset if kind == "class_table" else 0)  # our norms add the 1 to vectors themselves
    return lambda ours, theirs: [
        _statistics(source, f"{ours}.statistics", theirs),
        table(source, f"{ours}.gain", f"{theirs}.gain", _MODE, edit=edit),
        table(source, f"{ours}.shift", f"{theirs}.bias", _MODE),
    ]


def _statistics(source: Source, ours: str, theirs: str) -> Part:
    """Plain, as cross-replica batch norm keeps them, or as sums over `accumulation_counter` batches."""
    stored = ("stored_mean", "stored_var")
    if f"{theirs}.bn.running_mean" in source:
        return statistics(ours, f"{theirs}.bn")
    counter = f"{theirs}.bn.accumulation_counter"
    if counter not in source:
        return statistics(ours, theirs, names=stored)
    summed = statistics(ours, f"{theirs}.bn", names=stored)

    def build(state: State) -> dict[str, Tensor]:
        batches = max(1.0, float(state[counter].double().max()))
        return {name: t / batches if t.is_floating_point() else t for name, t in summed.build(state).items()}

    return Part((*summed.needs, counter), build)


ORIGIN = Origin("biggan-pytorch", "ajbrock/BigGAN-PyTorch", recognises, assume, translate, read_config)
