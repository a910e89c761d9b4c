"""Distances in the features of the user's network, against their equations in one dimension."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sagan_deploy.checkpoints.native import checkpoint_of, save_checkpoint
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError
from sagan_deploy.export import export_generator
from sagan_deploy.model.generator import Generator
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.quality import files
from sagan_deploy.training.quality.files import evaluate_files


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The mean of an image, of all its colours and pixels: one feature."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0)
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, None, None])
    made = helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 1])
    reshape, shape = (
        helper.make_node("Reshape", ["m", "s"], ["f"]),
        helper.make_tensor("s", TensorProto.INT64, [2], [-1, 1]),
    )
    graph = helper.make_graph([node, reshape], "mean", [given], [made], [axes, shape])
    path = tmp_path_factory.mktemp("network") / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def data():
    labels = np.arange(90) % 2
    random = np.random.default_rng(0)
    images = (random.integers(0, 60, (90, 3, 8, 8)) + 190 * labels[:, None, None, None]).astype(np.uint8)
    return Dataset("shades", images, labels.astype(np.int64), ("dark", "light"))


def _frechet(a, b):
    """Between two normal distributions on a line: (μ_a − μ_b)² + (σ_a − σ_b)²."""
    return (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2


def _kernel(a, b):
    """The mean of (xy + 1)³ over pairs of different images within each set, less twice that between the sets."""

    def within(x):
        return np.mean([(x[i] * x[j] + 1) ** 3 for i in range(len(x)) for j in range(len(x)) if i != j])

    return within(a) + within(b) - 2 * np.mean([(x * y + 1) ** 3 for x in a for y in b])


def test_distances_are_their_equations_on_all_images(network, data):
    random = np.random.default_rng(1)
    drawn = (random.integers(0, 200, (130, 8, 8, 3)) * random.uniform(0, 1, (130, 1, 1, 1))).astype(np.uint8)
    found = files._distances(network, data, seed=5)(drawn)
    ours, real = (images.reshape(len(images), -1).mean(1) / 127.5 - 1 for images in (drawn, data.images))
    assert "mean.onnx" in found.extractor
    assert found.frechet == pytest.approx(_frechet(ours, real), rel=1e-4)
    assert found.kernel == pytest.approx(_kernel(ours, real), rel=1e-4)
    order = np.random.default_rng(5).permutation(90)
    assert found.frechet_real == pytest.approx(_frechet(real[order[:45]], real[order[45:]]), rel=1e-3, abs=1e-7)
    assert found.kernel_real == pytest.approx(_kernel(real[order[:45]], real[order[45:]]), rel=1e-3, abs=1e-6)
    assert found.frechet_real < found.frechet / 10


def test_an_export_has_the_distances_of_its_checkpoint(network, data, tmp_path):
    import torch

    config = GeneratorConfig(z_dim=6, num_classes=2, bottom_width=4, widths=(8, 8), norm="class_table")
    torch.manual_seed(0)
    made = [checkpoint_of(Generator(config).eval(), class_names=data.class_names) for _ in range(2)]
    names = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "a.onnx")]
    for path, checkpoint in zip(names, made, strict=False):
        save_checkpoint(path, checkpoint)
    names[2].write_bytes(export_generator(made[0]).payload)
    a, b, onnx_a = evaluate_files(names, data, images_per_class=20, features=network)
    assert a.features.frechet == pytest.approx(onnx_a.features.frechet, rel=1e-4)
    assert a.features.kernel == pytest.approx(onnx_a.features.kernel, rel=1e-4)
    assert abs(a.features.frechet / b.features.frechet - 1) > 1e-3
    assert a.features.frechet_real == b.features.frechet_real
    (without,) = evaluate_files(names[:1], data, images_per_class=20)
    assert without.features is None


def test_a_network_that_will_not_do_is_refused_before_the_classifiers_minute(data, tmp_path, monkeypatch):
    config = GeneratorConfig(z_dim=6, num_classes=2, bottom_width=4, widths=(8, 8), norm="class_table")
    save_checkpoint(tmp_path / "g.safetensors", checkpoint_of(Generator(config).eval()))
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    monkeypatch.setattr(files, "train_classifier", lambda *_, **__: pytest.fail("the classifier was trained"))
    with pytest.raises(InputError, match=r"x\.onnx is no ONNX feature extractor"):
        evaluate_files([tmp_path / "g.safetensors"], data, features=tmp_path / "x.onnx")
