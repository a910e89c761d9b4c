"""What a precision costs a network: measured on the training form, independent of every export."""

import copy

import numpy as np
import pytest
import torch

from sagan_deploy.parity.cases import make_cases
from sagan_deploy.parity.depth import Depth
from sagan_deploy.parity.gates import distances
from sagan_deploy.parity.policy import Policy
from sagan_deploy.parity.reference import draw_float64
from sagan_deploy.parity.yardstick import draw_in
from tests.generators import CONFIGS, tiny_generator


@pytest.fixture(scope="module")
def setting():
    generator = tiny_generator(CONFIGS["sagan"])
    pool, _ = make_cases(generator.config, seed=0, count=4)
    return generator, pool, draw_float64(generator, pool)


def test_float32_is_pytorchs_own(setting):
    generator, pool, reference = setting
    with torch.inference_mode():
        expected = generator(torch.from_numpy(pool.z), torch.from_numpy(pool.labels)).numpy()
    np.testing.assert_allclose(draw_in("fp32", generator, pool), expected, atol=2e-6)
    assert 0 < distances(draw_in("fp32", generator, pool), reference)["tensor.rel_l2"] < 1e-5


@pytest.mark.parametrize(("precision", "half"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_every_result_is_a_half_value(setting, precision, half):
    generator, pool, _ = setting
    images = torch.from_numpy(draw_in(precision, generator, pool))
    assert torch.equal(images, images.to(half).double())


def test_coarser_types_lose_more_by_their_unit_roundoff(setting):
    generator, pool, reference = setting
    lost = {p: distances(draw_in(p, generator, pool), reference)["tensor.rel_l2"] for p in ("fp32", "fp16", "bf16")}
    assert 4 < lost["bf16"] / lost["fp16"] < 16  # eight times coarser
    assert 2**10 < lost["fp16"] / lost["fp32"] < 2**15


def test_results_inside_the_network_are_rounded_too(setting):
    generator, pool, reference = setting
    rounded_at_the_end = torch.from_numpy(reference).half().double().numpy()
    at_the_end = distances(rounded_at_the_end, reference)["tensor.rel_l2"]
    assert distances(draw_in("fp16", generator, pool), reference)["tensor.rel_l2"] > 2 * at_the_end


def test_the_generator_is_left_alone(setting):
    generator, pool, _ = setting
    before = copy.deepcopy(generator.state_dict())
    draw_in("fp16", generator, pool)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert generator.stem.linear.weight.dtype == torch.float32


DEPTH = Depth(16, 1000)


def test_limits_grow_with_what_the_network_amplifies_and_say_so():
    plain = Policy().limits("fp16", DEPTH)
    lively = {"tensor.rel_l2": 0.02, "tensor.max_abs": 0.05, "image.ssim": 0.999, "image.code_bias": 0.1}
    amplified = Policy().limits("fp16", DEPTH, lively)
    assert amplified["tensor.rel_l2"].value == pytest.approx(0.06)
    assert "3 × 0.02, what PyTorch's training form loses in fp16" in amplified["tensor.rel_l2"].derivation
    assert amplified["tensor.max_abs"].value == pytest.approx(0.15)
    assert amplified["image.code_difference"].value == 20
    assert amplified["image.ssim"].value == pytest.approx(0.991)
    assert amplified["image.code_bias"].value == pytest.approx(0.3)
    assert plain["tensor.rel_l2"].value < 0.006


def test_a_calm_network_keeps_the_derived_limits():
    calm = {"tensor.rel_l2": 1e-3, "tensor.max_abs": 1e-3, "image.ssim": 0.99999}
    assert Policy().limits("fp16", DEPTH, calm) == Policy().limits("fp16", DEPTH)


def test_no_network_excuses_everything():
    wild = {"tensor.rel_l2": 2.0, "tensor.max_abs": 2.0, "image.ssim": 0.0, "image.code_bias": 50.0}
    limits = Policy().limits("fp16", DEPTH, wild)
    assert limits["tensor.rel_l2"].value == 0.1
    assert "never more than 0.1" in limits["tensor.rel_l2"].derivation
    assert limits["tensor.max_abs"].value == 0.5
    assert limits["image.ssim"].value == 0.95
    assert limits["image.code_bias"].value == 0.4


def test_a_yardstick_that_overflowed_measures_nothing():
    broken = dict.fromkeys(("tensor.rel_l2", "tensor.max_abs", "image.ssim"), float("nan"))
    assert Policy().limits("fp16", DEPTH, broken) == Policy().limits("fp16", DEPTH)
