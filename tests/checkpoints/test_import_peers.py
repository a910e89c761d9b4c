"""Imports against the peers: the same files read by two independent hands, in shapes that the fixtures do not have."""

import json

import numpy as np
import pytest
import torch

from sagan_deploy.checkpoints import import_checkpoint
from tests.checkpoints.peers import (
    ajbrock,
    heykeetae,
    huggingface,
    mimicry,
    mmgeneration,
    rosinality,
    studiogan,
    voletiv,
)

TOLERANCE = 1e-9  # of the peak, float64

# name: peer, what to make, what a user has to say
CASES = {
    "heykeetae": (heykeetae, {}, {}),
    "heykeetae-june": (heykeetae, {"attention_map": "untransposed"}, {"attention_map": "untransposed"}),
    "heykeetae-old-torch-parallel": (heykeetae, {"tracked": False, "data_parallel": True}, {}),
    "hiyouga-32": (heykeetae, {"resolution": 32}, {}),
    "hiyouga-wgan-gp": (heykeetae, {"spectral": False}, {}),
    "heykeetae-128": (heykeetae, {"resolution": 128, "conv_dim": 10}, {}),
    "voletiv": (voletiv, {"ch": 3, "optimizers": "filled"}, {}),
    "voletiv-0.4.1": (voletiv, {"spectral_form": "T0"}, {}),
    "mimicry-32": (mimicry, {"optimizer": "filled", "classes": 11}, {}),
    "mimicry-128": (mimicry, {"resolution": 128, "optimizer": None}, {}),
    "mimicry-bottom-6": (mimicry, {"bottom_width": 6, "data_parallel": True}, {"resolution": 48}),
    "sagan-32-no-attention": (ajbrock, {"resolution": 32, "attention": ()}, {}),
    "sagan-two-attentions": (ajbrock, {"attention": (16, 32), "ch": 5}, {}),
    "sagan-256": (ajbrock, {"resolution": 256, "ch": 3, "attention": (64,)}, {}),
    "sagan-cross-replica": (ajbrock, {"statistics": "cross_replica"}, {}),
    "sagan-mybn": (ajbrock, {"statistics": "mybn"}, {}),
    "sagan-mybn-standing": (ajbrock, {"statistics": "mybn", "accumulated": 16}, {}),
    "sagan-several-singular-values": (ajbrock, {"tracked": 3}, {}),
    "sagan-no-spectral-norm": (ajbrock, {"spectral": False, "data_parallel": True}, {}),
    "sagan-gelu": (ajbrock, {"activation": "gelu", "norm_eps": 1e-3}, {"activation": "GELU", "norm_eps": "1e-3"}),
    "biggan": (ajbrock, {"model": "biggan", "z_dim": 23}, {}),
    "biggan-shared-dim-0-two-attentions": (ajbrock, {"model": "biggan", "shared_dim": 0, "attention": (32, 64)}, {}),
    "biggan-512": (ajbrock, {"model": "biggan", "resolution": 512, "ch": 1, "z_dim": 16, "attention": (32,)}, {}),
    "biggan-hub": (ajbrock, {"model": "biggan", "hub": True}, {}),
    "biggan-not-hierarchical": (ajbrock, {"model": "shared"}, {}),
    "biggan-deep": (ajbrock, {"model": "deep", "depth": 3, "ch": 8}, {}),
    "biggan-deep-1": (ajbrock, {"model": "deep", "depth": 1}, {}),
    "biggan-deep-32": (ajbrock, {"model": "deep", "resolution": 32, "attention": (16,)}, {"depth": 2}),
    "biggan-deep-32-by-size": (ajbrock, {"model": "deep", "resolution": 32, "depth": 3}, {"resolution": 32}),
    "biggan-deep-256": (ajbrock, {"model": "deep", "resolution": 256, "attention": (64,)}, {}),
    "studiogan-64": (studiogan, {"resolution": 64, "attention": (3,), "ch": 6}, {}),
    "studiogan-128-legacy": (studiogan, {"resolution": 128, "attention": (4,), "layout": "legacy"}, {}),
    "studiogan-unconditional": (studiogan, {"conditional": False}, {}),
    "studiogan-no-spectral-norm": (studiogan, {"spectral": False, "layout": "legacy"}, {}),
    "studiogan-no-spectral-norm-new": (studiogan, {"spectral": False, "data_parallel": True}, {}),
    "studiogan-leaky": (studiogan, {"activation": "leaky_relu"}, {"activation": "leaky_relu"}),
    "studiogan-elu": (studiogan, {"activation": "elu", "attention": (1, 2)}, {"activation": "elu"}),
    "studiogan-ema-64": (studiogan, {"ema": True, "resolution": 64, "layout": "legacy"}, {}),
    "studiogan-stored": (studiogan, {"spectral_norm": "stored", "attention": ()}, {"spectral_norm": "stored"}),
    "studiogan-big": (studiogan, {"backbone": "big_resnet", "resolution": 64, "z_dim": 15}, {}),
    "rosinality-resnet": (rosinality, {"ch": 4, "fresh": True}, {}),
    "rosinality-dcgan": (rosinality, {"model": "dcgan", "ch": 4, "data_parallel": True}, {}),
    "mmgeneration-128": (mmgeneration, {"resolution": 128, "attention": (4,), "optimizer": True}, {}),
    "mmgeneration-raw-gain": (mmgeneration, {"gain_offset": 0, "resolution": 64}, {"gain_offset": 0}),
    "mmgeneration-schedule": (
        mmgeneration,
        {"ema": True, "embedding_spectral": False, "norm_eps": 1e-5},
        {"norm_eps": 1e-5},
    ),
    "mmgeneration-no-spectral-norm": (mmgeneration, {"spectral": False, "embedding_spectral": False}, {}),
    "mmgeneration-rgb": (mmgeneration, {"channel_order": "RGB"}, {"channel_order": "RGB"}),
    "huggingface-128": (huggingface, {"resolution": 128, "ch": 8}, {}),
    **{
        f"huggingface-truncation-{t}": (huggingface, {"truncation": t, "resolution": 32}, {"truncation": t})
        for t in (0.02, 0.14, 0.28, 0.3, 0.365, 0.56, 0.58, 0.94)
    },
    "huggingface-few-statistics": (huggingface, {"stats": 11, "truncation": 0.35}, {"truncation": "0.35"}),
    "huggingface-attention-early": (huggingface, {"attention_position": 4, "ch": 8}, {}),
}


