"""rosinality/sagan-pytorch: "resnet" and "dcgan", 128×128, attention normalised over the queries.

`make(seed, ...)`; the payload is a bare state dict (`generator_{step:07d}.pt`):

* `model` "resnet" or "dcgan"; `ch` 2: the literal 512, 256, 128, 64 become 8, 4, 2, 1 times ch (dcgan 512, 256, 128:
  4, 2, 1 times ch, at least 2); `z_dim` 12, `classes` 5;
* `fresh` False; True stores u as a Gaussian draw, not a unit vector (saved before the first forward);
* `data_parallel` False.

`draw(payload, z, labels)` has no semantics: weight_orig with one iteration from the stored u; the buffer `weight`
holds the normalised weight of one optimiser step before and is not read.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

PLANS = {"resnet": (8, 8, 8, 4, 2, 1), "dcgan": (4, 4, 4, 4, 2, 1)}
EPS = 1e-5


def make(
    seed: int,
    model: str = "resnet",
    ch: int = 2,
    z_dim: int = 12,
    classes: int = 5,
    fresh: bool = False,
    data_parallel: bool = False,
) -> tuple[dict, dict]:
    options = {**locals(), "resolution": 128, "used_z_dim": z_dim, "semantics": {}}
    random = spread.source(seed)
    state: a.State = {}
    form = partial(spread.orig_weight_u, fresh=fresh)
    plan = [ch * factor for factor in PLANS[model]]
    spread.layer(state, "lin_code", (16 * plan[0], z_dim), random, form)
    for number, (before, after) in enumerate(pairwise(plan)):
        if model == "dcgan":
            name = f"conv.{number}"
            spread.layer(state, f"{name}.conv", (after, before, 3, 3), random, form, bias=None)
            state[f"{name}.norm.embed.weight"] = spread.two_wide_table(random, classes, after)
        else:
            name = f"conv.{number + (number > 2)}"
            spread.layer(state, f"{name}.conv1", (after, before, 3, 3), random, form, bias=None)
            spread.layer(state, f"{name}.conv2", (after, after, 3, 3), random, form, bias=None)
            outward = 2.0 if number == 2 else 0.25
            spread.layer(state, f"{name}.conv_skip", (after, before, 1, 1), random, form, outward)
            for norm, width in (("norm1", before), ("norm2", after)):
                state[f"{name}.{norm}.embed.weight"] = spread.two_wide_table(random, classes, width)
    _make_attention(state, "conv.3" if model == "resnet" else "conv.2.attention", plan[3], random, form)
    if model == "resnet":
        spread.affine(state, "bn", plan[-1], random, gain=0.7)
    spread.layer(state, "colorize", (3, plan[-1], 3, 3), random, form, bias=0.1)
    for norm in (spread.measured(state, random), a.running(state)):
        z, labels = spread.latents(random, 6, z_dim, classes)
        drawn = _image(state, z.double(), labels, norm)
    last = ("bn.weight", "bn.bias") if model == "resnet" else ("conv.4.norm.embed.weight",)
    spread.calm(state, drawn, (*last, "colorize.bias"))
    return containers.parallel(containers.OrderedDict(state), data_parallel), options


def draw(payload: dict, z: object, labels: object) -> np.ndarray:
    state = a.double(containers.alone(payload))
    return a.pixels(_image(state, a.numbers(z), a.classes(labels), a.running(state)))


def _image(state: a.State, z: Tensor, y: Tensor, norm: a.Norm) -> Tensor:
    state = a.double(state)
    if "conv.0.conv.weight_orig" in state:
        return _dcgan(state, z, y, norm)
    x = a.stem_chw(a.linear(z, state, "lin_code", a.hooked), state["conv.0.conv1.weight_orig"].shape[1])
    for number in range(6):
        name = f"conv.{number}"
        if number == 3:
            x = _attend(x, state, name)
            continue
        norms = [partial(_conditional, state=state, name=f"{name}.norm{i}", y=y, norm=norm) for i in (1, 2)]
        order = ("conv1", "conv2", "conv_skip")
        convs = [partial(a.conv, state=state, name=f"{name}.{conv}", read=a.hooked) for conv in order]
        x = a.residual(x, norms, convs)
    return a.conv(torch.relu(a.affine(x, state, "bn", norm, EPS)), state, "colorize", a.hooked)


def _dcgan(state: a.State, z: Tensor, y: Tensor, norm: a.Norm) -> Tensor:
    """ReLU on the linear; then grow, conv, norm, ReLU and, at 32×32, attention; no norm before the last conv."""
    x = torch.relu(a.linear(z, state, "lin_code", a.hooked))
    x = a.stem_chw(x, state["conv.0.conv.weight_orig"].shape[1])
    for number in range(5):
        name = f"conv.{number}"
        x = a.conv(a.nearest(x), state, f"{name}.conv", a.hooked)
        x = torch.relu(_conditional(x, state, f"{name}.norm", y, norm))
        if f"{name}.attention.gamma" in state:
            x = _attend(x, state, f"{name}.attention")
    return a.conv(x, state, "colorize", a.hooked)


def _conditional(x: Tensor, state: a.State, name: str, y: Tensor, norm: a.Norm) -> Tensor:
    """One embedding holds the gain, as it is, in its first half and the shift in its second."""
    gain, shift = state[f"{name}.embed.weight"][y].chunk(2, dim=1)
    return a.per_channel(norm(x, f"{name}.bn", EPS), gain, shift)


def _attend(x: Tensor, state: a.State, name: str) -> Tensor:
    """1-d convs over the flattened picture, softmax over the queries."""
    parts = []
    for part in ("query", "key", "value"):
        weight = a.hooked(state, f"{name}.{part}")[:, :, 0]
        bias = state[f"{name}.{part}.bias"]
        parts.append(torch.einsum("oc,nchw->nohw", weight, x) + bias.reshape(1, -1, 1, 1))
    return a.full_attention(x, state[f"{name}.gamma"], *parts, "Q")


def _make_attention(state: a.State, name: str, width: int, random: torch.Generator, form: spread.Form) -> None:
    heads = spread.head_count(width)
    state[f"{name}.gamma"] = spread.gamma(random)
    for part, rows in (("query", heads), ("key", heads), ("value", width)):
        spread.layer(state, f"{name}.{part}", (rows, width, 1), random, form)
