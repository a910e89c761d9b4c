"""huggingface/pytorch-pretrained-BigGAN: BigGAN-deep with statistics per truncation.

`make(seed, ...)`; the payload is a bare state dict (`pytorch_model.bin`), `options["config"]` what lies in its
`config.json`:

* `ch` 4 (channel_width), `z_dim` 8, `classes` 5, `resolution` 32, 64, 128, 256;
* `layers` None: a list of (grows, width in, width out) in units of ch instead of the one for the resolution;
* `attention_position` None: the entry of that list before which attention stands (None: as the public files, on
  4·ch or 2·ch channels in front of the last stages);
* `stats` 51 rows of statistics, `norm_eps` 1e-4 (`eps` in the config), `truncation` 1.0: only sets the semantics.

`draw(payload, z, labels, truncation=1.0, config=None)`: `labels` are class numbers (the origin takes one-hot rows).
Without `config` every second layer grows and eps is 1e-4. Truncation only selects statistics; z is taken as it is.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread

PLANS = {  # widths of the stages, and the list entry that attention precedes
    32: ((8, 4, 2, 1), 4),
    64: ((16, 8, 4, 2, 1), 6),
    128: ((16, 16, 8, 4, 2, 1), 8),
    256: ((16, 16, 8, 8, 4, 2, 1), 8),
}


def make(
    seed: int,
    ch: int = 4,
    z_dim: int = 8,
    classes: int = 5,
    resolution: int = 64,
    layers: list | None = None,
    attention_position: int | None = None,
    stats: int = 51,
    norm_eps: float = 1e-4,
    truncation: float = 1.0,
) -> tuple[dict, dict]:
    options = {**locals(), "used_z_dim": z_dim}
    widths, place = PLANS[resolution]
    place = place if attention_position is None else attention_position
    if layers is None:
        layers = [row for i, o in pairwise(widths) for row in ([False, i, i], [True, i, o])]
    config = {
        "attention_layer_position": place,
        "channel_width": ch,
        "class_embed_dim": z_dim,
        "eps": norm_eps,
        "layers": [list(row) for row in layers],
        "n_stats": stats,
        "num_classes": classes,
        "output_dim": resolution,
        "z_dim": z_dim,
    }
    options.update(config=config, layers=config["layers"], attention_position=place)
    options["semantics"] = {"truncation": truncation, "config": config}
    random = spread.source(seed)
    state = _draw_weights(config, random)
    for norm in (spread.measured(state, random, partial(_keep, stats, random)), _truncated(state, truncation)):
        z, labels = spread.latents(random, 6, z_dim, classes)
        drawn = _image(state, z.double(), labels, norm, config)
    last = ("bn.weight", "bn.bias", "conv_to_rgb.bias")
    spread.calm(state, drawn, tuple(f"generator.{name}" for name in last))
    return containers.with_metadata(state), options


def draw(payload: dict, z: object, labels: object, truncation: float = 1.0, config: dict | None = None) -> np.ndarray:
    state = a.double(payload)
    return a.pixels(_image(state, a.numbers(z), a.classes(labels), _truncated(state, truncation), config))


def _image(state: a.State, z: Tensor, y: Tensor, norm: a.Norm, config: dict | None) -> Tensor:
    """The linear's rows are height × width × channels; of the last conv's outputs only the first three are used."""
    state = {key.removeprefix("generator."): value for key, value in a.double(state).items()}
    eps = config["eps"] if config else 1e-4
    cond = torch.cat([z, state["embeddings.weight"].T[y]], dim=1)
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    entries = [number for number in range(count) if f"layers.{number}.gamma" not in state]
    grows = [row[0] for row in config["layers"]] if config else [place % 2 == 1 for place in range(len(entries))]
    x = a.linear(cond, state, "gen_z", a.stored)
    channels = state["layers.0.conv_0.weight_orig"].shape[1]
    x = x.reshape(x.shape[0], 4, 4, channels).permute(0, 3, 1, 2)
    for number in range(count):
        name = f"layers.{number}"
        if number not in entries:
            x = a.pooled_attention(x, state, _attention(name), f"{name}.gamma", a.stored)
            continue
        grow = a.nearest if grows[entries.index(number)] else a.same
        given = {"state": state, "cond": cond, "norm": norm, "eps": eps}
        norms = [partial(_conditional, name=f"{name}.bn_{i}", **given) for i in range(4)]
        convs = [partial(a.conv, state=state, name=f"{name}.conv_{i}", read=a.stored) for i in range(4)]
        x = a.bottleneck(x, norms, convs, grow)
    x = torch.relu(a.per_channel(norm(x, "generator.bn", eps), state["bn.weight"], state["bn.bias"]))
    return a.conv(x, state, "conv_to_rgb", a.stored)[:, :3]


def _conditional(x: Tensor, state: a.State, name: str, cond: Tensor, norm: a.Norm, eps: float) -> Tensor:
    gain, shift = (cond @ a.stored(state, f"{name}.{part}").T for part in ("scale", "offset"))
    return a.per_channel(norm(x, f"generator.{name}", eps), 1 + gain, shift)


def _truncated(state: a.State, truncation: float) -> a.Norm:
    """Statistics for this truncation: the row itself if it falls on one, else two rows with exchanged weights."""

    def pick(rows: Tensor) -> Tensor:
        fraction, whole = math.modf(truncation / (1.0 / (rows.shape[0] - 1)))
        row = int(whole)
        if fraction == 0.0:
            return rows[row]
        return fraction * rows[row] + (1 - fraction) * rows[row + 1]

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return a.normalise(x, pick(state[f"{name}.running_means"]), pick(state[f"{name}.running_vars"]), eps)

    return norm


def _keep(stats: int, random: torch.Generator, state: a.State, name: str, mean: Tensor, variance: Tensor) -> None:
    """Measured statistics in the last row (truncation 1); towards row 0 they move away, unevenly."""
    path = torch.linspace(1, 0, stats)[:, None]
    bend = 1 + 0.1 * torch.sin(torch.arange(stats)[:, None] * 1.7) * (path > 0)
    aside = 0.5 * variance.sqrt() * spread.normal(random, len(mean))
    state[f"{name}.running_means"] = mean + path * bend * aside
    state[f"{name}.running_vars"] = variance * torch.exp(path * bend * spread.normal(random, len(mean), scale=0.3))


def _draw_weights(config: dict, random: torch.Generator) -> a.State:
    state: a.State = {}
    form, ch, cond = spread.orig_u_v, config["channel_width"], 2 * config["z_dim"]
    place = config["attention_layer_position"]
    state["embeddings.weight"] = spread.normal(random, config["z_dim"], config["num_classes"])
    spread.layer(state, "generator.gen_z", (16 * ch * config["layers"][0][1], cond), random, form)
    number = 0
    for entry, (_, before, after) in enumerate(config["layers"]):
        before, after = before * ch, after * ch
        if entry == place:
            name = f"generator.layers.{number}"
            state[f"{name}.gamma"] = spread.gamma(random, 1)
            spread.pooled_attention(state, _attention(name), before, random, form)
            number += 1
        name, hidden = f"generator.layers.{number}", before // 4
        middle = (hidden, hidden, 3, 3)
        shapes = [(hidden, before, 1, 1), middle, middle, (after, hidden, 1, 1)]
        for i, shape in enumerate(shapes):
            outward = 1.0 if i == 3 and entry < place else 0.25
            spread.layer(state, f"{name}.conv_{i}", shape, random, form, outward)
            for part, scale in (("scale", 0.35), ("offset", 0.5)):
                weight = spread.normal(random, shape[1], cond, scale=scale)
                form(state, f"{name}.bn_{i}.{part}", weight, random)
        number += 1
    spread.affine(state, "generator.bn", config["layers"][-1][2] * ch, random, gain=0.7)
    spread.layer(state, "generator.conv_to_rgb", (ch, ch, 3, 3), random, form, bias=0.1)
    return state


def _attention(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.snconv1x1_{part}" for part in ("theta", "phi", "g", "o_conv"))
