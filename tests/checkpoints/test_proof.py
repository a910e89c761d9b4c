"""`--check`: an import against the original's pictures, and the setting that explains a difference."""

import numpy as np
import pytest
import torch

from sagan_deploy.checkpoints.importing import import_opened, open_checkpoint
from sagan_deploy.checkpoints.proof import prove, read_examples
from sagan_deploy.checkpoints.settings import parse_settings
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError
from tests.checkpoints.cases import fixture
from tests.checkpoints.peers import mmgeneration


def proof_of(name, **told):
    case = fixture(name)
    opened = open_checkpoint(case.files)
    imported = import_opened(opened, parse_settings(told))
    return prove(opened, imported, read_examples(case.examples, imported.checkpoint.config))


@pytest.mark.parametrize(
    ("name", "told", "cause"),
    [
        ("mmgeneration_rawgain", {}, {"gain_offset": 0}),
        ("heykeetae_june08", {}, {"attention_map": "untransposed"}),
        ("studiogan_stored_uv", {}, {"spectral_norm": "stored"}),
        ("studiogan_ema", {"spectral_norm": "stored"}, {"spectral_norm": "iterate"}),
        ("mimicry32", {"norm_eps": 1e-3}, {"norm_eps": 1e-5}),
        ("mmgeneration", {"channel_order": "rgb"}, {"channel_order": "bgr"}),
        ("ajbrock_biggan", {"activation": "elu"}, {"activation": "relu"}),
        ("hf_biggan_deep_t0p35", {}, {"truncation": 0.35}),
        ("rosinality_dcgan", {"spectral_norm": "stored"}, {"spectral_norm": "iterate"}),
        ("mmgeneration_rawgain", {"channel_order": "rgb"}, {"gain_offset": 0, "channel_order": "bgr"}),
    ],
)
def test_the_cause_of_a_difference_is_named(name, told, cause):
    proof = proof_of(name, **told)
    assert not proof.passed
    assert proof.alternatives[0].settings == cause
    assert proof.alternatives[0].fits
    assert all(f"--set {key}={value}" in proof.sentence() for key, value in cause.items())


def test_the_named_cause_makes_it_pass():
    first = proof_of("mmgeneration_rawgain")
    assert proof_of("mmgeneration_rawgain", **first.alternatives[0].settings).passed


def test_pictures_of_another_file_fit_nothing(tmp_path):
    case = fixture("mimicry32")
    opened = open_checkpoint(case.files)
    imported = import_opened(opened, {})
    examples = read_examples(case.examples, imported.checkpoint.config)
    wrong = type(examples)(examples.z, examples.labels, np.roll(examples.images, 1, axis=3))
    proof = prove(opened, imported, wrong)
    assert not proof.passed
    assert not proof.alternatives[0].fits
    assert "none of" in proof.sentence()
    assert "belong together" in proof.sentence()


def test_pictures_computed_in_float32_are_suspected():
    case = fixture("mimicry32")
    opened = open_checkpoint(case.files)
    imported = import_opened(opened, {})
    examples = read_examples(case.examples, imported.checkpoint.config)
    noisy = examples.images + 1e-5 * np.random.default_rng(0).standard_normal(examples.images.shape)
    proof = prove(opened, imported, type(examples)(examples.z, examples.labels, noisy))
    assert not proof.passed
    assert ".double()" in proof.sentence()


def test_nan_is_no_agreement():
    case = fixture("mimicry32")
    opened = open_checkpoint(case.files)
    imported = import_opened(opened, {})
    imported.checkpoint.state["tail.conv.bias"].fill_(float("nan"))
    assert not prove(opened, imported, read_examples(case.examples, imported.checkpoint.config)).passed


CONFIG = GeneratorConfig(z_dim=4, num_classes=3, widths=(8, 8), norm="class_table")
GOOD = {"z": np.zeros((2, 4)), "labels": np.array([0, 2]), "images": np.full((2, 3, 8, 8), 0.5)}


def test_examples_are_read(tmp_path):
    np.savez(tmp_path / "io.npz", **GOOD)
    examples = read_examples(tmp_path / "io.npz", CONFIG)
    assert examples.images.dtype == np.float64
    assert examples.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "lacks images"),
        ({"labels": None}, "lacks labels"),
        ({"z": np.zeros((2, 5))}, r"z has shape \(2, 5\); expected \(2, 4\)"),
        ({"images": np.zeros((2, 8, 8, 3))}, "images has shape"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, "floating-point"),
        ({"images": np.full((2, 3, 8, 8), np.nan)}, "finite"),
        ({"images": np.full((2, 3, 8, 8), 200.0)}, r"\[-1, 1\]"),
        ({"images": np.zeros((2, 3, 8, 8))}, "not be all zero"),
        ({"labels": np.array([0, 3])}, "from 0 to 2"),
        ({"labels": np.array([0.0, 1.0])}, "whole numbers"),
        ({"z": np.zeros((0, 4)), "labels": np.zeros(0, int), "images": np.zeros((0, 3, 8, 8))}, "n from 1"),
        ({"z": np.array([{}, {}])}, "plain arrays"),
    ],
)
def test_examples_that_do_not_belong_here_are_refused(tmp_path, change, message):
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "io.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / "io.npz", CONFIG)


def test_a_torn_archive_is_refused(tmp_path):
    np.savez(tmp_path / "io.npz", **GOOD)
    payload = (tmp_path / "io.npz").read_bytes()
    for length in (0, 10, len(payload) // 2, len(payload) - 1):
        (tmp_path / "io.npz").write_bytes(payload[:length])
        with pytest.raises(InputError):
            read_examples(tmp_path / "io.npz", CONFIG)


def test_the_search_reports_its_progress(tmp_path):
    payload, _ = mmgeneration.make(seed=1, gain_offset=0)
    torch.save(payload, tmp_path / "g.pth")
    opened = open_checkpoint([tmp_path / "g.pth"])
    imported = import_opened(opened, {})
    config = imported.checkpoint.config
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "io.npz",
        z=random.standard_normal((1, config.z_dim)),
        labels=np.array([1]),
        images=random.uniform(-1, 1, (1, 3, 32, 32)),
    )
    seen = []
    prove(opened, imported, read_examples(tmp_path / "io.npz", config), progress=lambda *step: seen.append(step))
    assert seen
    assert seen[-1][1] == seen[-1][2]
