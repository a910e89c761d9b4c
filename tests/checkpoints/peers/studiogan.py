"""POSTECH-CVLab/PyTorch-StudioGAN: the "resnet" backbone of SAGAN, before and after 2022-01-25, and "big_resnet".

`make(seed, ...)`; the payload is the dict of `model=G-best-weights-step=….pth` (or of `model=G_ema-…` with `ema`):

* `ch` 4, `z_dim` 12 (big_resnet: a multiple of blocks + 1), `classes` 5, `resolution` 32, 64, 128, 256, 512;
* `attention` (2,): after these blocks, counted from 1, several or none;
* `spectral` True; False has plain `weight` everywhere (apply_g_sn false);
* `conditional` True; False is W/O: affine norms `bn1.weight`, … ;
* `layout` "new" (`gain`, `bias`: linears on one-hot) or "legacy" (`embed0`, `embed1`: embeddings);
* `backbone` "resnet" or "big_resnet" (conditional, new layout; `shared_dim` 6);
* `ema` False; True: only `state_dict` in the dict, u and v shorter than one and off the singular vectors;
* `spectral_norm` "iterate" and `activation` "relu": only set the semantics (and the calibration); `data_parallel`.

`draw(payload, z, labels, spectral_norm="iterate", activation="relu")`: "iterate" is StudioGAN's own evaluation, which
leaves the spectral norm in train mode; "stored" is plain eval(). Every norm has eps 1e-4. Activations: relu,
leaky_relu (0.1), elu, gelu.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

PLANS = {
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
EPS = 1e-4
READERS = {"iterate": a.iterated, "stored": a.stored}


def make(
    seed: int,
    ch: int = 4,
    z_dim: int = 12,
    classes: int = 5,
    resolution: int = 32,
    attention: tuple[int, ...] = (2,),
    spectral: bool = True,
    conditional: bool = True,
    layout: str = "new",
    backbone: str = "resnet",
    shared_dim: int = 6,
    ema: bool = False,
    spectral_norm: str = "iterate",
    activation: str = "relu",
    data_parallel: bool = False,
) -> tuple[dict, dict]:
    options = {**locals(), "used_z_dim": z_dim, "classes": classes if conditional else 0}
    options["semantics"] = {"spectral_norm": spectral_norm, "activation": activation}
    random = spread.source(seed)
    state: a.State = {}
    form = partial(spread.orig_u_v, off=0.3, length=0.85) if ema else spread.orig_u_v
    form = form if spectral else spread.plain
    plan = [ch * factor for factor in PLANS[resolution]]
    chunk, condition = z_dim, classes
    if backbone == "big_resnet":
        chunk, left_over = divmod(z_dim, len(plan))
        if left_over:
            raise ValueError(f"z_dim must be a multiple of {len(plan)}")
        condition = shared_dim + chunk
        state["shared.weight"] = spread.normal(random, classes, shared_dim)
    kind = "affine" if not conditional else layout
    spread.layer(state, "linear0", (16 * plan[0], chunk), random, form)
    entry = 0
    for number, (before, after) in enumerate(pairwise(plan), 1):
        name, attend = f"blocks.{entry}.0", number in attention
        for conv, shape in {"conv2d0": (before, 1, 1), "conv2d1": (before, 3, 3), "conv2d2": (after, 3, 3)}.items():
            bias = 2.0 if attend and conv != "conv2d1" else 0.25
            spread.layer(state, f"{name}.{conv}", (after, *shape), random, form, bias)
        for norm, width in (("bn1", before), ("bn2", after)):
            _make_norm(state, f"{name}.{norm}", width, condition, kind, random, form)
        entry += 1
        if attend:
            state[f"blocks.{entry}.0.sigma"] = spread.gamma(random, 1)
            spread.pooled_attention(state, _attention(entry), after, random, form)
            entry += 1
    spread.affine(state, "bn4", plan[-1], random, gain=0.7)
    spread.layer(state, "conv2d5", (3, plan[-1], 3, 3), random, form, bias=0.1)
    for norm in (spread.measured(state, random), a.running(state)):
        z, labels = spread.latents(random, 6, z_dim, classes)
        drawn = _image(state, z.double(), labels, norm, READERS[spectral_norm], a.ACTIVATIONS[activation])
    spread.calm(state, drawn, ("bn4.weight", "bn4.bias", "conv2d5.bias"))
    state = containers.with_metadata(containers.parallel(state, data_parallel))
    if ema:
        return {"state_dict": state}, options
    optimizer = containers.adam(state, filled=True, betas=(0.5, 0.999))
    if layout == "legacy":
        run = {"seed": 82624, "run_name": "SAGAN-train-2020_09_18_23_34_49", "step": 90000, "best_step": 90000}
        return {**run, "state_dict": state, "optimizer": optimizer, "ada_p": None}, options
    return {"state_dict": state, "optimizer": optimizer}, options


def draw(
    payload: dict, z: object, labels: object = None, spectral_norm: str = "iterate", activation: str = "relu"
) -> np.ndarray:
    state = a.double(containers.alone(payload["state_dict"]))
    y = None if labels is None else a.classes(labels)
    read, act = READERS[spectral_norm], a.ACTIVATIONS[activation]
    return a.pixels(_image(state, a.numbers(z), y, a.running(state), read, act))


def _image(state: a.State, z: Tensor, y: Tensor | None, norm: a.Norm, read: a.Reader, act: a.Callable) -> Tensor:
    """Attention entries stand in the list of blocks and use up no chunk of z."""
    state = a.double(state)
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    stem, chunks = z, []
    if "shared.weight" in state:
        width = _columns(state, "linear0")
        stem, *chunks = z.split(width, dim=1)
        chunks = [torch.cat([state["shared.weight"][y], chunk], dim=1) for chunk in chunks]
    x = a.linear(stem, state, "linear0", read)
    x = a.stem_chw(x, _columns(state, "blocks.0.0.conv2d1"))
    for entry in range(count):
        name = f"blocks.{entry}.0"
        if f"{name}.sigma" in state:
            x = a.pooled_attention(x, state, _attention(entry), f"{name}.sigma", read)
            continue
        condition = chunks.pop(0) if chunks else None
        given = {"state": state, "y": y, "condition": condition, "norm": norm, "read": read}
        norms = [partial(_norm, name=f"{name}.{bn}", **given) for bn in ("bn1", "bn2")]
        order = ("conv2d1", "conv2d2", "conv2d0")
        convs = [partial(a.conv, state=state, name=f"{name}.{conv}", read=read) for conv in order]
        x = a.residual(x, norms, convs, act=act)
    x = act(a.affine(x, state, "bn4", norm, EPS))
    return a.conv(x, state, "conv2d5", read)


def _norm(
    x: Tensor, state: a.State, name: str, y: Tensor | None, condition: Tensor | None, norm: a.Norm, read: a.Reader
) -> Tensor:
    if f"{name}.weight" in state:
        return a.affine(x, state, name, norm, EPS)
    if f"{name}.embed0.weight_orig" in state or f"{name}.embed0.weight" in state:
        gain, shift = (read(state, f"{name}.{part}")[y] for part in ("embed0", "embed1"))
    else:
        gain, shift = (read(state, f"{name}.{part}") for part in ("gain", "bias"))
        gain, shift = (gain.T[y], shift.T[y]) if condition is None else (condition @ gain.T, condition @ shift.T)
    return a.per_channel(norm(x, f"{name}.bn", EPS), 1 + gain, shift)


def _columns(state: a.State, name: str) -> int:
    return state.get(f"{name}.weight_orig", state.get(f"{name}.weight")).shape[1]


def _attention(entry: int) -> tuple[str, ...]:
    return tuple(f"blocks.{entry}.0.conv1x1_{part}" for part in ("theta", "phi", "g", "attn"))


def _make_norm(
    state: a.State, name: str, width: int, condition: int, kind: str, random: torch.Generator, form: spread.Form
) -> None:
    if kind == "affine":
        spread.affine(state, name, width, random)
        return
    parts = ("embed0", "embed1") if kind == "legacy" else ("gain", "bias")
    for part, scale in zip(parts, (0.35, 0.5), strict=True):
        shape = (condition, width) if kind == "legacy" else (width, condition)
        form(state, f"{name}.{part}", spread.normal(random, *shape, scale=scale), random)
