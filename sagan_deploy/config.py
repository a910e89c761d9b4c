"""What a network and a training run are, as frozen values that refuse nonsense when they are made.

The generator's fields are the axes along which public SAGAN and BigGAN code bases differ, so that one class
covers them all. Differences that vanish when weights are loaded (spectral norm semantics, gain offset, channel
order, layouts of the first layer) are no fields: they are folded in by the importer.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sagan_deploy.errors import ConfigError

Activation = Literal["relu", "leaky_relu", "elu", "gelu"]
AUGMENTATIONS = ("color", "translation", "cutout")
TRAIN_PRECISIONS = ("fp32", "bf16", "fp16")
T = TypeVar("T")


@dataclass(frozen=True)
class AttentionConfig:
    """One self-attention block: y = γ·o + x with o = W_v(h(x) softmax(f(x)ᵀ g(x))), arXiv 1805.08318 eq. (1) to (3).

    `f` and `g` are C → C/key_ratio, `h` is C → C/value_ratio (integer division).
    """

    key_ratio: int = 8
    value_ratio: int = 2
    pool: bool = True  # 2x2 max pooling of keys and values, as in the official code
    output_conv: bool = True  # the 1x1 `v` of the paper; without it value_ratio must be 1
    bias: bool = False
    scale: Literal["none", "rsqrt"] = "none"  # the paper's s = fᵀg, or the scaled softmax(QKᵀ/√d)V
    attention_map: Literal["standard", "untransposed"] = "standard"
    spectral_norm: bool = True

    def __post_init__(self) -> None:
        check_choices(self)
        _check(self.key_ratio >= 1, "key_ratio", self.key_ratio, "must be at least 1")
        _check(self.value_ratio >= 1, "value_ratio", self.value_ratio, "must be at least 1")
        if not self.output_conv and self.value_ratio != 1:
            raise ConfigError(
                f"value_ratio (={self.value_ratio}) must be 1 when output_conv is False: "
                "nothing else brings the values back to the width of the input"
            )
        if self.pool and self.attention_map == "untransposed":
            raise ConfigError("pool must be False with attention_map='untransposed': that map is square")


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator: stem → stages, each followed by attention where asked → tail, images in [−1, 1].

    `widths` lists channels: the stem's output, then each stage's output, so there are ``len(widths) - 1`` stages.
    """

    z_dim: int = 128
    num_classes: int = 0  # 0: unconditional
    image_channels: int = 3
    bottom_width: int = 4
    widths: tuple[int, ...] = (1024, 1024, 512, 256, 128, 64)
    upsample: tuple[bool, ...] = ()  # one flag per stage; empty: every stage doubles the resolution

    # Conditioning. "class_table": one row of gains and shifts per class and norm (conditional batch norm).
    # "vector": gains and shifts are linear maps of a condition vector [embedding, latent] (BigGAN).
    norm: Literal["batch", "class_table", "vector"] = "batch"
    embedding_dim: int = 0  # a class embedding shared by stem and stages
    stem_input: Literal["latent", "condition"] = "latent"
    stage_condition: Literal["embedding", "embedding_and_latent"] = "embedding"
    condition_order: Literal["embedding_first", "latent_first"] = "embedding_first"
    latent_chunks: bool = False  # z split in order: chunk 0 to the stem, chunk i to stage i (BigGAN's hierarchical z)

    block: Literal["residual", "bottleneck", "plain", "deconv"] = "residual"
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    stem_activation: Literal["none", "activation", "norm_activation"] = "none"
    tail: Literal["norm_conv", "conv", "deconv"] = "norm_conv"
    activation: Activation = "relu"
    final_activation: Activation = "relu"
    activation_slope: float = 0.2  # negative slope of leaky_relu
    conv_bias: bool = True
    skip_bias: bool = True
    norm_eps: float = 1e-5
    final_norm_eps: float = 1e-5
    spectral_norm: bool = True

    attention_after: tuple[int, ...] = ()  # stage numbers counted from 1
    attention: AttentionConfig = field(default_factory=AttentionConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("z_dim", "image_channels", "bottom_width"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _check(self.num_classes >= 0, "num_classes", self.num_classes, "must not be negative")
        _check(self.embedding_dim >= 0, "embedding_dim", self.embedding_dim, "must not be negative")
        _check(len(self.widths) >= 2, "widths", self.widths, "must list the stem and at least one stage")
        _check(all(w >= 1 for w in self.widths), "widths", self.widths, "must all be at least 1")
        _check(self.norm_eps > 0 and self.final_norm_eps > 0, "norm_eps", self.norm_eps, "must be positive")
        if self.upsample and len(self.upsample) != self.num_stages:
            raise ConfigError(f"upsample (={self.upsample}) must have one flag per stage (={self.num_stages})")
        self._check_conditioning()
        self._check_attention()
        if self.block == "deconv" and not all(self.upsamples):
            raise ConfigError(
                f"upsample (={self.upsample}) must be True everywhere with block='deconv': it has stride 2"
            )
        if self.block == "bottleneck" and any(o > i for i, o in zip(self.widths, self.widths[1:], strict=False)):
            raise ConfigError(f"widths (={self.widths}) must not grow with block='bottleneck': its skip drops channels")

    def _check_conditioning(self) -> None:
        conditional = self.norm != "batch" or self.embedding_dim > 0
        if conditional and not self.num_classes:
            raise ConfigError(
                f"num_classes (=0) must be positive with norm={self.norm!r} and embedding_dim={self.embedding_dim}"
            )
        if self.num_classes and not conditional:
            raise ConfigError(
                f"num_classes (={self.num_classes}) has no effect: set norm='class_table' or an embedding_dim"
            )
        needs_embedding = self.norm == "vector" or self.stem_input == "condition"
        if needs_embedding and not self.embedding_dim:
            raise ConfigError("embedding_dim (=0) must be positive when norm='vector' or stem_input='condition'")
        if self.latent_chunks and self.z_dim % (self.num_stages + 1):
            raise ConfigError(
                f"z_dim (={self.z_dim}) must be a multiple of the number of chunks (={self.num_stages + 1})"
            )

    def _check_attention(self) -> None:
        for stage in self.attention_after:
            _check(1 <= stage <= self.num_stages, "attention_after", stage, f"must lie in 1..{self.num_stages}")
            width = self.widths[stage]
            if width < max(self.attention.key_ratio, self.attention.value_ratio):
                raise ConfigError(
                    f"the width after stage {stage} (={width}) leaves no channel for attention with "
                    f"key_ratio {self.attention.key_ratio} and value_ratio {self.attention.value_ratio}"
                )
        _check(
            len(set(self.attention_after)) == len(self.attention_after),
            "attention_after",
            self.attention_after,
            "must not repeat a stage",
        )

    @property
    def num_stages(self) -> int:
        """How many stages follow the stem."""
        return len(self.widths) - 1

    @property
    def upsamples(self) -> tuple[bool, ...]:
        """For every stage, whether it doubles the resolution."""
        return self.upsample or (True,) * self.num_stages

    @property
    def image_size(self) -> int:
        """Height and width of the image in pixels."""
        return self.bottom_width << (sum(self.upsamples) + (self.tail == "deconv"))

    @property
    def conditional(self) -> bool:
        """Whether the generator takes labels."""
        return self.num_classes > 0


@dataclass(frozen=True)
class DiscriminatorConfig:
    """A residual projection discriminator (Miyato & Koyama 2018, arXiv 1802.05637) with self-attention.

    `widths` lists each block's output channels; `downsample` says which blocks halve the resolution.
    """

    image_size: int = 128
    image_channels: int = 3
    num_classes: int = 0
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024)
    downsample: tuple[bool, ...] = (True, True, True, True, True, False)
    attention_after: tuple[int, ...] = (2,)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    spectral_norm: bool = True

    def __post_init__(self) -> None:
        check_choices(self)
        _check(self.num_classes >= 0, "num_classes", self.num_classes, "must not be negative")
        _check(len(self.widths) >= 1, "widths", self.widths, "must list at least one block")
        if len(self.widths) != len(self.downsample):
            raise ConfigError(f"downsample (={self.downsample}) must have one flag per block (={len(self.widths)})")
        if self.image_size % 2 ** sum(self.downsample):
            raise ConfigError(f"image_size (={self.image_size}) must be a multiple of {2 ** sum(self.downsample)}")
        for block in self.attention_after:
            _check(1 <= block <= len(self.widths), "attention_after", block, f"must lie in 1..{len(self.widths)}")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are the paper's: hinge loss, Adam(0, 0.9), two time scales 1e-4 / 4e-4."""

    steps: int = 100_000
    batch_size: int = 64
    generator_lr: float = 1e-4
    discriminator_lr: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.9)
    discriminator_steps: int = 1
    accumulation: int = 1  # parts that a batch is computed in, one after the other, where memory is short
    ema_decay: float = 0.9999
    lr_decay_from: float = 1.0  # share of the steps after which both rates fall linearly to zero; 1: never
    flip: bool = False
    balanced: bool = False  # every class equally often, however many images it has
    augment: tuple[str, ...] = ()  # of color, translation, cutout: DiffAugment, arXiv 2006.10738
    r1: float = 0.0  # γ of R1 = γ/2 · E‖∇D(x)‖² over real images: Mescheder et al. 2018, arXiv 1801.04406
    standing_batches: int = 0  # batches that give the exported generator its statistics: arXiv 1809.11096, appendix D
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 1000
    evaluate_every: int = 0  # steps between two measurements of quality, which choose best.safetensors; 0: never
    keep: int = 1  # states of so many checkpoints stay on disk, to go back to
    watch: bool = True  # stop when the discriminator is dead or the images collapse, with the last good state
    compile: bool = False  # both networks through torch.compile: minutes at the start, faster steps with equal sums
    deterministic: bool = True  # on GPUs, convolutions whose sums have one order: resumed runs end bit for bit alike
    precision: str = "fp32"  # of products; bf16 and fp16 leave weights, spectral norm, statistics and losses in float32

    def __post_init__(self) -> None:
        for name in (
            "keep",
            "batch_size",
            "discriminator_steps",
            "accumulation",
            "log_every",
            "sample_every",
            "checkpoint_every",
        ):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("steps", "r1", "standing_batches", "evaluate_every"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        _check(
            self.precision in TRAIN_PRECISIONS,
            "precision",
            self.precision,
            f"must be one of {', '.join(TRAIN_PRECISIONS)}; exported files can be of others whatever the training used",
        )
        if self.precision == "fp16" and self.r1:
            raise ConfigError(
                f"precision fp16 and r1 (={self.r1}) exclude each other: the penalty is made of gradients that fp16's "
                "range is too short for. bf16 has the range"
            )
        if self.compile and self.r1:
            raise ConfigError(
                f"compile and r1 (={self.r1}) exclude each other: compiled networks have no second derivatives"
            )
        unknown = sorted(set(self.augment) - set(AUGMENTATIONS))
        _check(not unknown, "augment", ",".join(self.augment), f"may list {', '.join(AUGMENTATIONS)}")
        for name in ("generator_lr", "discriminator_lr"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        _check(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "must lie in [0, 1)")
        _check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must lie in [0, 1)")
        _check(0 <= self.lr_decay_from <= 1, "lr_decay_from", self.lr_decay_from, "must lie in [0, 1]")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    values: dict[str, Any] = _plain(dataclasses.asdict(config))
    return values


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`; unknown or missing names and wrong types raise `ConfigError`."""
    if not isinstance(values, dict):
        raise ConfigError(f"a {cls.__name__} must be an object with named fields, not {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {', '.join(unknown)}. Known fields: {', '.join(hints)}")
    return cls(**{name: _coerce(cls.__name__ + "." + name, hints[name], value) for name, value in values.items()})


def _coerce(name: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name} (={value!r}) must be a list")
        element = typing.get_args(hint)[0]
        return tuple(_coerce(name, element, item) for item in value)
    if origin is Literal:
        return value  # the class itself checks its choices
    if hint is float and type(value) in (int, float):
        return float(value)
    if isinstance(hint, type) and type(value) is not hint:
        raise ConfigError(f"{name} (={value!r}) must be of type {hint.__name__}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _check(good: bool, name: str, value: Any, rule: str) -> None:
    if not good:
        raise ConfigError(f"{name} (={value}) {rule}")


def check_choices(config: Any) -> None:
    """Refuse a config whose `Literal` fields hold something else; names the field, the value and the choices."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal and getattr(config, name) not in typing.get_args(hint):
            raise ConfigError(f"{name} (={getattr(config, name)!r}) must be one of {', '.join(typing.get_args(hint))}")
