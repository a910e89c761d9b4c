"""heykeetae/Self-Attention-GAN and hiyouga/SAGAN-PyTorch: unconditional, transposed convs, full attention twice.

`make(seed, ...)`; the payload is a bare state dict (`{step}_G.pth`):

* `conv_dim` 8: attention sits on 2·conv_dim and on conv_dim channels; `z_dim` 12;
* `resolution` 64; 32 is hiyouga's (first width 8·conv_dim, no l4, `attn2` in the file but unused), 128 a "dynamic"
  fork's with one stage more;
* `spectral` True; False has plain `l1.0.weight` (hiyouga under WGAN-GP);
* `data_parallel` False; True adds a `module.` before every key;
* `tracked` True; False leaves `num_batches_tracked` out, as torch before 0.4.1 did;
* `attention_map` "standard": only sets the semantics, the tensors are of the same shapes.

`draw(payload, z, labels=None, attention_map="standard")`: "standard" is variant F (since 2018-06-15), "untransposed"
variant F-T (2018-06-08 to 06-14). `labels` are ignored.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.checkpoints.peers import arithmetic as a
from tests.checkpoints.peers import containers, spread


def make(
    seed: int,
    conv_dim: int = 8,
    z_dim: int = 12,
    resolution: int = 64,
    spectral: bool = True,
    data_parallel: bool = False,
    tracked: bool = True,
    attention_map: str = "standard",
) -> tuple[dict, dict]:
    options = {**locals(), "classes": 0, "used_z_dim": z_dim, "semantics": {"attention_map": attention_map}}
    random = spread.source(seed)
    state: a.State = {}
    form = spread.weight_bar if spectral else spread.plain
    stages = {32: 3, 64: 4, 128: 5}[resolution]
    top = 8 if resolution == 32 else 2 ** (stages - 1)
    widths = [z_dim] + [top * conv_dim // 2**stage for stage in range(stages)]
    for stage in range(1, stages + 1):
        name, (before, after) = f"l{stage}", widths[stage - 1 : stage + 1]
        bias = "0.module.bias" if spectral else "0.bias"
        state[f"{name}.{bias}"] = spread.normal(random, after, scale=0.25)
        form(state, f"{name}.0", spread.kernel(random, before, after, 4, 4), random)
        spread.affine(state, f"{name}.1", after, random)
    state["last.0.weight"] = spread.normal(random, widths[-1], 3, 4, 4, scale=0.4 / (4 * widths[-1]) ** 0.5)
    state["last.0.bias"] = spread.normal(random, 3, scale=0.1)
    for number, width in ((1, 2 * conv_dim), (2, conv_dim)):
        _make_attention(state, f"attn{number}", width, random)
    for norm in (spread.measured(state, random), a.running(state)):
        z, _ = spread.latents(random, 6, z_dim, 0)
        drawn = _image(state, z.double(), norm, attention_map)
    spread.calm(state, drawn, ("last.0.weight", "last.0.bias"))
    if not tracked:
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return containers.parallel(state, data_parallel), options


def draw(payload: dict, z: object, labels: object = None, attention_map: str = "standard") -> np.ndarray:
    state = a.double(containers.alone(payload))
    return a.pixels(_image(state, a.numbers(z), a.running(state), attention_map))


def _image(state: a.State, z: Tensor, norm: a.Norm, attention_map: str) -> Tensor:
    """Deconv (4×4, from 1×1 without padding, then stride 2), batch norm, ReLU; attention by its width; last deconv."""
    state = a.double(state)
    variant = {"standard": "F", "untransposed": "F-T"}[attention_map]
    x = z.reshape(*z.shape, 1, 1)
    stage = 1
    while f"l{stage}.1.weight" in state:
        name = f"l{stage}"
        bias = state.get(f"{name}.0.module.bias", state.get(f"{name}.0.bias"))
        step = {"stride": 1} if stage == 1 else {"stride": 2, "padding": 1}
        x = F.conv_transpose2d(x, a.wrapped(state, f"{name}.0"), bias, **step)
        x = torch.relu(a.affine(x, state, f"{name}.1", norm, 1e-5))
        for attention in ("attn1", "attn2"):
            if state[f"{attention}.value_conv.weight"].shape[0] == x.shape[1]:
                x = _attend(x, state, attention, variant)
        stage += 1
    return F.conv_transpose2d(x, state["last.0.weight"], state["last.0.bias"], stride=2, padding=1)


def _attend(x: Tensor, state: a.State, name: str, variant: str) -> Tensor:
    q, k, v = (a.conv(x, state, f"{name}.{part}_conv", a.plain) for part in ("query", "key", "value"))
    return a.full_attention(x, state[f"{name}.gamma"], q, k, v, variant)


def _make_attention(state: a.State, name: str, width: int, random: torch.Generator) -> None:
    heads = spread.head_count(width)
    state[f"{name}.gamma"] = spread.gamma(random, 1)
    for part, rows in (("query", heads), ("key", heads), ("value", width)):
        scale = 1.5 if rows == heads else 0.8
        state[f"{name}.{part}_conv.weight"] = spread.normal(random, rows, width, 1, 1, scale=scale / width**0.5)
        state[f"{name}.{part}_conv.bias"] = spread.normal(random, rows, scale=0.25)
