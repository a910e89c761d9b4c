"""The generator's shapes, its labels and the networks of the papers."""

import pytest
import torch

from sagan_deploy.config import DiscriminatorConfig
from sagan_deploy.errors import InputError
from sagan_deploy.model.discriminator import Discriminator
from sagan_deploy.model.generator import Generator
from sagan_deploy.presets import PRESETS, preset
from tests.generators import CONFIGS, TINY, inputs, tiny_generator


@pytest.mark.parametrize("name", CONFIGS)
def test_images_have_the_promised_shape_and_range(name):
    config = CONFIGS[name]
    images = tiny_generator(config)(*inputs(config, dtype=torch.float32))
    assert images.shape == (3, 3, config.image_size, config.image_size)
    assert images.abs().max() <= 1
    assert images.std() > 0.01


@pytest.mark.parametrize("name", CONFIGS)
def test_images_do_not_depend_on_their_neighbours_in_the_batch(name):
    config = CONFIGS[name]
    generator = tiny_generator(config).double()
    together = generator(*inputs(config, 3))
    alone = torch.cat([generator(*(part[i : i + 1] for part in inputs(config, 3))) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)


def test_labels_matter():
    generator = tiny_generator()
    z = torch.randn(1, 8)
    images = [generator(z, torch.tensor([label])) for label in range(3)]
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    assert not torch.allclose(images[1], images[2], atol=1e-3)


def test_missing_and_superfluous_labels_are_refused():
    with pytest.raises(InputError, match="needs labels"):
        tiny_generator()(torch.zeros(1, 8))
    with pytest.raises(InputError, match="takes no labels"):
        tiny_generator(CONFIGS["unconditional"])(torch.zeros(1, 8), torch.tensor([0]))


def test_sagan128_is_the_papers_imagenet_network():
    config = preset("sagan128").generator
    with torch.device("meta"):
        generator, discriminator = Generator(config), Discriminator(preset("sagan128").discriminator)
    shapes = {name: tuple(p.shape) for name, p in generator.named_parameters()}
    assert shapes["stem.linear.parametrizations.weight.original"] == (16 * 1024, 128)
    assert [stage.block.conv2.out_channels for stage in generator.stages] == [1024, 512, 256, 128, 64]
    # Attention at 32x32 on 256 channels: queries and keys 32, values 128.
    assert [i for i, stage in enumerate(generator.stages) if stage.attention is not None] == [2]
    assert shapes["stages.2.attention.query.parametrizations.weight.original"] == (32, 256, 1, 1)
    assert shapes["stages.2.attention.value.parametrizations.weight.original"] == (128, 256, 1, 1)
    assert shapes["stages.0.block.norm1.gain.weight"] == (1000, 1024)
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 1) == 42.1
    assert discriminator.attention["2"].value_channels == 64


@pytest.mark.parametrize("name", PRESETS)
def test_presets_belong_together(name):
    chosen = preset(name)
    assert chosen.generator.image_size == chosen.discriminator.image_size
    assert chosen.generator.num_classes == chosen.discriminator.num_classes
    for classes in (0, 7):
        other = chosen.with_classes(classes)
        assert other.generator.num_classes == other.discriminator.num_classes == classes


@pytest.mark.parametrize("classes", [0, 3])
def test_the_discriminator_scores_images_and_its_classes_matter(classes):
    torch.manual_seed(0)
    config = DiscriminatorConfig(
        image_size=16, num_classes=classes, widths=(8, 16, 16), downsample=(True, True, False), attention_after=(1,)
    )
    discriminator = Discriminator(config)
    images = torch.randn(4, 3, 16, 16)
    labels = [torch.full((4,), y) for y in range(3)] if classes else [None]
    scores = [discriminator.eval()(images, y) for y in labels]
    assert scores[0].shape == (4,)
    assert not classes or not torch.allclose(scores[0], scores[1])
    with pytest.raises(InputError):
        discriminator(images, None if classes else torch.zeros(4, dtype=torch.int64))


def test_the_same_seed_gives_the_same_weights():
    first, second = tiny_generator(TINY, 3).state_dict(), tiny_generator(TINY, 3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
