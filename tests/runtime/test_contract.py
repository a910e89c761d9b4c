"""What may go in, and in which words everything else is refused."""

import numpy as np
import pytest

from sagan_deploy.errors import InputError
from sagan_deploy.runtime.contract import Contract, contract_of_metadata
from tests.tiny_models import CONFIG, NAMES, UNCONDITIONAL, tiny_metadata

F32, F16, U8 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint8)
CONTRACT = Contract(CONFIG, NAMES, "fp32", "float", F32, F32)
FREE = Contract(UNCONDITIONAL, (), "fp32", "float", F32, F32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_latents_are_converted(dtype):
    z = np.ones((2, 8), dtype)
    checked = CONTRACT.check_latents(z)
    assert checked.dtype == np.float32
    assert checked.shape == (2, 8)


def test_right_latents_are_not_copied():
    z = np.ones((2, 8), np.float32)
    assert CONTRACT.check_latents(z) is z


def test_strided_latents_become_contiguous():
    z = np.arange(32, dtype=np.float32).reshape(2, 16)[:, ::2]
    checked = CONTRACT.check_latents(z)
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, z)


@pytest.mark.parametrize(
    ("z", "words"),
    [
        (np.ones((2, 8), np.int64), "int64"),
        (np.ones((2, 8), np.complex64), "complex64"),
        (np.array([["a"] * 8]), "floating"),
        (np.ones(8, np.float32), r"\(8,\)"),
        (np.ones((2, 7), np.float32), r"\(2, 7\).*\(n, 8\)"),
        (np.ones((2, 8, 1), np.float32), r"\(2, 8, 1\)"),
        (np.float32(1), r"\(\)"),
        (np.array([[1.0] * 8, [np.nan] + [0.0] * 7]), "row 1"),
        (np.array([[np.inf] * 8]), "row 0"),
        (np.full((1, 8), 1e300), "float32"),
    ],
)
def test_wrong_latents(z, words):
    with pytest.raises(InputError, match=words):
        CONTRACT.check_latents(z)


def test_latents_that_only_float16_cannot_hold():
    contract = Contract(CONFIG, NAMES, "fp16", "float", F16, F32)
    assert contract.check_latents(np.full((1, 8), 1e4)).dtype == np.float16
    with pytest.raises(InputError, match="float16"):
        contract.check_latents(np.full((1, 8), 1e5))


@pytest.mark.parametrize("labels", [[0, 2], (1, 1), np.array([0, 2], np.uint8), np.array([0, 2], np.int32)])
def test_labels_become_int64(labels):
    assert CONTRACT.check_labels(labels, 2).dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, r"needs labels.*0\.\.2"),
        ([0, 3], "label 3"),
        ([-1, 0], "label -1"),
        (np.array([0, 2**63], np.uint64), "label 9223372036854775808"),
        ([0], r"\(1,\)"),
        ([[0], [1]], r"\(2, 1\)"),
        (0, r"\(\)"),
        ([0.0, 1.0], "float64"),
        ([True, False], "bool"),
        (["red", "blue"], "integers"),
    ],
)
def test_wrong_labels(labels, words):
    with pytest.raises(InputError, match=words):
        CONTRACT.check_labels(labels, 2)


def test_unconditional_takes_none():
    assert FREE.check_labels(None, 2) is None
    with pytest.raises(InputError, match="unconditional"):
        FREE.check_labels([0, 0], 2)
    with pytest.raises(InputError, match="unconditional"):
        FREE.class_numbers([0])


def test_classes_by_number_and_name():
    assert CONTRACT.class_numbers(["blue", 0, "1", np.int64(2)]) == [2, 0, 1, 2]


def test_a_name_that_looks_like_a_number_wins():
    digits = Contract(CONFIG, ("2", "1", "0"), "fp32", "float", F32, F32)
    assert digits.class_numbers(["2", 2]) == [0, 2]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["pink"], "red, green, blue"),
        ([3], r"0\.\.2"),
        (["-1"], r"0\.\.2"),
        ([], "list"),
        ("red", "list"),
        ([True], "number or a name"),
        ([1.5], "number or a name"),
    ],
)
def test_wrong_classes(classes, words):
    with pytest.raises(InputError, match=words):
        CONTRACT.class_numbers(classes)


def test_metadata_of_another_origin():
    with pytest.raises(InputError, match=r"another origin.*sagan-deploy export"):
        contract_of_metadata({"author": "x"}, F32, F32, "m.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [("config", "{"), ("config", "[]"), ("config", '{"z_dim": "8"}'), ("class_names", '["a"]'), ("output", "jpeg")],
)
def test_damaged_metadata(key, value):
    metadata = tiny_metadata(CONFIG, NAMES, "fp32", "float") | {"sagan_deploy." + key: value}
    with pytest.raises(InputError, match=r"m\.onnx has damaged metadata"):
        contract_of_metadata(metadata, F32, F32, "m.onnx")
