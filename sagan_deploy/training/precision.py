"""Whether a precision pays on a device: half precision only where the hardware gains by it."""

from __future__ import annotations

import torch

from sagan_deploy.errors import ConfigError


def check_precision(precision: str, device: torch.device | str) -> None:
    """Refuse bf16 where it would make the training slower.

    Raises:
        ConfigError: this device has no units for it.
    """
    if precision == "fp32":
        return
    device = torch.device(device)
    if device.type == "cpu":
        raise ConfigError(
            "--precision bf16 is slower than fp32 on the CPU: 11 times in a step measured without bfloat16 units. "
            "Train in fp32 and export in the precision that you want"
        )
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
        raise ConfigError(
            f"--precision bf16 is no faster on {torch.cuda.get_device_name(device)}: bfloat16 units came with compute "
            "capability 8.0. Train in fp32 and export in the precision that you want"
        )
