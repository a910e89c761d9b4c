"""Named networks: the quickstart's small one, a 64-pixel one, and the paper's ImageNet network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sagan_deploy.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from sagan_deploy.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A generator, its discriminator and the training settings that suit them."""

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    train: TrainConfig

    def with_classes(self, num_classes: int) -> Preset:
        """The same networks for another number of classes; 0 makes them unconditional."""
        generator = self.generator
        if num_classes:
            generator = dataclasses.replace(
                generator, num_classes=num_classes, norm="class_table" if generator.norm == "batch" else generator.norm
            )
        else:
            generator = dataclasses.replace(
                generator, num_classes=0, norm="batch", embedding_dim=0, stem_input="latent"
            )
        return Preset(generator, dataclasses.replace(self.discriminator, num_classes=num_classes), self.train)

    def with_spectral_norm(self, network: str, wanted: bool) -> Preset:
        """The same, with spectral norm in all of ``generator`` or ``discriminator``, attention included, or in none."""
        config = getattr(self, network)
        attention = dataclasses.replace(config.attention, spectral_norm=wanted)
        changed: dict[str, Any] = {network: dataclasses.replace(config, spectral_norm=wanted, attention=attention)}
        return dataclasses.replace(self, **changed)

    def around(self, generator: GeneratorConfig) -> Preset:
        """The preset's settings for training on from a certain generator, which must draw images of its size.

        Raises:
            ConfigError: it draws another size.
        """
        if generator.image_size != self.discriminator.image_size:
            fitting = [name for name, other in PRESETS.items() if other.generator.image_size == generator.image_size]
            raise ConfigError(
                f"the generator draws {generator.image_size}x{generator.image_size} pixels and this preset's "
                f"discriminator sees {self.discriminator.image_size}x{self.discriminator.image_size}: "
                f"--preset {' or '.join(fitting) or 'of that size: there is none'}"
            )
        return dataclasses.replace(self, generator=generator)


# Adam with β1 = 0 moves a weight by about the learning rate in every step. The paper's rates suit networks ten times
# wider and a million steps; this small one learns in minutes with four times the generator's and twice the
# discriminator's, which is steadier on few images than the paper's ratio of 1 : 4.
_SAGAN32 = Preset(
    GeneratorConfig(
        z_dim=64,
        num_classes=10,
        bottom_width=8,
        widths=(64, 48, 24),
        norm="class_table",
        embedding_dim=16,
        stem_input="condition",
        attention_after=(1,),
    ),
    DiscriminatorConfig(
        image_size=32,
        num_classes=10,
        widths=(16, 32, 64, 64),
        downsample=(True, True, True, False),
        attention_after=(1,),
    ),
    TrainConfig(
        steps=1500,
        batch_size=32,
        generator_lr=4e-4,
        discriminator_lr=8e-4,
        ema_decay=0.995,
        lr_decay_from=0.5,
        log_every=10,
        sample_every=250,
        checkpoint_every=250,
    ),
)

_SAGAN64 = Preset(
    GeneratorConfig(num_classes=10, widths=(512, 512, 256, 128, 64), norm="class_table", attention_after=(3,)),
    DiscriminatorConfig(
        image_size=64,
        num_classes=10,
        widths=(64, 128, 256, 512, 512),
        downsample=(True, True, True, True, False),
        attention_after=(1,),
    ),
    TrainConfig(),
)

# The official ImageNet network: five residual blocks from 16·64 to 64 channels, attention at 32x32 in both networks.
_SAGAN128 = Preset(
    GeneratorConfig(num_classes=1000, widths=(1024, 1024, 512, 256, 128, 64), norm="class_table", attention_after=(3,)),
    DiscriminatorConfig(num_classes=1000),
    TrainConfig(steps=1_000_000, batch_size=256),
)

PRESETS: dict[str, Preset] = {"sagan32": _SAGAN32, "sagan64": _SAGAN64, "sagan128": _SAGAN128}


def preset(name: str) -> Preset:
    """The preset of that name, or a `ConfigError` that lists the names."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}. Known presets: {', '.join(PRESETS)}")
    return PRESETS[name]
