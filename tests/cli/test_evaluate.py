"""`sagan-deploy evaluate` and `bench --train`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sagan_deploy.checkpoints.native import checkpoint_of, save_checkpoint
from sagan_deploy.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from sagan_deploy.export import export_generator
from sagan_deploy.model.generator import Generator
from sagan_deploy.presets import Preset


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("evaluate")
    config = GeneratorConfig(z_dim=6, num_classes=2, bottom_width=4, widths=(8, 8), norm="class_table")
    torch.manual_seed(0)
    generators = [Generator(config).eval() for _ in range(2)]
    for name, generator in zip(("a", "b"), generators, strict=True):
        save_checkpoint(folder / f"{name}.safetensors", checkpoint_of(generator, class_names=("dark", "light")))
    exported = export_generator(checkpoint_of(generators[0], class_names=("dark", "light")))
    (folder / "a.onnx").write_bytes(exported.payload)
    random, labels = np.random.default_rng(0), np.arange(60) % 2
    images = (
        random.integers(0, 60, (60, 8, 8, 3), dtype=np.uint8) + (190 * labels).astype(np.uint8)[:, None, None, None]
    )
    np.savez(folder / "real.npz", images=images, labels=labels, class_names=np.array(["dark", "light"]))
    np.savez(folder / "other.npz", images=images, labels=labels, class_names=np.array(["light", "dark"]))
    np.savez(folder / "bare.npz", images=images)
    np.savez(folder / "three.npz", images=images, labels=np.arange(60) % 3)
    return folder


def test_an_export_has_the_quality_of_its_checkpoint_and_another_generator_has_another(program, files):
    names = [files / name for name in ("a.safetensors", "a.onnx", "b.safetensors")]
    arguments = ("--data", files / "real.npz", "--images-per-class", 40, "--seed", 3)
    result = program("evaluate", *names, *arguments, "--json")
    assert result.code == 0, result.err
    a, onnx, b = json.loads(result.out)
    for row, engine in ((a, "pytorch"), (onnx, "onnxruntime"), (b, "pytorch")):
        assert engine in row["drawn_by"]
    assert (a["mean_code_difference"], a["max_code_difference"]) == (0, 0)
    assert onnx["max_code_difference"] <= 1
    assert onnx["quality"]["frechet"] == pytest.approx(a["quality"]["frechet"], rel=1e-2)
    assert onnx["quality"]["label_share"] == a["quality"]["label_share"]
    assert b["max_code_difference"] > 10
    assert b["quality"]["frechet"] != a["quality"]["frechet"]
    shown = program("evaluate", *names[:2], *arguments)
    assert "classifier Fréchet" in shown.out
    assert "FID" not in shown.out


def test_features_of_a_network_of_the_users_own_stand_beside(program, files, tmp_path):
    from tests.parity.test_distribution import extractor

    network = extractor(tmp_path / "mean.onnx")
    arguments = ("evaluate", files / "a.safetensors", "--data", files / "real.npz", "--images-per-class", 20)
    result = program(*arguments, "--features", network, "--json")
    (row,) = json.loads(result.out)
    assert row["features"]["frechet"] > row["features"]["frechet_real"] > 0
    shown = program(*arguments, "--features", network)
    assert "Fréchet and kernel distance in features of mean.onnx" in " ".join(shown.out.split())
    assert f"{row['features']['frechet']:.4g}" in shown.out
    wrong = program(*arguments, "--features", files / "real.npz")
    assert wrong.code == 4
    assert "no ONNX feature extractor" in wrong.err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("other.npz", "draws the classes dark, light, and other has light, dark"),
        ("three.npz", "draws 2 classes, and three has 3"),
        ("bare.npz", "draws 2 classes, and bare has 0"),
    ],
)
def test_images_that_do_not_fit_are_refused(program, files, data, message):
    result = program("evaluate", files / "a.safetensors", "--data", files / data)
    assert result.code in (2, 4)
    assert message in result.err


def test_training_speed_as_a_table(program, monkeypatch):
    from sagan_deploy.training import speed

    small = Preset(
        GeneratorConfig(z_dim=6, num_classes=3, bottom_width=4, widths=(8, 8), norm="class_table"),
        DiscriminatorConfig(image_size=8, num_classes=3, widths=(8, 8), downsample=(True, False), attention_after=(1,)),
        TrainConfig(batch_size=4),
    )
    monkeypatch.setattr(speed, "speed_preset", lambda: small)
    result = program("bench", "--train", "--duration", 0.01, "--threads", 1)
    assert result.code == 0, result.err
    assert "the usual step" in result.out
    assert "without folded upsampling" in result.out
    nothing = program("bench")
    assert nothing.code == 2
    assert "name at least one file to measure, or --train" in nothing.err
