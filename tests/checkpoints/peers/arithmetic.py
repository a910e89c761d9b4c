"""What the public generators compute, in float64 and with plain functions.

A *reader* (`stored`, `iterated`, …) returns the weight a layer multiplies with, given the state and the layer's name;
a layer that carries no spectral norm is read as it is by all of them.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
Reader = Callable[[State, str], Tensor]
Norm = Callable[[Tensor, str, float], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "gelu": F.gelu,
}


def double(state: State) -> State:
    """The floating-point entries in float64."""
    return {key: value.detach().double() for key, value in state.items() if value.is_floating_point()}


def numbers(z: object) -> Tensor:
    return torch.as_tensor(np.asarray(z), dtype=torch.float64)


def classes(labels: object) -> Tensor:
    return torch.as_tensor(np.asarray(labels), dtype=torch.int64)


def pixels(x: Tensor) -> np.ndarray:
    return torch.tanh(x).numpy()


# -- spectral norm: the forms in which it is stored -------------------------------------------------------------------


def plain(state: State, name: str) -> Tensor:
    return state[f"{name}.weight"]


def stored(state: State, name: str) -> Tensor:
    """torch's hook in eval mode: sigma from the stored u and v as they are, neither normalised."""
    if f"{name}.weight_orig" not in state:
        return plain(state, name)
    weight = state[f"{name}.weight_orig"]
    return weight / torch.dot(state[f"{name}.weight_u"], weight.flatten(1) @ state[f"{name}.weight_v"])


def iterated(state: State, name: str) -> Tensor:
    """torch's hook left in train mode (StudioGAN's evaluator): one iteration from the stored u, eps 1e-6."""
    if f"{name}.weight_orig" not in state:
        return plain(state, name)
    weight = state[f"{name}.weight_orig"]
    return weight / _sigma(weight, state[f"{name}.weight_u"], lambda length: length.clamp_min(1e-6))


def kept(state: State, name: str) -> Tensor:
    """torch 0.4.1's hook in eval mode: the stored, already normalised weight."""
    return state[f"{name}.weight"]


def from_u0(state: State, name: str) -> Tensor:
    """ajbrock: one iteration from the stored row u0, thrown away afterwards; the logged sv0 plays no part."""
    weight = state[f"{name}.weight"]
    if f"{name}.u0" not in state:
        return weight
    return weight / _sigma(weight, state[f"{name}.u0"][0], lambda length: length.clamp_min(1e-12))


def wrapped(state: State, name: str) -> Tensor:
    """heykeetae's wrapper: one iteration; dim 0 gives the rows, so a transposed conv has its in channels there."""
    if f"{name}.module.weight_bar" not in state:
        return plain(state, name)
    weight = state[f"{name}.module.weight_bar"]
    return weight / _sigma(weight, state[f"{name}.module.weight_u"], lambda length: length + 1e-12)


def hooked(state: State, name: str) -> Tensor:
    """rosinality's hook: one iteration from the stored u, which need not be a unit vector; `weight` is ignored."""
    weight = state[f"{name}.weight_orig"]
    return weight / _sigma(weight, state[f"{name}.weight_u"], lambda length: length)


def _sigma(weight: Tensor, u: Tensor, guard: Callable[[Tensor], Tensor]) -> Tensor:
    matrix = weight.flatten(1)
    v = matrix.T @ u
    v = v / guard(torch.linalg.vector_norm(v))
    product = matrix @ v
    return torch.dot(product / guard(torch.linalg.vector_norm(product)), product)


# -- layers -----------------------------------------------------------------------------------------------------------


def linear(x: Tensor, state: State, name: str, read: Reader) -> Tensor:
    return F.linear(x, read(state, name), state.get(f"{name}.bias"))


