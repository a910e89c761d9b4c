"""The judges are held against what the public implementations drew, before anything is held against the judges.

`fixtures/` holds files written by the public classes with random weights, and what those classes drew from them.
The optimiser states of `mimicry32` and `studiogan_legacy` are emptied; three folders share a sibling's checkpoint.
"""

import io
import json
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

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

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(case.parent.name for case in FIXTURES.glob("*/case.json"))
SAME_CHECKPOINT = {
    "studiogan_stored_uv": "studiogan",
    "hf_biggan_deep_t0p35": "hf_biggan_deep",
    "hf_biggan_deep_t0p4": "hf_biggan_deep",
}
PEERS = {
    "heykeetae": heykeetae,
    "voletiv": voletiv,
    "biggan-pytorch": ajbrock,
    "mimicry": mimicry,
    "studiogan": studiogan,
    "rosinality": rosinality,
    "mmgeneration": mmgeneration,
    "huggingface-biggan": huggingface,
}
MADE: list[tuple[ModuleType, dict]] = [
    (heykeetae, {}),
    (heykeetae, {"resolution": 32}),
    (heykeetae, {"spectral": False, "tracked": False}),
    (heykeetae, {"resolution": 32, "spectral": False}),
    (heykeetae, {"attention_map": "untransposed", "data_parallel": True}),
    (voletiv, {}),
    (voletiv, {"spectral_form": "T0", "optimizers": "filled"}),
    (ajbrock, {}),
    (ajbrock, {"resolution": 32, "attention": ()}),
    (ajbrock, {"resolution": 128, "attention": (64,), "tracked": 2, "data_parallel": True}),
    (ajbrock, {"resolution": 256, "attention": (32,), "ch": 2}),
    (ajbrock, {"model": "biggan", "hub": True, "attention": (16, 32)}),
    (ajbrock, {"model": "biggan", "shared_dim": 0, "activation": "leaky_relu"}),
    (ajbrock, {"model": "shared", "norm_eps": 1e-3}),
    (ajbrock, {"model": "deep"}),
    (ajbrock, {"model": "deep", "resolution": 32, "attention": (16,), "depth": 3}),
    (ajbrock, {"model": "deep", "spectral": False, "activation": "gelu"}),
    (ajbrock, {"spectral": False, "activation": "elu"}),
    (ajbrock, {"statistics": "cross_replica"}),
    (ajbrock, {"statistics": "mybn"}),
    (ajbrock, {"model": "biggan", "statistics": "mybn", "accumulated": 3}),
    (mimicry, {}),
    (mimicry, {"resolution": 128, "optimizer": None}),
    (mimicry, {"bottom_width": 3, "optimizer": "filled", "data_parallel": True}),
    (studiogan, {}),
    (studiogan, {"layout": "legacy", "spectral_norm": "stored"}),
    (studiogan, {"layout": "legacy", "spectral": False}),
    (studiogan, {"ema": True, "data_parallel": True}),
    (studiogan, {"conditional": False, "activation": "leaky_relu"}),
    (studiogan, {"conditional": False, "spectral": False}),
    (studiogan, {"resolution": 64, "attention": (1, 3)}),
    (studiogan, {"resolution": 128, "attention": (4,), "activation": "gelu"}),
    (studiogan, {"backbone": "big_resnet"}),
    (studiogan, {"backbone": "big_resnet", "resolution": 64, "z_dim": 15, "ema": True, "attention": (2,)}),
    (rosinality, {}),
    (rosinality, {"model": "dcgan", "fresh": True}),
    (mmgeneration, {}),
    (mmgeneration, {"gain_offset": 0, "resolution": 64, "channel_order": "RGB"}),
    (mmgeneration, {"gain_offset": 0, "embedding_spectral": False, "norm_eps": 1e-5, "ema": True}),
    (mmgeneration, {"resolution": 128, "attention": (3, 4), "optimizer": True}),
    (mmgeneration, {"spectral": False, "embedding_spectral": False, "attention": ()}),
    (huggingface, {}),
    (huggingface, {"resolution": 32, "truncation": 0.35}),
    (huggingface, {"resolution": 128, "truncation": 0.58, "norm_eps": 1e-3}),
]


def short(peer: ModuleType, options: dict) -> str:
    return "-".join([peer.__name__.rpartition(".")[2], *(f"{key}={value}" for key, value in options.items())])


MADE_PARAMETERS = [pytest.param(peer, options, id=short(peer, options)) for peer, options in MADE]


@pytest.mark.parametrize("name", CASES)
def test_the_judge_draws_what_the_public_implementation_drew(name: str) -> None:
    folder = FIXTURES / name
    case = json.loads((folder / "case.json").read_text())
    payload = torch.load(FIXTURES / SAME_CHECKPOINT.get(name, name) / case["files"][0], weights_only=True)
    with np.load(folder / "io.npz") as arrays:
        z, labels, images = arrays["z"], arrays.get("labels"), arrays["images"]
    drawn = PEERS[case["from"]].draw(payload, z, labels, **case["set"])
    assert drawn.dtype == np.float64
    assert np.abs(drawn - images).max() <= 1e-9 * np.abs(images).max()


