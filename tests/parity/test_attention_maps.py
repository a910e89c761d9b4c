"""Attention maps: the weights of both sides, by NumPy from the paper's equation and from a file that is wrong."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sagan_deploy.export import export_generator
from sagan_deploy.model.inference import InferenceOptions, attention
from sagan_deploy.parity.attention import attention_maps
from sagan_deploy.parity.emulation import emulated


@pytest.fixture(scope="module")
def latent(checkpoint):
    z = np.random.default_rng(3).normal(size=(1, checkpoint.config.z_dim)).astype(np.float32)
    return z, np.array([1])


def sharper(payload):
    """The file with scores three times as large."""
    model = onnx.load_from_string(payload)
    tensor = next(t for t in model.graph.initializer if t.name == "stages.0.attention.projection")
    values = numpy_helper.to_array(tensor).copy()
    values[:4] *= 3  # the queries: 32 channels, an eighth of them
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


def by_hand(checkpoint, z, labels, query):
    """softmax(f(x)ᵀ g(x)) of one query over the pooled keys, as a picture between 0 and its largest weight."""
    generator, seen = checkpoint.generator().double(), []
    block = generator.stages[0].attention
    block.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0].numpy()))
    generator(torch.from_numpy(z).double(), torch.from_numpy(labels))
    (x,) = seen
    wq, wk = (part.weight.detach().numpy()[:, :, 0, 0] for part in (block.query, block.key))
    queries, keys = np.einsum("oc,chw->ohw", wq, x), np.einsum("oc,chw->ohw", wk, x)
    pooled = keys.reshape(len(keys), 4, 2, 4, 2).max(axis=(2, 4))
    scores = np.einsum("c,chw->hw", queries[:, query[0], query[1]], pooled)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return np.rint(255 * weights / weights.max())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_both_sides_show_the_weights_of_the_equation(checkpoint, exported, latent, precision):
    payload = exported[precision] if precision == "fp32" else emulated(exported[precision])
    maps = attention_maps(payload, checkpoint.generator(), *latent, case="normal", image=0)
    assert [one.path for one in maps] == ["stages.0.attention"] * len(maps)
    assert maps[0].position == (4, 4)  # the middle of 8x8
    for one in maps:
        expected = by_hand(checkpoint, *latent, one.position)
        side = one.reference.shape[0] // 4
        assert np.abs(one.reference[::side, ::side, 0].astype(float) - expected).max() <= 1
        assert np.abs(one.candidate[::side, ::side, 0].astype(float) - expected).max() <= 2
        assert one.difference < {"fp32": 1e-6, "fp16": 5e-3}[precision]


def test_a_map_that_is_computed_in_parts_is_put_together(checkpoint, exported, latent, monkeypatch):
    monkeypatch.setattr(attention, "_SCORES", 300)  # of 64x16
    payload = export_generator(checkpoint, InferenceOptions(attention="decomposed")).payload
    assert sum(node.op_type == "Softmax" for node in onnx.load_from_string(payload).graph.node) == 4
    maps = attention_maps(payload, checkpoint.generator(), *latent, case="normal", image=0)
    for one in maps:
        expected, side = by_hand(checkpoint, *latent, one.position), one.candidate.shape[0] // 4
        assert np.abs(one.candidate[::side, ::side, 0].astype(float) - expected).max() <= 2
        assert one.difference < 1e-6


def test_a_file_that_looks_elsewhere_shows_it_where_it_is_worst(checkpoint, exported, latent):
    maps = attention_maps(sharper(exported["fp32"]), checkpoint.generator(), *latent, case="normal", image=0)
    assert maps[-1].difference >= maps[0].difference
    assert maps[-1].difference > 0.01
    assert np.abs(maps[-1].reference.astype(int) - maps[-1].candidate).max() > 10


def test_a_network_without_attention_has_no_maps(latent):
    from sagan_deploy.config import GeneratorConfig
    from tests.exports import export_once
    from tests.generators import tiny_checkpoint

    plain = tiny_checkpoint(GeneratorConfig(z_dim=8, widths=(16, 8)))
    z = latent[0][:, :8]
    assert attention_maps(export_once(plain).payload, plain.generator(), z, None, case="x", image=0) == ()
