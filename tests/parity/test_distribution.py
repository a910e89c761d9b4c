"""The distribution lane: right files keep it, files that draw another distribution do not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sagan_deploy.distances import kernel_distance
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.parity.cases import Pool
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.distribution import open_lane
from sagan_deploy.parity.policy import Change, Policy
from sagan_deploy.parity.yardstick import draw_in

COUNT = 32


@pytest.fixture(scope="module")
def generator(checkpoint):
    return checkpoint.generator()


@pytest.fixture(scope="module")
def lane(generator):
    return open_lane(generator, COUNT)


def gates(lane, draw, policy=None):
    return {gate.rule: gate for gate in lane.gates(draw, "fp16", policy or Policy())}


def painter(generator, change=lambda images: images):
    return lambda z, labels: change(draw_in("fp32", generator, Pool(z, labels)))


def test_the_network_itself_keeps_it_and_codes_do_too(lane, generator):
    found = gates(lane, painter(generator))
    assert all(gate.passed for gate in found.values())
    assert found["distribution.frechet"].value < 1e-6 < found["distribution.frechet"].limit
    codes = painter(generator, lambda images: np.rint(images * 127.5 + 127.5).astype(np.uint8).transpose(0, 2, 3, 1))
    assert all(gate.passed for gate in gates(lane, codes).values())


@pytest.mark.parametrize(
    "change",
    [lambda x: 0.8 * x, lambda x: x[:, ::-1], lambda x: np.roll(x, 1, axis=1), lambda x: np.repeat(x[:1], len(x), 0)],
    ids=["contrast", "channels reversed", "channels rolled", "one image for all"],
)
def test_another_distribution_does_not(lane, generator, change):
    found = gates(lane, painter(generator, change))
    assert not found["distribution.frechet"].passed


def test_noise_that_keeps_the_mean_is_seen_by_the_kernel_distance_too(lane, generator):
    source = np.random.default_rng(0)
    found = gates(lane, painter(generator, lambda x: np.clip(x + source.normal(0, 0.5, x.shape), -1, 1)))
    assert not any(gate.passed for gate in found.values())


def test_nan_never_passes(lane, generator):
    (gate,) = gates(lane, painter(generator, lambda x: x * np.nan)).values()
    assert not gate.passed


def test_the_kernel_distance_is_the_sum_over_pairs():
    source = np.random.default_rng(1)
    a, b = source.normal(size=(5, 3)), source.normal(size=(4, 3)) + 1

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between)


def extractor(path, channels=3):
    """Means of the channels as an ONNX file."""
    node = helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["f"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, None, None])
    made = helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", channels])
    model = helper.make_model(
        helper.make_graph(node, "mean", [given], [made]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(model, path)
    return path


def test_features_of_a_file(generator, tmp_path):
    lane = open_lane(generator, 16, features=extractor(tmp_path / "mean.onnx"))
    assert lane.ours.shape == (16, 3)
    images = draw_in("fp32", generator, lane.pool)
    np.testing.assert_allclose(lane.ours, images.mean(axis=(2, 3)), atol=1e-6)
    assert "mean.onnx" in gates(lane, painter(generator))["distribution.frechet"].derivation


def test_what_cannot_be_an_extractor_is_refused(generator, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.onnx is no ONNX feature extractor"):
        open_lane(generator, 16, features=tmp_path / "x.onnx")
    with pytest.raises(InputError, match="does not take images of shape"):
        open_lane(generator, 16, features=extractor(tmp_path / "grey.onnx", channels=1))
    with pytest.raises(ConfigError, match="at least 16"):
        open_lane(generator, 3)


def test_judge_adds_the_gates_and_a_policy_can_change_them(checkpoint, exported, tmp_path):
    path = tmp_path / "fp16.onnx"
    path.write_bytes(exported["fp16"])
    leg = judge(checkpoint, [path], count=2, distribution=16).legs[-1]
    assert leg.status == "passed"
    assert [gate.rule for gate in leg.gates][-2:] == ["distribution.frechet", "distribution.kernel"]
    strict = Policy({"fp16.distribution.frechet": Change(1e-12, "nothing may move in this test")})
    leg = judge(checkpoint, [path], strict, count=2, distribution=16).legs[-1]
    assert (leg.status, leg.reason.split()[0]) == ("failed", "distribution.frechet")
