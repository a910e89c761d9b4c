"""8-bit images are held to the limits of float images, and how their head rounds is seen."""

import dataclasses

import numpy as np
import onnx
import pytest

from sagan_deploy.images import to_uint8
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.cases import Case
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.gates import Drawn, gates_of
from sagan_deploy.parity.metrics import nearest_images
from sagan_deploy.parity.policy import Limit
from tests.exports import export_once
from tests.generators import CONFIGS, tiny_checkpoint


def test_the_nearest_image_rounds_to_the_same_codes_and_lies_no_further_than_what_was_rounded():
    rng = np.random.default_rng(0)
    reference = np.tanh(2 * rng.normal(size=(4, 3, 16, 16)))
    head = np.clip(reference + 0.02 * rng.normal(size=reference.shape), -1, 1)
    nearest = nearest_images(to_uint8(head), reference)
    assert (np.abs(nearest - reference) <= np.abs(head - reference) + 1e-12).all()
    towards = nearest + 1e-9 * np.sign(head - nearest)  # just inside the interval: its ends are ties
    np.testing.assert_array_equal(to_uint8(towards), to_uint8(head))
    np.testing.assert_array_equal(nearest_images(to_uint8(reference), reference), reference)


def test_the_end_codes_stand_for_everything_beyond_them():
    codes = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(nearest_images(codes, np.array([-1.0, 1.0]).reshape(1, 1, 1, 2)).ravel(), [-1, 1])


def test_a_flat_area_on_a_boundary_does_not_fail_a_file_and_a_shift_of_all_images_does():
    """100.5 is the boundary of two codes: an error of one millionth turns a whole flat image."""
    reference = np.tanh(np.random.default_rng(1).normal(size=(5, 3, 8, 8)))
    reference[0] = (100.5 - 127.5) / 127.5 - 1e-7
    drawn = [Drawn(Case("normal", tuple(range(5))), reference + 2e-7)]
    limits = {rule: Limit(0.25, "") for rule in ("image.code_share", "image.code_bias")}
    assert all(gate.passed for gate in gates_of(drawn, reference, limits))
    shifted = [Drawn(drawn[0].case, reference - 1 / 127.5)]
    assert [gate.passed for gate in gates_of(shifted, reference, limits)] == [False, False]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def heads(request, checkpoint):
    """Precision and payload of a file that writes 8 bits."""
    return request.param, export_once(checkpoint, InferenceOptions(precision=request.param, output="uint8")).payload


def judged(checkpoint, payload, tmp_path):
    path = tmp_path / "g.onnx"
    path.write_bytes(payload)
    return next(leg for leg in judge(checkpoint, [path], count=8).legs if leg.path is not None)


@pytest.mark.parametrize("operator", ["Floor", "Ceil"])
def test_a_head_that_truncates_is_caught_in_every_precision(checkpoint, heads, tmp_path, operator):
    precision, payload = heads
    right = judged(checkpoint, payload, tmp_path)
    assert right.status == "passed", right.reason
    assert {gate.rule for gate in right.gates} >= {"tensor.rel_l2", "tensor.max_abs", "image.code_bias"}
    model = onnx.load_from_string(payload)
    next(node for node in model.graph.node if node.op_type == "Round").op_type = operator
    wrong = judged(checkpoint, model.SerializeToString(), tmp_path)
    rules = {gate.rule for gate in wrong.failed_gates}
    assert rules >= {"image.code_bias", "image.code_share"}
    assert "tensor.rel_l2" in rules or precision == "fp16"  # half precision may be that far away by itself


@pytest.mark.parametrize("seed", [1, 2])
def test_a_right_file_passes_whatever_its_images_look_like(tmp_path, seed):
    checkpoint = dataclasses.replace(tiny_checkpoint(CONFIGS["two-attentions"], seed), sha256="00" * 32)
    payload = export_once(checkpoint, InferenceOptions(output="uint8")).payload
    leg = judged(checkpoint, payload, tmp_path)
    assert leg.status == "passed", leg.reason
