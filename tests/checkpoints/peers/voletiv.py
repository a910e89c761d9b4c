"""voletiv/self-attention-GAN-pytorch: conditional, 128×128, per-layer class tables.

`make(seed, ...)`; the payload is the dict of `ckpt_{step:07d}.pth`: step, state dicts and optimiser dicts of G and D:

* `ch` 2 (attention sits on 4·ch channels), `z_dim` 12, `classes` 5;
* `spectral_form` "T" (torch ≥ 1.0: weight_orig, weight_u, weight_v, metadata) or "T0" (torch 0.4.1: weight_orig,
  weight, weight_u, no metadata);
* `optimizers` "empty" or "filled".

`draw(payload, z, labels)` has no semantics: T divides by the sigma of the stored u and v, T0 takes the stored weight.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

PLAN = (16, 16, 8, 4, 2, 1)
EPS = 1e-5
ATTENTION = tuple(f"self_attn.snconv1x1_{part}" for part in ("theta", "phi", "g", "attn"))


def make(
    seed: int, ch: int = 2, z_dim: int = 12, classes: int = 5, spectral_form: str = "T", optimizers: str = "empty"
) -> tuple[dict, dict]:
    options = {**locals(), "resolution": 128, "used_z_dim": z_dim, "semantics": {}}
    random = spread.source(seed)
    state: a.State = {}
    form = {"T": spread.orig_u_v, "T0": spread.orig_weight_u}[spectral_form]
    plan = [ch * factor for factor in PLAN]
    spread.layer(state, "snlinear0", (16 * plan[0], z_dim), random, form)
    for number, (before, after) in enumerate(pairwise(plan), 1):
        name, outward = f"block{number}", 2.0 if number == 3 else 0.25
        for norm, width in (("cond_bn1", before), ("cond_bn2", after)):
            state[f"{name}.{norm}.embed.weight"] = spread.two_wide_table(random, classes, width)
        spread.layer(state, f"{name}.snconv2d1", (after, before, 3, 3), random, form)
        spread.layer(state, f"{name}.snconv2d2", (after, after, 3, 3), random, form, outward)
        spread.layer(state, f"{name}.snconv2d0", (after, before, 1, 1), random, form, outward)
    state["self_attn.sigma"] = spread.gamma(random, 1)
    spread.pooled_attention(state, ATTENTION, plan[3], random, form, bias=0.25)
    spread.affine(state, "bn", plan[-1], random, gain=0.7)
    spread.layer(state, "snconv2d1", (3, plan[-1], 3, 3), random, form, bias=0.1)
    for norm in (spread.measured(state, random), a.running(state)):
        z, labels = spread.latents(random, 6, z_dim, classes)
        drawn = _image(state, z.double(), labels, norm)
    spread.calm(state, drawn, ("bn.weight", "bn.bias", "snconv2d1.bias"))
    judge = _judge(ch, classes, random, form)
    filled = optimizers == "filled"
    dressed = containers.with_metadata if spectral_form == "T" else containers.OrderedDict
    payload = {
        "step": 50,
        "G_state_dict": dressed(state),
        "G_optimizer_state_dict": containers.adam(state, filled, 1e-4, (0.0, 0.999)),
        "D_state_dict": dressed(judge),
        "D_optimizer_state_dict": containers.adam(judge, filled, 4e-4, (0.0, 0.999)),
    }
    return payload, options


def draw(payload: dict, z: object, labels: object) -> np.ndarray:
    state = a.double(payload["G_state_dict"])
    return a.pixels(_image(state, a.numbers(z), a.classes(labels), a.running(state)))


def _image(state: a.State, z: Tensor, y: Tensor, norm: a.Norm) -> Tensor:
    state = a.double(state)
    read = a.stored if "snlinear0.weight_v" in state else a.kept
    x = a.stem_chw(a.linear(z, state, "snlinear0", read), state["block1.snconv2d1.weight_orig"].shape[1])
    for number in range(1, 6):
        name = f"block{number}"
        norms = [partial(_conditional, state=state, name=f"{name}.cond_bn{i}", y=y, norm=norm) for i in (1, 2)]
        order = ("snconv2d1", "snconv2d2", "snconv2d0")
        convs = [partial(a.conv, state=state, name=f"{name}.{conv}", read=read) for conv in order]
        x = a.residual(x, norms, convs)
        if number == 3:
            x = a.pooled_attention(x, state, ATTENTION, "self_attn.sigma", read)
    return a.conv(torch.relu(a.affine(x, state, "bn", norm, EPS)), state, "snconv2d1", read)


def _conditional(x: Tensor, state: a.State, name: str, y: Tensor, norm: a.Norm) -> Tensor:
    """One embedding holds the gain, as it is, in its first half and the shift in its second."""
    gain, shift = state[f"{name}.embed.weight"][y].chunk(2, dim=1)
    return a.per_channel(norm(x, f"{name}.bn", EPS), gain, shift)


def _judge(ch: int, classes: int, random: torch.Generator, form: spread.Form) -> a.State:
    """The discriminator's state: its names are the generator's in part, at other shapes."""
    state: a.State = {}
    widths = [3] + [ch * factor for factor in (1, 2, 4, 8, 16, 16)]
    for number, (before, after) in enumerate(pairwise(widths)):
        name = f"block{number}" if number else "opt_block1"
        spread.layer(state, f"{name}.snconv2d1", (after, before, 3, 3), random, form)
        spread.layer(state, f"{name}.snconv2d2", (after, after, 3, 3), random, form)
        spread.layer(state, f"{name}.snconv2d0", (after, before, 1, 1), random, form)
    state["self_attn.sigma"] = spread.gamma(random, 1)
    for attention, (rows, columns) in zip(ATTENTION, ((1, 2), (1, 2), (1, 2), (2, 1)), strict=True):
        spread.layer(state, attention, (rows * ch, columns * ch, 1, 1), random, form)
    spread.layer(state, "snlinear1", (1, 16 * ch), random, form)
    spread.layer(state, "sn_embedding1", (classes, 16 * ch), random, form, bias=None)
    return state
