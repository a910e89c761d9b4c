"""What a precision costs this very network: the training form, computed in it by PyTorch.

u·√L is what roundings add up to when later layers neither amplify nor damp them. Networks do either, by factors of ten
when their weights are random or their norms divide by small numbers. So the same latents also go through the training
form in that precision, and its distance from the reference is the yardstick: an exported file computes the same
function with other operations in another order, and may lose a small multiple of it, whatever the network is.

It shares no operation with the file that is judged: a mistake in an export does not move it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from sagan_deploy.export import baked
from sagan_deploy.parity.cases import Pool
from sagan_deploy.parity.policy import Precision
from sagan_deploy.parity.reference import rows_at_once
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_HALF: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


def draw_in(
    precision: Precision, generator: Generator, pool: Pool, *, progress: Progress = silent
) -> NDArray[np.float64]:
    """What the training form makes of the pool in that precision: [n, c, h, w]. The generator itself is left alone.

    float32 is PyTorch's own. In half precision weights and the result of every operation are rounded, and sums inside
    an operation are float32, as on a GPU.
    """
    network = baked(generator)
    half = _HALF.get(precision)
    if half is not None:
        network = network.to(half).float()  # weights are rounded once
    drawn, step = [], rows_at_once(generator.config)
    with torch.inference_mode(), _Rounding(half):
        for start in range(0, len(pool), step):
            progress(f"yardstick {precision}", start, len(pool))
            rows = slice(start, start + step)
            labels = None if pool.labels is None else torch.from_numpy(pool.labels[rows])
            drawn.append(network(torch.from_numpy(pool.z[rows]), labels).double().numpy())
    progress(f"yardstick {precision}", len(pool), len(pool))
    return np.concatenate(drawn)


class _Rounding(TorchFunctionMode):
    """Rounds the float32 result of every torch function to a half type."""

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self.half = half

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        rounds = self.half is not None and isinstance(result, torch.Tensor) and result.dtype == torch.float32
        return result.to(self.half).float() if rounds else result
