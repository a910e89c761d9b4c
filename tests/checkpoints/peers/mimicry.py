"""kwotsin/mimicry (torch-mimicry): SAGAN at 32 and 128, bilinear growth.

`make(seed, ...)`; the payload is `{"model_state_dict", "optimizer_state_dict", "global_step"}` of `netG_…_steps.pth`:

* `resolution` 32 or 128, which picks three or five blocks; `ngf` (the width at the bottom): 8 at 32, 32 at 128;
* `bottom_width` 4: others change the size of the picture (options["resolution"] is the size in pixels);
* `z_dim` 12, `classes` 5; `optimizer` "empty", "filled" or None (the entry is None); `data_parallel` False.

`draw(payload, z, labels)` has no semantics.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

DIVISORS = {32: (1, 1, 1, 1), 128: (1, 1, 2, 4, 8, 16)}
EPS = 1e-5
ATTENTION = tuple(f"attn_block.{part}" for part in ("theta", "phi", "g", "o"))
ATTENDED = {3: 3, 5: 4}  # number of blocks → the block that attention follows; the first is block2


def make(
    seed: int,
    resolution: int = 32,
    ngf: int | None = None,
    z_dim: int = 12,
    classes: int = 5,
    bottom_width: int = 4,
    optimizer: str | None = "empty",
    data_parallel: bool = False,
) -> tuple[dict, dict]:
    ngf = ngf or {32: 8, 128: 32}[resolution]
    options = {**locals(), "resolution": resolution * bottom_width // 4, "used_z_dim": z_dim, "semantics": {}}
    random = spread.source(seed)
    state: a.State = {}
    form = spread.orig_u_v
    plan = [ngf // divisor for divisor in DIVISORS[resolution]]
    blocks = len(plan) - 1
    spread.layer(state, "l1", (ngf * bottom_width**2, z_dim), random, form)
    for number, (before, after) in enumerate(pairwise(plan), 2):
        name, outward = f"block{number}", 2.0 if number == ATTENDED[blocks] else 0.25
        spread.layer(state, f"{name}.c1", (after, before, 3, 3), random, form)
        spread.layer(state, f"{name}.c2", (after, after, 3, 3), random, form, outward)
        spread.layer(state, f"{name}.c_sc", (after, before, 1, 1), random, form, outward)
        for norm, width in (("b1", before), ("b2", after)):
            state[f"{name}.{norm}.embed.weight"] = spread.two_wide_table(random, classes, width)
    state["attn_block.gamma"] = spread.gamma(random)
    spread.pooled_attention(state, ATTENTION, plan[ATTENDED[blocks] - 1], random, form)
    spread.affine(state, f"b{blocks + 2}", plan[-1], random, gain=0.7)
    spread.layer(state, f"c{blocks + 2}", (3, plan[-1], 3, 3), random, form, bias=0.1)
    for norm in (spread.measured(state, random), a.running(state)):
        z, labels = spread.latents(random, 6, z_dim, classes)
        drawn = _image(state, z.double(), labels, norm)
    spread.calm(state, drawn, (f"b{blocks + 2}.weight", f"b{blocks + 2}.bias", f"c{blocks + 2}.bias"))
    payload = {
        "model_state_dict": containers.with_metadata(containers.parallel(state, data_parallel)),
        "optimizer_state_dict": optimizer and containers.adam(state, optimizer == "filled"),
        "global_step": 5000,
    }
    return payload, options


def draw(payload: dict, z: object, labels: object) -> np.ndarray:
    state = a.double(containers.alone(payload["model_state_dict"]))
    return a.pixels(_image(state, a.numbers(z), a.classes(labels), a.running(state)))


def _image(state: a.State, z: Tensor, y: Tensor, norm: a.Norm) -> Tensor:
    """Both paths of a block are grown bilinearly, half-pixel centres."""
    state = a.double(state)
    blocks = 5 if "b7.weight" in state else 3
    x = a.stem_chw(a.linear(z, state, "l1", a.stored), state["block2.c1.weight_orig"].shape[1])
    for number in range(2, blocks + 2):
        name = f"block{number}"
        norms = [partial(_conditional, state=state, name=f"{name}.{part}", y=y, norm=norm) for part in ("b1", "b2")]
        convs = [partial(a.conv, state=state, name=f"{name}.{conv}", read=a.stored) for conv in ("c1", "c2", "c_sc")]
        x = a.residual(x, norms, convs, grow=a.bilinear)
        if number == ATTENDED[blocks]:
            x = a.pooled_attention(x, state, ATTENTION, "attn_block.gamma", a.stored)
    x = torch.relu(a.affine(x, state, f"b{blocks + 2}", norm, EPS))
    return a.conv(x, state, f"c{blocks + 2}", a.stored)


def _conditional(x: Tensor, state: a.State, name: str, y: Tensor, norm: a.Norm) -> Tensor:
    """One embedding holds the gain, as it is, in its first half and the shift in its second."""
    gain, shift = state[f"{name}.embed.weight"][y].chunk(2, dim=1)
    return a.per_channel(norm(x, f"{name}.bn", EPS), gain, shift)
