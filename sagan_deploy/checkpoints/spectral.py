"""The weight that a layer really used, W/σ, from each way in which public code stores spectral norm.

Spectral norm (Miyato et al. 2018, arXiv 1802.05957) divides W by an estimate of its largest singular value. What a
trained network computes depends on that estimate to the last digit, so each origin's own is repeated here, in
float64, and nothing of it is left in the imported layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from sagan_deploy.errors import InputError

# stored: the u and v (or the divided weight) in the file are used as they lie there, as `eval()` does.
# iterate: one power iteration from the stored u comes first, as layers in training mode do.
SpectralNorm = Literal["stored", "iterate"]
_TINY = 1e-12

# What lies beside `weight`, by storage form. The first form whose names are all there is the layer's.
_FORMS = {
    "torch": ("weight_orig", "weight_u", "weight_v"),  # torch.nn.utils.spectral_norm since 1.0
    "torch-0.4.1": ("weight_orig", "weight", "weight_u"),  # the same in 0.4.1, and copies of it
    "wrapper": ("module.weight_bar", "module.weight_u", "module.weight_v"),  # the wrapper module of heykeetae
    "buffers": ("weight", "u0"),  # ajbrock: `sv0` is a log of the last training step, never a divisor
    "none": ("weight",),
}
_HALVES = ("weight_orig", "module.weight_bar")


def form_of(keys: Iterable[str], layer: str) -> str:
    """Which storage form a layer has; a layer that is not there has the plain one, so that `weight` is missed."""
    present = {key.removeprefix(layer + ".") for key in keys if key.startswith(layer + ".")}
    for form, names in _FORMS.items():
        if present.issuperset(names):
            return form
    if "weight_orig" in present:
        return "torch"
    return "wrapper" if "module.weight_bar" in present else "none"


def stored_names(keys: Iterable[str], layer: str) -> tuple[str, ...]:
    """The full names of the tensors that `effective_weight` reads."""
    return tuple(f"{layer}.{name}" for name in _FORMS[form_of(keys, layer)])


def effective_weight(state: Mapping[str, Tensor], layer: str, mode: SpectralNorm) -> Tensor:
    """W/σ in float64; W as it is for a layer without spectral norm.

    Args:
        state: the tensors of the file; those of `stored_names` must be there.
        layer: the layer's name.
        mode: see `SpectralNorm`. The wrapper and the buffers iterate in evaluation mode too, whatever is asked.

    Raises:
        InputError: shapes that contradict each other, or σ is zero or not finite.
    """
    tensors = [state[name].double() for name in stored_names(state, layer)]
    form = form_of(state, layer)
    if form == "none":
        return tensors[0]
    if form == "torch-0.4.1":
        original, divided, u = tensors
        if mode == "stored":
            return divided  # that release kept the divided weight and used it in evaluation
        return original / _checked(layer, _iterated(layer, original, u, tiny_added=False))
    weight, u = tensors[0], tensors[1].flatten()
    if form == "torch" and mode == "stored":
        return weight / _checked(layer, _product(layer, weight, u, tensors[2]))
    # Rows are dimension 0 in every form, in the wrapper also for transposed convolutions.
    return weight / _checked(layer, _iterated(layer, weight, u, tiny_added=form == "wrapper"))


def _product(layer: str, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """σ = uᵀWv with u and v as stored: no normalisation."""
    matrix = _matrix(layer, weight, u)
    if v.numel() != matrix.shape[1]:
        raise InputError(f"{layer}: weight_v has {v.numel()} entries, the weight {tuple(weight.shape)} needs another")
    return torch.dot(u.flatten(), matrix @ v.flatten())


def _iterated(layer: str, weight: Tensor, u: Tensor, *, tiny_added: bool) -> Tensor:
    """σ after one power iteration: v = Wᵀu/‖Wᵀu‖, u' = Wv/‖Wv‖, σ = u'ᵀWv."""
    matrix = _matrix(layer, weight, u)
    v = _unit(matrix.T @ u.flatten(), tiny_added=tiny_added)
    image = matrix @ v
    return torch.dot(_unit(image, tiny_added=tiny_added), image)


def _matrix(layer: str, weight: Tensor, u: Tensor) -> Tensor:
    matrix = weight.flatten(1)
    if u.numel() != matrix.shape[0]:
        raise InputError(
            f"{layer}: its u has {u.numel()} entries, but the weight {tuple(weight.shape)} has {matrix.shape[0]} rows"
        )
    return matrix


def _unit(vector: Tensor, *, tiny_added: bool) -> Tensor:
    length: Tensor = vector.norm()
    return vector / (length + _TINY if tiny_added else length.clamp_min(_TINY))


def _checked(layer: str, sigma: Tensor) -> Tensor:
    if not bool(sigma.isfinite()) or float(sigma) == 0.0:
        raise InputError(
            f"{layer}: the stored spectral norm is {float(sigma)}; the file was saved before the first training step, "
            f"or is damaged. With --set spectral_norm=iterate it may still be usable."
        )
    return sigma
