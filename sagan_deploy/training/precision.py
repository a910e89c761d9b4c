"""Whether a precision pays on a device: half precision only where the hardware gains by it."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from sagan_deploy.errors import ConfigError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_UNITS_SINCE = {"bf16": (8, 0), "fp16": (7, 0)}  # CUDA compute capability with matrix units for it
_INSTEAD = "Train in fp32 and export in the precision that you want"


def check_precision(precision: str, device: torch.device | str) -> None:
    """Refuse half precision where it would make the training slower.

    GPUs are known by their compute capability; on a CPU, of which some have units for bfloat16, a convolution is timed.

    Raises:
        ConfigError: this device does not gain by it.
    """
    if precision == "fp32":
        return
    device = torch.device(device)
    if device.type == "cpu":
        slower = _seconds(precision) / _seconds("fp32")
        if slower >= 1.0:
            raise ConfigError(
                f"--precision {precision} does not pay on this CPU: a convolution takes {slower:.1f} times as long as "
                f"in fp32. {_INSTEAD}"
            )
    if device.type == "cuda" and torch.cuda.is_available():
        found, since = torch.cuda.get_device_capability(device), _UNITS_SINCE[precision]
        if found < since:
            other = "Take fp16" if precision == "bf16" and found >= _UNITS_SINCE["fp16"] else _INSTEAD
            raise ConfigError(
                f"--precision {precision} is no faster on {torch.cuda.get_device_name(device)}: units for it came with "
                f"compute capability {since[0]}.{since[1]}. {other}"
            )


def _seconds(precision: str) -> float:
    """The fastest of a few passes, there and back, through a 3x3 convolution of 64 channels."""
    dtype, best = _DTYPES[precision], float("inf")
    x = torch.ones(4, 64, 32, 32, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    kernel = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)
    for _ in range(4):
        began = time.perf_counter()
        torch.autograd.grad(F.conv2d(x, kernel, padding=1), (x, kernel), torch.ones_like(x))
        best = min(best, time.perf_counter() - began)
    return best
