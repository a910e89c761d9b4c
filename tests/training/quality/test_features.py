"""Distances in the features of the user's network, against their equations in one dimension."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sagan_deploy import distances
from sagan_deploy.checkpoints.native import checkpoint_of, save_checkpoint
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.distances import class_score, kernel_distance
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.export import export_generator
from sagan_deploy.model.generator import Generator
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.quality import files
from sagan_deploy.training.quality.files import evaluate_files
from sagan_deploy.training.quality.in_features import distances_from


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


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The means of red, green and blue as features, and three times them as logits."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["f"], keepdims=0),
        helper.make_node("Mul", ["f", "three"], ["l"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("three", TensorProto.FLOAT, [], [3]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, None, None])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("f", "l")]
    graph = helper.make_graph(nodes, "classes", [given], made, constants)
    path = tmp_path_factory.mktemp("network") / "classes.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


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
    found = distances_from(data.images, network, seed=5)(drawn)
    ours, real = (images.reshape(len(images), -1).mean(1) / 127.5 - 1 for images in (drawn, data.images))
    assert "mean.onnx" in found.extractor
    assert found.frechet == pytest.approx(_frechet(ours, real), rel=1e-4)
    assert found.kernel == pytest.approx(_kernel(ours, real), rel=1e-4)
    order = np.random.default_rng(5).permutation(90)
    assert found.frechet_real == pytest.approx(_frechet(real[order[:45]], real[order[45:]]), rel=1e-3, abs=1e-7)
    assert found.kernel_real == pytest.approx(_kernel(real[order[:45]], real[order[45:]]), rel=1e-3, abs=1e-6)
    assert found.frechet_real < found.frechet / 10
    assert (found.score, found.score_real) == (None, None)


def test_the_score_of_logits_is_its_equation(classifier, data):
    drawn = np.random.default_rng(2).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    found = distances_from(data.images, classifier)(drawn)

    def score(images):
        means = images.reshape(len(images), 3, -1).mean(2) / 127.5 - 1
        given = [[np.exp(3 * m) / sum(np.exp(3 * other) for other in row) for m in row] for row in means]
        every = np.mean(given, axis=0)
        return np.exp(np.mean([sum(p * np.log(p / q) for p, q in zip(row, every, strict=True)) for row in given]))

    assert found.score == pytest.approx(score(drawn.transpose(0, 3, 1, 2)), rel=1e-5)
    assert found.score_real == pytest.approx(score(data.images), rel=1e-5)
    assert found.score != found.score_real


def test_class_scores_at_their_ends():
    certain = np.repeat(np.eye(4), 5, axis=0) * 1e4
    assert class_score(certain) == pytest.approx(4)
    assert class_score(certain[:5]) == pytest.approx(1)
    assert class_score(np.tile([0.0, 2.0, 1.0, 1.0], (9, 1))) == pytest.approx(1)


def test_blocks_are_no_part_of_the_kernel_distance(monkeypatch):
    random = np.random.default_rng(3)
    a, b = random.normal(size=(23, 4)), random.normal(size=(17, 4)) + 0.3
    whole = kernel_distance(a, b)
    monkeypatch.setattr(distances, "_BLOCK", 5)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_many_images_are_compared_in_little_memory():
    import tracemalloc

    random = np.random.default_rng(4)
    a, b = random.normal(size=(6000, 4)), random.normal(size=(6000, 4))
    tracemalloc.start()
    assert abs(kernel_distance(a, b)) < 0.01
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 8 / 2


def test_without_classes_the_network_is_the_only_judge(network, data, tmp_path):
    config = GeneratorConfig(z_dim=6, num_classes=0, bottom_width=4, widths=(8, 8), norm="batch")
    save_checkpoint(tmp_path / "g.safetensors", checkpoint_of(Generator(config).eval()))
    # The classes of the images say nothing about a generator that knows none.
    (row,) = evaluate_files([tmp_path / "g.safetensors"], data, images_per_class=70, features=network)
    assert (row.quality, row.images) == (None, 70)
    assert row.features.frechet > row.features.frechet_real
    with pytest.raises(ConfigError, match=r"shades has no classes.*give --features"):
        evaluate_files([tmp_path / "g.safetensors"], data)


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
