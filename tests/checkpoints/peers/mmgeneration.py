"""open-mmlab/mmgeneration (and mmagic): SAGANGenerator in an mmcv checkpoint.

`make(seed, ...)`; the payload is `{"meta": …, "state_dict": …}` with keys under `generator.`:

* `ch` (base_channels) 16 at 32 pixels, else 4; `z_dim` 12, `classes` 5, `resolution` 32, 64, 128;
* `attention` (2,): after these blocks, counted from 1, several or none;
* `spectral` True: torch's hook on convs and linear; `embedding_spectral` True: on the class embeddings as well;
* `gain_offset` 1: the "BigGAN" and "studio" initialisations add one to the looked-up gain, "sagan" and "sngan" (0) do
  not; the tables are drawn around zero or one accordingly;
* `norm_eps` 1e-4, `channel_order` "BGR": only set the semantics (and the calibration);
* `ema` False; True adds `generator_ema.`, whose parameters differ and whose buffers are copies;
* `discriminator` True: adds some `discriminator.` entries; `optimizer` False.

`draw(payload, z, labels, gain_offset=1, channel_order="BGR", norm_eps=1e-4, weights=None)`: `weights` "ema" or "raw",
None takes the average where there is one. The array is RGB: what a "BGR" network gives is turned round.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

PLANS = {32: (1, 1, 1, 1), 64: (16, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1)}


def make(
    seed: int,
    ch: int | None = None,
    z_dim: int = 12,
    classes: int = 5,
    resolution: int = 32,
    attention: tuple[int, ...] = (2,),
    spectral: bool = True,
    embedding_spectral: bool = True,
    gain_offset: int = 1,
    norm_eps: float = 1e-4,
    channel_order: str = "BGR",
    ema: bool = False,
    discriminator: bool = True,
    optimizer: bool = False,
) -> tuple[dict, dict]:
    ch = ch or (16 if resolution == 32 else 4)
    options = {**locals(), "used_z_dim": z_dim}
    weights = "ema" if ema else "raw"
    semantics = {"gain_offset": gain_offset, "channel_order": channel_order, "norm_eps": norm_eps, "weights": weights}
    options["semantics"] = semantics
    random = spread.source(seed)
    state: a.State = {}
    form = spread.orig_u_v if spectral else spread.plain
    tables = spread.orig_u_v if embedding_spectral else spread.plain
    plan = [ch * factor for factor in PLANS[resolution]]
    spread.layer(state, "noise2feat", (16 * plan[0], z_dim), random, form)
    entry = 0
    for number, (before, after) in enumerate(pairwise(plan), 1):
        name, attend = f"conv_blocks.{entry}", number in attention
        for conv, shape in {"conv_1": (before, 3, 3), "conv_2": (after, 3, 3), "shortcut": (before, 1, 1)}.items():
            bias = 2.0 if attend and conv != "conv_1" else 0.25
            spread.layer(state, f"{name}.{conv}.conv", (after, *shape), random, form, bias)
        for norm, width in (("norm_1", before), ("norm_2", after)):
            gain = spread.normal(random, classes, width, mean=1.0 - gain_offset, scale=0.35)
            tables(state, f"{name}.{norm}.weight_embedding", gain, random)
            shift = spread.normal(random, classes, width, scale=0.5)
            tables(state, f"{name}.{norm}.bias_embedding", shift, random)
        entry += 1
        if attend:
            state[f"conv_blocks.{entry}.gamma"] = spread.gamma(random)
            spread.pooled_attention(state, _attention(entry), after, random, form)
            entry += 1
    spread.layer(state, "to_rgb.conv", (3, plan[-1], 3, 3), random, form, bias=0.1)
    spread.affine(state, "to_rgb.bn", plan[-1], random, gain=0.7)
    for norm in (spread.measured(state, random), a.running(state)):
        z, labels = spread.latents(random, 6, z_dim, classes)
        drawn = _image(state, z.double(), labels, norm, gain_offset, norm_eps)
    spread.calm(state, drawn, ("to_rgb.bn.weight", "to_rgb.bn.bias", "to_rgb.conv.bias"))
    merged = {f"generator.{key}": value for key, value in state.items()}
    if ema:
        merged.update({f"generator_ema.{key}": value for key, value in _averaged(state, random).items()})
    if discriminator:
        merged.update({f"discriminator.{key}": value for key, value in _judge(classes, random).items()})
    meta = {"mmgen_version": "0.2.0", "epoch": 12, "iter": 480000, "seed": None, "exp_name": "sagan"}
    payload = {"meta": meta, "state_dict": merged}
    if optimizer:
        payload["optimizer"] = {"generator": containers.adam(state, filled=True, betas=(0.5, 0.999))}
    return payload, options


def draw(
    payload: dict,
    z: object,
    labels: object,
    gain_offset: float = 1,
    channel_order: str = "BGR",
    norm_eps: float = 1e-4,
    weights: str | None = None,
) -> np.ndarray:
    averaged = containers.under(payload["state_dict"], "generator_ema.")
    live = containers.under(payload["state_dict"], "generator.")
    state = a.double({None: averaged or live, "ema": averaged, "raw": live}[weights])
    drawn = a.pixels(_image(state, a.numbers(z), a.classes(labels), a.running(state), gain_offset, norm_eps))
    return np.ascontiguousarray(drawn[:, ::-1]) if channel_order == "BGR" else drawn


def _image(state: a.State, z: Tensor, y: Tensor, norm: a.Norm, gain_offset: float, eps: float) -> Tensor:
    """The network's own output, in its own channel order; attention stands in the list of blocks."""
    state = a.double(state)
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("conv_blocks."))
    first = "conv_blocks.0.conv_1.conv.weight"
    x = a.linear(z, state, "noise2feat", a.stored)
    x = a.stem_chw(x, state.get(f"{first}_orig", state.get(first)).shape[1])
    for entry in range(count):
        name = f"conv_blocks.{entry}"
        if f"{name}.gamma" in state:
            x = a.pooled_attention(x, state, _attention(entry), f"{name}.gamma", a.stored)
            continue
        given = {"state": state, "y": y, "norm": norm, "gain_offset": gain_offset, "eps": eps}
        norms = [partial(_conditional, name=f"{name}.{part}", **given) for part in ("norm_1", "norm_2")]
        order = ("conv_1.conv", "conv_2.conv", "shortcut.conv")
        convs = [partial(a.conv, state=state, name=f"{name}.{conv}", read=a.stored) for conv in order]
        x = a.residual(x, norms, convs)
    x = torch.relu(a.affine(x, state, "to_rgb.bn", norm, eps))
    return a.conv(x, state, "to_rgb.conv", a.stored)


