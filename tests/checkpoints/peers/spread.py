"""How the random weights of the peers are drawn and stored.

The spreads are chosen so that a wrong reading shows: gains, shifts and gammas of order one, u and v some percent off
the singular vectors, statistics near (not at) those of the weights they belong to.

A *form* stores a layer's weight with what its spectral norm keeps beside it: `form(state, name, weight, source)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic
from tests.checkpoints.peers.arithmetic import Norm, State

Form = Callable[[State, str, Tensor, torch.Generator], None]


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(random: torch.Generator, *shape: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn(shape, generator=random)


def latents(random: torch.Generator, count: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    return normal(random, count, width), torch.randint(max(classes, 1), (count,), generator=random)


def kernel(random: torch.Generator, *shape: int) -> Tensor:
    """A weight whose largest singular value is nowhere near one."""
    fan_in = max(1, int(torch.tensor(shape[1:]).prod()))
    level = 0.7 + 0.8 * float(torch.rand(1, generator=random))
    return normal(random, *shape, scale=level / fan_in**0.5)


def gamma(random: torch.Generator, *shape: int) -> Tensor:
    return 0.8 + 0.05 * torch.randn(shape, generator=random)


def layer(
    state: State, name: str, shape: tuple[int, ...], random: torch.Generator, form: Form, bias: float | None = 0.25
) -> None:
    """A weight in its form; `bias` is the spread of the bias, None for a layer without one."""
    form(state, name, kernel(random, *shape), random)
    if bias is not None:
        state[f"{name}.bias"] = normal(random, shape[0], scale=bias)


def affine(state: State, name: str, width: int, random: torch.Generator, gain: float = 1.0) -> None:
    """A batch norm's own weight and bias; the statistics come from `measured`."""
    state[f"{name}.weight"] = gain * normal(random, width, mean=1.0, scale=0.3)
    state[f"{name}.bias"] = gain * normal(random, width, scale=0.25)


def two_wide_table(random: torch.Generator, classes: int, width: int) -> Tensor:
    """One embedding of gain then shift, the gain as it is."""
    gain = normal(random, classes, width, mean=1.0, scale=0.35)
    return torch.cat([gain, normal(random, classes, width, scale=0.5)], dim=1)


def pooled_attention(
    state: State,
    names: tuple[str, str, str, str],
    width: int,
    random: torch.Generator,
    form: Form,
    bias: float | None = None,
) -> None:
    """The four 1×1 convs of variant S: query, key, value, output."""
    heads, values = head_count(width), width // 2
    for name, rows in zip(names, (heads, heads, values, width), strict=True):
        layer(state, name, (rows, values if rows == width else width, 1, 1), random, form, bias)


def head_count(width: int) -> int:
    if width < 8:
        raise ValueError(f"attention on {width} channels would have no query channel; use a wider ch")
    return width // 8


# -- spectral norm: the forms in which it is stored -------------------------------------------------------------------


def plain(state: State, name: str, weight: Tensor, random: torch.Generator) -> None:
    state[f"{name}.weight"] = weight


def orig_u_v(
    state: State, name: str, weight: Tensor, random: torch.Generator, off: float = 0.03, length: float = 1.0
) -> None:
    """torch's hook; `length` below one and a large `off` are what averaging u and v over training leaves."""
    u, _, v = singular(weight)
    state[f"{name}.weight_orig"] = weight
    state[f"{name}.weight_u"] = length * disturbed(u, random, off)
    state[f"{name}.weight_v"] = length * disturbed(v, random, off)


def orig_weight_u(
    state: State, name: str, weight: Tensor, random: torch.Generator, fresh: bool = False, step: float = 0.03
) -> None:
    """torch 0.4.1 and rosinality: beside the parameter lies the normalised weight of one optimiser step before."""
    older = weight + step * weight.std() * normal(random, *weight.shape) if weight.numel() > 1 else 0.97 * weight
    u, sigma, _ = singular(older)
    state[f"{name}.weight_orig"] = weight
    state[f"{name}.weight"] = older / sigma
    state[f"{name}.weight_u"] = normal(random, weight.shape[0]) if fresh else disturbed(u, random)


def weight_u0_sv0(
    state: State, name: str, weight: Tensor, random: torch.Generator, tracked: int = 1, log: bool = True
) -> None:
    """ajbrock; `tracked` singular values, `log` whether the last training values sv0, … are in the file."""
    left, sigmas, _ = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    state[f"{name}.weight"] = weight
    for number in range(tracked):
        column = min(number, len(sigmas) - 1)
        state[f"{name}.u{number}"] = disturbed(left[:, column], random)[None]
        if log:
            state[f"{name}.sv{number}"] = 1.06 * sigmas[column : column + 1]


def weight_bar(state: State, name: str, weight: Tensor, random: torch.Generator) -> None:
    """heykeetae's wrapper: everything one `module.` deeper."""
    u, _, v = singular(weight)
    state[f"{name}.module.weight_bar"] = weight
    state[f"{name}.module.weight_u"] = disturbed(u, random)
    state[f"{name}.module.weight_v"] = disturbed(v, random)


def singular(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, sigmas, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return left[:, 0].contiguous(), sigmas[0], right[0].contiguous()


def disturbed(vector: Tensor, random: torch.Generator, off: float = 0.03) -> Tensor:
    """A unit vector that points `off` away from this one."""
    aside = normal(random, len(vector))
    vector = vector + off * aside / torch.linalg.vector_norm(aside)
    return vector / torch.linalg.vector_norm(vector)


# -- statistics -------------------------------------------------------------------------------------------------------


def keep_running(state: State, name: str, mean: Tensor, variance: Tensor) -> None:
    state[f"{name}.running_mean"] = mean
    state[f"{name}.running_var"] = variance
    state[f"{name}.num_batches_tracked"] = torch.tensor(40)


def measured(state: State, random: torch.Generator, keep: Callable = keep_running) -> Norm:
    """Batch norm as in train mode, which leaves statistics a little off the batch's in the state."""

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        mean = mean.float() + 0.1 * variance.float().sqrt() * normal(random, x.shape[1])
        variance = (variance.float() + 1e-3) * torch.exp(normal(random, x.shape[1], scale=0.15))
        keep(state, name, mean, variance)
        return arithmetic.normalise(x, mean.double(), variance.double(), eps)

    return norm


def calm(state: State, drawn: Tensor, names: tuple[str, ...]) -> None:
    """Scale the last layers so that few of the pixels, given here before the tanh, leave the middle of their range."""
    level = float(torch.quantile(drawn.abs().flatten()[:: 1 + drawn.numel() // 10000], 0.98)) / 0.9
    for name in names:
        state[name] = state[name] / level
