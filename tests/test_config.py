"""Configs refuse nonsense with names and values, and survive JSON."""

import dataclasses
import json

import pytest

from sagan_deploy.config import AttentionConfig, DiscriminatorConfig, GeneratorConfig, TrainConfig, from_dict, to_dict
from sagan_deploy.errors import ConfigError
from sagan_deploy.presets import PRESETS, preset
from tests.generators import CONFIGS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneratorConfig(z_dim=0), r"z_dim \(=0\) must be at least 1"),
        (lambda: GeneratorConfig(widths=(8,)), r"widths \(=\(8,\)\)"),
        (lambda: GeneratorConfig(norm="instance"), r"norm \(='instance'\) must be one of batch, class_table, vector"),
        (lambda: GeneratorConfig(norm="class_table"), r"num_classes \(=0\)"),
        (lambda: GeneratorConfig(num_classes=3), r"num_classes \(=3\) has no effect"),
        (lambda: GeneratorConfig(num_classes=3, norm="vector"), r"embedding_dim \(=0\)"),
        (lambda: GeneratorConfig(z_dim=13, latent_chunks=True), r"z_dim \(=13\) must be a multiple"),
        (lambda: GeneratorConfig(attention_after=(6,)), r"attention_after \(=6\) must lie in 1\.\.5"),
        (lambda: GeneratorConfig(widths=(8, 4), attention_after=(1,)), "leaves no channel"),
        (lambda: GeneratorConfig(widths=(8, 16), block="bottleneck"), "must not grow"),
        (lambda: GeneratorConfig(widths=(8, 8), block="deconv", upsample=(False,)), "stride 2"),
        (lambda: GeneratorConfig(upsample=(True,)), "one flag per stage"),
        (lambda: AttentionConfig(output_conv=False), r"value_ratio \(=2\) must be 1"),
        (lambda: AttentionConfig(attention_map="untransposed"), "pool must be False"),
        (lambda: DiscriminatorConfig(image_size=20), r"image_size \(=20\) must be a multiple of 32"),
        (lambda: DiscriminatorConfig(widths=(8,)), "one flag per block"),
        (lambda: TrainConfig(batch_size=0), r"batch_size \(=0\)"),
        (lambda: TrainConfig(betas=(0.0, 1.0)), "betas"),
        (lambda: preset("sagan512"), "Known presets: sagan32"),
    ],
)
def test_nonsense_is_refused_with_names_and_values(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("config", [*CONFIGS.values(), *(p.generator for p in PRESETS.values())])
def test_a_config_survives_json(config):
    assert from_dict(GeneratorConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 3}, "no field colour"),
        ({"z_dim": "128"}, "must be of type int"),
        ({"z_dim": True}, "must be of type int"),
        ({"widths": 3}, "must be a list"),
        ({"attention": [1]}, "must be an object"),
    ],
)
def test_foreign_json_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(GeneratorConfig, to_dict(CONFIGS["sagan"]) | change)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["sagan"].z_dim = 3