def _conditional(
    x: Tensor, state: a.State, name: str, y: Tensor, norm: a.Norm, gain_offset: float, eps: float
) -> Tensor:
    gain, shift = (a.stored(state, f"{name}.{part}_embedding")[y] for part in ("weight", "bias"))
    return a.per_channel(norm(x, f"{name}.norm", eps), gain_offset + gain, shift)


def _attention(entry: int) -> tuple[str, ...]:
    return tuple(f"conv_blocks.{entry}.{part}.conv" for part in ("theta", "phi", "g", "o"))


def _averaged(state: a.State, random: torch.Generator) -> a.State:
    """Parameters moved by some percent of their spread; u, v and statistics as in the live model."""
    moved = dict(state)
    for key in containers.parameters(state):
        spread_of = state[key].std() if state[key].numel() > 1 else 0.1
        moved[key] = state[key] + 0.03 * spread_of * spread.normal(random, *state[key].shape)
    return moved


def _judge(classes: int, random: torch.Generator) -> a.State:
    """Some of a discriminator: a block, an attention, the two heads."""
    state: a.State = {}
    spread.layer(state, "conv_blocks.0.conv_1.conv", (8, 3, 3, 3), random, spread.orig_u_v)
    spread.layer(state, "conv_blocks.0.conv_2.conv", (8, 8, 3, 3), random, spread.orig_u_v)
    spread.layer(state, "conv_blocks.0.shortcut.conv", (8, 3, 1, 1), random, spread.orig_u_v)
    state["conv_blocks.1.gamma"] = spread.gamma(random)
    spread.pooled_attention(state, _attention(1), 8, random, spread.orig_u_v)
    spread.layer(state, "decision", (1, 8), random, spread.orig_u_v)
    spread.layer(state, "proj_y", (classes, 8), random, spread.orig_u_v, bias=None)
    return state