def conv(x: Tensor, state: State, name: str, read: Reader) -> Tensor:
    """3×3 with padding 1 or 1×1, by the weight's own shape; a missing bias is none."""
    weight = read(state, name)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def per_channel(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """gain·x + shift with vectors [C] or one row per sample [N, C]."""
    return x * gain.reshape(-1, x.shape[1], 1, 1) + shift.reshape(-1, x.shape[1], 1, 1)


def normalise(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (x - mean.reshape(1, -1, 1, 1)) / torch.sqrt(variance.reshape(1, -1, 1, 1) + eps)


def running(state: State) -> Norm:
    """Batch norm without its affine part, from `running_mean` and `running_var` under a name."""

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return normalise(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], eps)

    return norm


def affine(x: Tensor, state: State, name: str, norm: Norm, eps: float) -> Tensor:
    """Batch norm with its own weight and bias."""
    return per_channel(norm(x, name, eps), state[f"{name}.weight"], state[f"{name}.bias"])


def residual(
    x: Tensor,
    norms: list[Callable[[Tensor], Tensor]],
    convs: list[Callable[[Tensor], Tensor]],
    grow: Callable[[Tensor], Tensor] = nearest,
    act: Callable[[Tensor], Tensor] = torch.relu,
) -> Tensor:
    """The 2-conv block of them all; `convs` are the two main convs and the skip, which sees the grown raw input."""
    first, second, skip = convs
    h = first(grow(act(norms[0](x))))
    h = second(act(norms[1](h)))
    return h + skip(grow(x))


def bottleneck(
    x: Tensor,
    norms: list[Callable[[Tensor], Tensor]],
    convs: list[Callable[[Tensor], Tensor]],
    grow: Callable[[Tensor], Tensor],
    act: Callable[[Tensor], Tensor] = torch.relu,
) -> Tensor:
    """The 4-conv block: it grows between the second norm and the second conv; the skip drops channels, then grows."""
    h = convs[0](act(norms[0](x)))
    h = convs[1](grow(act(norms[1](h))))
    h = convs[2](act(norms[2](h)))
    h = convs[3](act(norms[3](h)))
    return h + grow(x[:, : h.shape[1]])


def same(x: Tensor) -> Tensor:
    return x


def stem_chw(x: Tensor, channels: int) -> Tensor:
    """Rows of the first linear as channels × side × side."""
    side = math.isqrt(x.shape[1] // channels)
    return x.reshape(x.shape[0], channels, side, side)


# -- attention --------------------------------------------------------------------------------------------------------


def pooled_attention(x: Tensor, state: State, names: tuple[str, str, str, str], gamma: str, read: Reader) -> Tensor:
    """Variant S: keys and values max-pooled 2×2, softmax over the pooled keys, an output conv, residual.

    `names` are the convs of query, key, value and output.
    """
    q, k, v = (conv(x, state, name, read) for name in names[:3])
    k, v = F.max_pool2d(k, 2), F.max_pool2d(v, 2)
    mixed = [_mix(torch.softmax(_energy(*one[:2]), dim=1), one[2]) for one in zip(q, k, v, strict=True)]
    mixed = torch.stack(mixed).reshape(x.shape[0], -1, *x.shape[2:])
    return x + state[gamma] * conv(mixed, state, names[3], read)


def full_attention(x: Tensor, gamma: Tensor, q: Tensor, k: Tensor, v: Tensor, variant: str) -> Tensor:
    """No pooling, no output conv.

    `F`: each position's weights over the keys sum to one. `F-T`: the same map, used untransposed (position i collects
    with column i of the map). `Q`: each position collects with the softmax over the queries of its own key.
    """
    mixed = []
    for one_q, one_k, one_v in zip(q, k, v, strict=True):
        energy = _energy(one_q, one_k)
        if variant == "F":
            weights = torch.softmax(energy, dim=1)
        elif variant == "F-T":
            weights = torch.softmax(energy, dim=1).T
        else:
            weights = torch.softmax(energy, dim=0).T
        mixed.append(_mix(weights, one_v))
    return x + gamma * torch.stack(mixed).reshape(x.shape)


def _energy(q: Tensor, k: Tensor) -> Tensor:
    """Unscaled products [queries, keys] of one sample."""
    return torch.einsum("ci,cj->ij", q.flatten(1), k.flatten(1))


def _mix(weights: Tensor, v: Tensor) -> Tensor:
    """Position i gets the sum over j of weights[i, j] · v[:, j]."""
    return torch.einsum("ij,cj->ci", weights, v.flatten(1))
