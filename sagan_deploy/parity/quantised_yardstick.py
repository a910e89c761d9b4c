"""What int8 or float8 costs this very network: the training form with fake quantisation by PyTorch.

The same convolutions as in the file, found by their module path; ranges observed in PyTorch on the calibration
latents, weights rounded per output channel. It shares no operation with the file: upsampling convolutions are whole
here and four smaller ones there, so the losses are alike and not equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.export import baked
from sagan_deploy.latents import sample_latents
from sagan_deploy.parity.cases import Pool

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_ROWS = 4
_LARGEST = {"int8": 127.0, "fp8": 448.0}


def draw_quantised(generator: Generator, pool: Pool, step: Mapping[str, Any]) -> NDArray[np.float64]:
    """What the training form makes of the pool with quantised convolutions: [n, c, h, w].

    Args:
        generator: left alone.
        pool: what is drawn.
        step: the file's own account of how it was quantised, from its provenance: kind, module paths kept in float16,
            seed, number and percentile of the calibration.
    """
    kind, kept, calibration = step["kind"], tuple(step["kept_fp16"]), step["calibration"]
    percentile = float(calibration["percentile"])
    network = baked(generator)
    parts = {
        path: part
        for path, part in network.named_modules()
        if isinstance(part, nn.Conv2d) and not any(path == keep or path.startswith(keep + ".") for keep in kept)
    }
    magnitudes: dict[str, list[Tensor]] = {path: [] for path in parts}
    hooks = [
        part.register_forward_pre_hook(lambda _, args, path=path: magnitudes[path].append(args[0].abs().flatten()))
        for path, part in parts.items()
    ]
    with torch.inference_mode():
        _draw(network, _calibration_pool(generator.config, int(calibration["seed"]), int(calibration["latents"])))
        for hook in hooks:
            hook.remove()
        for path, part in parts.items():
            seen = torch.cat(magnitudes.pop(path))
            largest = seen.kthvalue(max(1, round(percentile / 100 * seen.numel()))).values
            scale = (largest / _LARGEST[kind]).clamp_min(1e-12)
            part.register_forward_pre_hook(lambda _, args, scale=scale: (_rounded(args[0], scale, kind),))
            rows = part.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / _LARGEST[kind]
            part.weight.copy_(_rounded(part.weight, rows.clamp_min(1e-12), kind))
        return _draw(network, pool)


def _calibration_pool(config: GeneratorConfig, seed: int, count: int) -> Pool:
    labels = np.arange(count, dtype=np.int64) % config.num_classes if config.conditional else None
    return Pool(sample_latents(seed, count, config.z_dim), labels)


def _draw(network: Generator, pool: Pool) -> NDArray[np.float64]:
    drawn = []
    for start in range(0, len(pool), _ROWS):
        rows = slice(start, start + _ROWS)
        labels = None if pool.labels is None else torch.from_numpy(pool.labels[rows])
        drawn.append(network(torch.from_numpy(pool.z[rows]), labels).double().numpy())
    return np.concatenate(drawn)


def _rounded(values: Tensor, scale: Tensor, kind: str) -> Tensor:
    codes = (values / scale).clamp(-_LARGEST[kind], _LARGEST[kind])
    return (codes.round() if kind == "int8" else codes.to(torch.float8_e4m3fn).float()) * scale