def images_of(imported, z, labels):
    generator = imported.checkpoint.generator()
    assert next(generator.parameters()).dtype == torch.float64
    with torch.inference_mode():
        return generator(
            torch.from_numpy(z), torch.from_numpy(labels) if generator.config.conditional else None
        ).numpy()


def error_of(imported, expected, z, labels):
    return np.abs(images_of(imported, z, labels) - expected).max() / np.abs(expected).max()


def latents(options, count=2):
    random = np.random.default_rng(5)
    labels = np.arange(count) % max(1, options["classes"]) + (options["classes"] > count)
    return random.standard_normal((count, options["used_z_dim"])), labels


@pytest.mark.parametrize("name", CASES)
def test_the_import_draws_what_the_original_draws(name, tmp_path):
    peer, made, told = CASES[name]
    payload, options = peer.make(seed=len(name), **made)
    path = tmp_path / "weights.pth"
    torch.save(payload, path)
    imported = import_checkpoint(path, settings=told)
    z, labels = latents(options)
    assert error_of(imported, peer.draw(payload, z, labels, **options["semantics"]), z, labels) < TOLERANCE
    assert imported.checkpoint.config.image_size == options["resolution"]
    assert imported.checkpoint.config.num_classes == options["classes"]


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_file_with_raw_and_averaged_weights_gives_either(weights, tmp_path):
    payload, options = mmgeneration.make(seed=3, ema=True)
    torch.save(payload, tmp_path / "sagan.pth")
    imported = import_checkpoint(tmp_path / "sagan.pth", settings={"weights": weights})
    z, labels = latents(options)
    semantics = {**options["semantics"], "weights": weights}
    assert error_of(imported, mmgeneration.draw(payload, z, labels, **semantics), z, labels) < TOLERANCE
    assert ("EMA" in imported.report.detected["weights"]) == (weights == "ema")


def test_a_converted_file_is_rgb_by_its_name(tmp_path):
    payload, options = mmgeneration.make(seed=4, channel_order="RGB")
    path = tmp_path / "sagan_convert-studio-rgb_20210730.pth"
    torch.save(payload, path)
    z, labels = latents(options)
    expected = mmgeneration.draw(payload, z, labels, **options["semantics"])
    assert error_of(import_checkpoint(path), expected, z, labels) < TOLERANCE


def test_the_runs_own_options_are_read(tmp_path):
    payload, options = ajbrock.make(seed=5, model="deep", resolution=32, norm_eps=1e-4)
    torch.save(payload, tmp_path / "G.pth")
    torch.save(ajbrock.training_state(options), tmp_path / "state_dict.pth")
    imported = import_checkpoint([tmp_path / "state_dict.pth", tmp_path / "G.pth"])
    z, labels = latents(options)
    expected = ajbrock.draw(payload, z, labels, **options["semantics"])
    assert error_of(imported, expected, z, labels) < TOLERANCE
    assert imported.report.configured == {"activation": "relu", "norm_eps": 1e-4, "depth": 2}


def test_options_with_an_activation_module_are_read(tmp_path):
    payload, options = ajbrock.make(seed=6, activation="leaky_relu")
    torch.save(payload, tmp_path / "G.pth")
    state = ajbrock.training_state(options)
    state["config"]["G_activation"] = torch.nn.LeakyReLU(0.3, inplace=True)
    torch.save(state, tmp_path / "state_dict.pth")
    report = import_checkpoint([tmp_path / "G.pth", tmp_path / "state_dict.pth"]).report
    assert (report.configured["activation"], report.configured["activation_slope"]) == ("leaky_relu", 0.3)


def test_huggingfaces_own_config_is_read(tmp_path):
    payload, options = huggingface.make(seed=7, norm_eps=1e-3)
    torch.save(payload, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(options["config"]))
    imported = import_checkpoint([tmp_path / "pytorch_model.bin", tmp_path / "config.json"])
    z, labels = latents(options)
    expected = huggingface.draw(payload, z, labels, config=options["config"])
    assert error_of(imported, expected, z, labels) < TOLERANCE
    assert "norm_eps" not in imported.report.assumed
