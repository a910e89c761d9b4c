"""A device that PyTorch computes on, or one clear line that says why it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagan_deploy.errors import MissingError

if TYPE_CHECKING:
    import torch


def usable(device: torch.device | str) -> torch.device:
    """The device, tried out.

    Raises:
        MissingError: the installed PyTorch cannot compute there.
    """
    import torch

    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0]
        raise MissingError(f"this PyTorch cannot compute on device {str(device)!r} here: {reason}") from error
    return found