@pytest.mark.parametrize(("peer", "given"), MADE_PARAMETERS)
def test_a_made_checkpoint_loads_safely_and_draws_a_lively_picture(peer: ModuleType, given: dict) -> None:
    payload, options = peer.make(3, **given)
    file = io.BytesIO()
    torch.save(payload, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    draw = partial(peer.draw, **options["semantics"])
    z = torch.randn(2, options["used_z_dim"], generator=torch.Generator().manual_seed(11))
    labels = np.array([0, options["classes"] - 1]) if options["classes"] else None

    drawn = draw(loaded, z, labels)
    assert np.array_equal(drawn, draw(payload, z, labels))
    assert drawn.shape == (2, 3, options["resolution"], options["resolution"])
    assert np.isfinite(drawn).all()
    assert (np.abs(drawn) < 0.95).mean() > 0.8
    assert drawn.std(axis=(2, 3)).mean() > 0.05
    assert np.abs(draw(loaded, z.flip(0), labels) - drawn).max() > 0.1
    if labels is not None:
        assert np.abs(draw(loaded, z, labels[::-1].copy()) - drawn).max() > 0.1
    for state, key in attentions(loaded):
        state[key].zero_()
        changed = np.abs(draw(loaded, z, labels) - drawn).max()
        unused = given.get("resolution") == 32 and key == "attn2.gamma"
        assert (changed == 0) if unused else (changed > 1e-2)
        drawn = draw(loaded, z, labels)


def attentions(payload: dict) -> list[tuple[dict, str]]:
    """Every gamma of the generator that `draw` reads."""
    states = [payload.get(name) for name in ("state_dict", "G_state_dict", "model_state_dict")]
    state = next((state for state in states if state), payload)
    keys = [key for key in state if key.endswith((".gamma", ".sigma")) and not key.startswith("discriminator.")]
    averaged = [key for key in keys if key.startswith("generator_ema.")]
    return [(state, key) for key in averaged or keys]


@pytest.mark.parametrize(
    ("peer", "given", "semantics"),
    [
        (heykeetae, {}, {"attention_map": "untransposed"}),
        (ajbrock, {}, {"norm_eps": 1e-4}),
        (ajbrock, {}, {"activation": "leaky_relu"}),
        (studiogan, {}, {"spectral_norm": "stored"}),
        (studiogan, {"ema": True}, {"spectral_norm": "stored"}),
        (studiogan, {}, {"activation": "elu"}),
        (mmgeneration, {}, {"gain_offset": 0}),
        (mmgeneration, {}, {"channel_order": "RGB"}),
        (mmgeneration, {}, {"norm_eps": 1e-5}),
        (mmgeneration, {"ema": True}, {"weights": "raw"}),
        (huggingface, {}, {"truncation": 0.4}),
        (huggingface, {"truncation": 0.4}, {"truncation": 0.41}),
    ],
    ids=str,
)
def test_a_wrong_reading_shows(peer: ModuleType, given: dict, semantics: dict) -> None:
    payload, options = peer.make(5, **given)
    z = torch.randn(1, options["used_z_dim"], generator=torch.Generator().manual_seed(12))
    right = peer.draw(payload, z, [1], **options["semantics"])
    wrong = peer.draw(payload, z, [1], **{**options["semantics"], **semantics})
    assert np.abs(right - wrong).max() > 1e-5


def test_the_depth_of_a_deep_generator_shows_in_its_widths_except_where_they_stay() -> None:
    z = torch.zeros(1, 12)
    for resolution in (64, 128):
        payload, options = ajbrock.make(1, model="deep", resolution=resolution, depth=3)
        told = ajbrock.draw(payload, z, [0], **options["semantics"])
        assert np.array_equal(ajbrock.draw(payload, z, [0]), told)
    payload, _ = ajbrock.make(1, model="deep", resolution=32, depth=3)
    with pytest.raises(ValueError, match="depth"):
        ajbrock.draw(payload, z, [0])


def test_the_training_state_beside_an_ajbrock_checkpoint_loads_safely_and_tells_its_settings() -> None:
    _, options = ajbrock.make(2, model="biggan", z_dim=23, attention=(16, 32), norm_eps=1e-3)
    file = io.BytesIO()
    torch.save(ajbrock.training_state(options), file)
    file.seek(0)
    config = torch.load(file, weights_only=True)["config"]
    told = {key: config[key] for key in ("model", "G_attn", "BN_eps", "dim_z", "hier", "G_shared", "shared_dim")}
    expected = {"model": "BigGAN", "G_attn": "16_32", "BN_eps": 1e-3, "dim_z": 23, "hier": True}
    assert told == {**expected, "G_shared": True, "shared_dim": 6}
    assert options["used_z_dim"] == 20


def test_accumulated_statistics_are_divided_by_their_count() -> None:
    z = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    payload, _ = ajbrock.make(4)
    sums, _ = ajbrock.make(4, statistics="mybn", accumulated=4)
    assert np.allclose(ajbrock.draw(payload, z, [2]), ajbrock.draw(sums, z, [2]), rtol=0, atol=1e-5)
