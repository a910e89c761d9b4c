"""Limits follow from the arithmetic, and a policy file changes them only with a reason."""

import math

import pytest

from sagan_deploy.errors import ConfigError
from sagan_deploy.parity.depth import Depth
from sagan_deploy.parity.policy import Policy, load_policy


def test_limits_are_the_papers_numbers():
    fp16 = Policy().limits("fp16", Depth(18, 4608))
    assert fp16["tensor.rel_l2"].value == pytest.approx(3 * math.sqrt(18) / 2048)
    assert fp16["tensor.max_abs"].value == pytest.approx(2 / 255)
    assert fp16["image.code_difference"].value == 1
    fp32 = Policy().limits("fp32", Depth(18, 4608))
    assert fp32["tensor.rel_l2"].value == pytest.approx(2**-24 * math.sqrt(18 * 4608))
    assert "K = 4608" in fp32["tensor.rel_l2"].derivation
    assert Policy().limits("bf16", Depth(18, 4608))["image.code_difference"].value == 6


def write(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_a_changed_limit_is_used_and_its_reason_is_told(tmp_path):
    text = '[fp16."tensor.rel_l2"]\nlimit = 0.01\nreason = "accepted by the art director"\n'
    policy = load_policy(write(tmp_path, text))
    limit = policy.limits("fp16", Depth(9, 100))["tensor.rel_l2"]
    assert limit.value == 0.01
    assert "accepted by the art director" in limit.derivation
    assert policy.limits("fp32", Depth(9, 100)) == Policy().limits("fp32", Depth(9, 100))
    assert "accepted by the art director" in policy.loosened()["fp16.tensor.rel_l2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml", "no TOML"),
        ('[fp4."tensor.rel_l2"]\nlimit = 1\nreason = "because I said so"', "fp4"),
        ('[fp16."tensor.rel_l3"]\nlimit = 1\nreason = "because I said so"', "no rule 'tensor.rel_l3'"),
        ('[fp16."tensor.rel_l2"]\nlimit = 0.01', "needs a reason"),
        ('[fp16."tensor.rel_l2"]\nlimit = 0.01\nreason = "ok"', "needs a reason"),
        ('[fp16."tensor.rel_l2"]\nlimit = nan\nreason = "because I said so"', "positive number"),
        ('[fp16."tensor.rel_l2"]\nlimit = -1\nreason = "because I said so"', "positive number"),
        ('[fp16."tensor.rel_l2"]\nlimits = 1\nreason = "because I said so"', "limit and reason"),
    ],
)
def test_a_policy_file_without_a_reason_or_sense_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_policy(write(tmp_path, text))
