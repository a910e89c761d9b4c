"""Spectral norm in its five storage forms, against the equations in NumPy."""

import numpy as np
import pytest
import torch

from sagan_deploy.checkpoints.spectral import effective_weight, form_of
from sagan_deploy.errors import InputError

RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((4, 3, 2, 2))
OLD = RANDOM.standard_normal((4, 3, 2, 2))
U = RANDOM.standard_normal(4)
V = RANDOM.standard_normal(12)


def state(**tensors):
    return {f"l.{name.replace('__', '.')}": torch.from_numpy(value) for name, value in tensors.items()}


def iterated(w, u):
    m = w.reshape(w.shape[0], -1)
    v = m.T @ u
    v /= np.linalg.norm(v)
    mv = m @ v
    return mv / np.linalg.norm(mv) @ mv


TORCH = {"weight_orig": W, "weight_u": U, "weight_v": V}
OLD_TORCH = {"weight_orig": W, "weight": OLD, "weight_u": U}
FORMS = [
    (TORCH, "stored", W / np.einsum("i,ij,j", U, W.reshape(4, 12), V)),
    (TORCH, "iterate", W / iterated(W, U)),
    (OLD_TORCH, "stored", OLD),
    (OLD_TORCH, "iterate", W / iterated(W, U)),
    ({"module__weight_bar": W, "module__weight_u": U, "module__weight_v": V}, "stored", W / iterated(W, U)),
    ({"weight": W, "u0": U[None], "sv0": np.array([7.0]), "u1": U[None]}, "stored", W / iterated(W, U)),
    ({"weight": W}, "iterate", W),
]


@pytest.mark.parametrize(("tensors", "mode", "expected"), FORMS)
def test_each_form_has_its_own_divisor(tensors, mode, expected):
    found = effective_weight(state(**tensors), "l", mode).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.dtype == np.float64


def test_iterating_differs_from_what_is_stored():
    stored, iterated_once = (effective_weight(state(**TORCH), "l", mode) for mode in ("stored", "iterate"))
    assert not torch.allclose(stored, iterated_once, rtol=1e-3)


def test_float32_files_are_divided_in_float64():
    single = {name: tensor.float() for name, tensor in state(**TORCH).items()}
    exact = {name: tensor.double() for name, tensor in single.items()}
    assert torch.equal(effective_weight(single, "l", "iterate"), effective_weight(exact, "l", "iterate"))


def test_a_layer_that_is_not_there_has_the_plain_form():
    assert form_of(state(**TORCH), "other") == "none"
    assert form_of(state(weight_orig=W), "l") == "torch"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_u": np.zeros(4)}, "spectral norm is 0"),
        ({"weight_u": np.ones(5)}, "u has 5 entries"),
        ({"weight_v": np.ones(5)}, "weight_v has 5 entries"),
        ({"weight_u": np.full(4, np.nan)}, "spectral norm is nan"),
    ],
)
def test_a_divisor_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        effective_weight(state(**{**TORCH, **change}), "l", "stored")
