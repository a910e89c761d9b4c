"""ajbrock/BigGAN-PyTorch: the SAGAN script, BigGAN, BigGAN-deep and the converter of the TF-Hub weights.

`make(seed, ...)`; the payload is a bare state dict (`G.pth`, `G_ema.pth`, `biggan-128.pth`):

* `model` "sagan" (tables per norm), "biggan" (shared embedding, z in chunks), "shared" (shared embedding, whole z to
  the stem, the embedding alone to the blocks), "deep" (bottleneck blocks, [embedding, z] everywhere);
* `ch` 4, `z_dim` 12 (what a "biggan" does not use of it is dropped: `options["used_z_dim"]` is what `draw` takes),
  `classes` 5, `shared_dim` 6 (0: as wide as z);
* `resolution` 32, 64, 128, 256 (512 for the wide blocks); `attention` output resolutions, (32,), several or none;
* `depth` 2: deep blocks per stage;
* `statistics` "plain" (`stored_mean`), "cross_replica" (`bn.running_mean`), "mybn" (`bn.stored_mean` and
  `bn.accumulation_counter`); `accumulated` 0: the count of forwards the latter's sums hold;
* `spectral` True; False leaves u0 and sv0 out everywhere (G_param other than SN); `tracked` 1: singular values tracked
  (u1, sv1, …); `hub` False: no sv0, and norm_eps 1e-4 unless given;
* `norm_eps` None, `activation` "relu": what the model was trained with; `data_parallel` False.

`draw(payload, z, labels, norm_eps=1e-5, activation="relu", depth=None)`: the final norm has 1e-5 in any case. `depth`
is needed only where no width changes (deep at 32 pixels). cross_replica is drawn as it trained on several GPUs.

`training_state(options)` is a `state_dict.pth` for the payload, with the plain values of its `config`.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

PLANS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}


def make(
    seed: int,
    model: str = "sagan",
    ch: int = 4,
    z_dim: int = 12,
    classes: int = 5,
    shared_dim: int = 6,
    resolution: int = 64,
    attention: tuple[int, ...] = (32,),
    depth: int = 2,
    statistics: str = "plain",
    accumulated: int = 0,
    spectral: bool = True,
    tracked: int = 1,
    hub: bool = False,
    norm_eps: float | None = None,
    activation: str = "relu",
    data_parallel: bool = False,
) -> tuple[dict, dict]:
    options = locals()
    eps = options["norm_eps"] = norm_eps or (1e-4 if hub else 1e-5)
    options["semantics"] = {"norm_eps": eps, "activation": activation}
    if model == "deep":
        options["semantics"]["depth"] = depth
    random = spread.source(seed)
    state: a.State = {}
    form = partial(spread.weight_u0_sv0, tracked=tracked, log=not hub) if spectral else spread.plain
    plan = [ch * factor for factor in PLANS[resolution]]
    embedding = 0 if model == "sagan" else shared_dim or z_dim
    chunk = z_dim // len(plan) if model == "biggan" else z_dim
    options["used_z_dim"] = chunk * len(plan) if model == "biggan" else z_dim
    condition = {"sagan": 0, "shared": embedding}.get(model, embedding + chunk)
    if embedding:
        state["shared.weight"] = spread.normal(random, classes, embedding)
    stem = condition if model == "deep" else chunk
    spread.layer(state, "linear", (16 * plan[0], stem), random, form)
    number = 0
    for stage, (before, after) in enumerate(pairwise(plan)):
        attend = 8 * 2**stage in attention
        for last in [False] * (depth - 1) + [True] if model == "deep" else [True]:
            shape = (before, after if last else before)
            bias = 2.0 if attend and last else 0.25
            _make_block(state, f"blocks.{number}.0", shape, model == "deep", classes, condition, random, form, bias)
            if last and attend:
                state[f"blocks.{number}.1.gamma"] = spread.gamma(random)
                spread.pooled_attention(state, _attention(number), after, random, form)
            number += 1
    state["output_layer.0.gain"] = spread.normal(random, plan[-1], mean=0.7, scale=0.2)
    state["output_layer.0.bias"] = spread.normal(random, plan[-1], scale=0.2)
    spread.layer(state, "output_layer.2", (3, plan[-1], 3, 3), random, form, bias=0.1)
    for norm in (spread.measured(state, random, partial(_keep, statistics, accumulated)), _stored(state)):
        z, labels = spread.latents(random, 6, options["used_z_dim"], classes)
        drawn = _image(state, z.double(), labels, norm, eps, a.ACTIVATIONS[activation], depth)
    spread.calm(state, drawn, ("output_layer.0.gain", "output_layer.0.bias", "output_layer.2.bias"))
    return containers.parallel(state, data_parallel), options


def training_state(options: dict) -> dict:
    names = {"sagan": (False, False), "shared": (True, False), "biggan": (True, True), "deep": (True, True)}
    shared, hier = names[options["model"]]
    config = {
        "model": "BigGANdeep" if options["model"] == "deep" else "BigGAN",
        "G_param": "SN" if options["spectral"] else "vanilla",
        "G_ch": options["ch"],
        "G_depth": options["depth"] if options["model"] == "deep" else 1,
        "G_shared": shared,
        "shared_dim": options["shared_dim"] if shared else 0,
        "dim_z": options["z_dim"],
        "hier": hier,
        "cross_replica": options["statistics"] == "cross_replica",
        "mybn": options["statistics"] == "mybn",
        "G_nl": options["activation"],
        "G_attn": "_".join(map(str, options["attention"])) or "0",
        "norm_style": "bn",
        "BN_eps": options["norm_eps"],
        "SN_eps": 1e-8,
        "num_G_SVs": options["tracked"],
        "num_G_SV_itrs": 1,
        "resolution": options["resolution"],
        "n_classes": options["classes"],
    }
    best = {"save_num": 1, "save_best_num": 2, "best_IS": 52.79, "best_FID": 22.96}
    return {"itr": 84000, "epoch": 33, **best, "config": config}


def draw(
    payload: dict,
    z: object,
    labels: object,
    norm_eps: float = 1e-5,
    activation: str = "relu",
    depth: int | None = None,
) -> np.ndarray:
    state = a.double(containers.alone(payload))
    act = a.ACTIVATIONS[activation]
    return a.pixels(_image(state, a.numbers(z), a.classes(labels), _stored(state), norm_eps, act, depth))


def _image(
    state: a.State, z: Tensor, labels: Tensor, norm: a.Norm, eps: float, act: a.Callable, depth: int | None
) -> Tensor:
    state = a.double(state)
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    deep = "blocks.0.0.conv4.weight" in state
    embedded = state["shared.weight"][labels] if "shared.weight" in state else None
    stem, conditions = z, [embedded] * count
    if deep:
        stem = torch.cat([embedded, z], dim=1)
        conditions = [stem] * count
    elif embedded is not None and state["blocks.0.0.bn1.gain.weight"].shape[1] > embedded.shape[1]:
        stem, *chunks = z.split(state["linear.weight"].shape[1], dim=1)
        conditions = [torch.cat([embedded, chunk], dim=1) for chunk in chunks]
    x = a.linear(stem, state, "linear", a.from_u0)
    x = a.stem_chw(x, state["blocks.0.0.conv1.weight"].shape[1])
    grows = _last_of_stage(state, count, depth) if deep else [True] * count
    for number, (condition, grow) in enumerate(zip(conditions, grows, strict=True)):
        name = f"blocks.{number}.0"
        norms = [
            partial(_conditional, state=state, name=f"{name}.bn{i}", c=condition, y=labels, norm=norm, eps=eps)
            for i in range(1, 5 if deep else 3)
        ]
        order = ("conv1", "conv2", "conv3", "conv4") if deep else ("conv1", "conv2", "conv_sc")
        convs = [partial(a.conv, state=state, name=f"{name}.{conv}", read=a.from_u0) for conv in order]
        if deep:
            x = a.bottleneck(x, norms, convs, a.nearest if grow else a.same, act)
        else:
            x = a.residual(x, norms, convs, act=act)
        if f"blocks.{number}.1.gamma" in state:
            x = a.pooled_attention(x, state, _attention(number), f"blocks.{number}.1.gamma", a.from_u0)
    x = norm(x, "output_layer.0", 1e-5)
    x = act(a.per_channel(x, state["output_layer.0.gain"], state["output_layer.0.bias"]))
    return a.conv(x, state, "output_layer.2", a.from_u0)


def _last_of_stage(state: a.State, count: int, depth: int | None) -> list[bool]:
    """Which deep blocks grow the picture: the last of each stage, and a width changes only there."""
    if depth is None:
        shapes = [state[f"blocks.{i}.0.conv{n}.weight"].shape for i in range(count) for n in (1, 4)]
        changes = [i // 2 + 1 for i in range(0, 2 * count, 2) if shapes[i][1] != shapes[i + 1][0]]
        if not changes:
            raise ValueError("no width changes: the depth cannot be seen and must be given")
        depth = math.gcd(*changes)
    return [(number + 1) % depth == 0 for number in range(count)]


def _conditional(x: Tensor, state: a.State, name: str, c: Tensor | None, y: Tensor, norm: a.Norm, eps: float) -> Tensor:
    gain, shift = (a.from_u0(state, f"{name}.{part}") for part in ("gain", "bias"))
    gain, shift = (gain[y], shift[y]) if c is None else (c @ gain.T, c @ shift.T)
    return a.per_channel(norm(x, name, eps), 1 + gain, shift)


def _attention(number: int) -> tuple[str, ...]:
    return tuple(f"blocks.{number}.1.{part}" for part in ("theta", "phi", "g", "o"))


def _stored(state: a.State) -> a.Norm:
    """Statistics in any of the three layouts; sums over several forwards are divided by their count."""

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        if f"{name}.bn.running_mean" in state:
            return a.running(state)(x, f"{name}.bn", eps)
        inner = f"{name}.bn" if f"{name}.bn.stored_mean" in state else name
        count = max(1.0, float(state.get(f"{inner}.accumulation_counter", 0)))
        return a.normalise(x, state[f"{inner}.stored_mean"] / count, state[f"{inner}.stored_var"] / count, eps)

    return norm


def _keep(layout: str, accumulated: int, state: a.State, name: str, mean: Tensor, variance: Tensor) -> None:
    if layout == "cross_replica":
        spread.keep_running(state, f"{name}.bn", mean, variance)
        return
    inner = f"{name}.bn" if layout == "mybn" else name
    state[f"{inner}.stored_mean"] = mean * max(1, accumulated)
    state[f"{inner}.stored_var"] = variance * max(1, accumulated)
    if layout == "mybn":
        state[f"{inner}.accumulation_counter"] = torch.full((1,), float(accumulated))


def _make_block(
    state: a.State,
    name: str,
    widths: tuple[int, int],
    deep: bool,
    classes: int,
    condition: int,
    random: torch.Generator,
    form: spread.Form,
    bias: float,
) -> None:
    before, after = widths
    hidden = before // 4
    shapes = {"conv1": (after, before, 3, 3), "conv2": (after, after, 3, 3), "conv_sc": (after, before, 1, 1)}
    inputs = [before, after]
    if deep:
        middle = (hidden, hidden, 3, 3)
        shapes = {"conv1": (hidden, before, 1, 1), "conv2": middle, "conv3": middle, "conv4": (after, hidden, 1, 1)}
        inputs = [before, hidden, hidden, hidden]
    for conv, shape in shapes.items():
        spread.layer(state, f"{name}.{conv}", shape, random, form, bias if shape[0] == after else 0.25)
    for number, width in enumerate(inputs, 1):
        for part, scale in (("gain", 0.35), ("bias", 0.5)):
            shape = (width, condition) if condition else (classes, width)
            weight = spread.normal(random, *shape, scale=scale)
            (form if condition else spread.plain)(state, f"{name}.bn{number}.{part}", weight, random)
