"""Both networks through `torch.compile`: element-wise work between the convolutions becomes fused kernels."""

from __future__ import annotations

import torch
from torch import nn

from sagan_deploy.errors import MissingError


def compile_networks(*networks: nn.Module) -> None:
    """Compile what calling a network does, when it is first called; names, hooks and weights stay as they are."""
    for network in networks:
        # As one graph or with an error: falling back to eager would be slow without saying so. A batch has one size.
        network.compile(dynamic=False, fullgraph=True)


def check_compiler(device: torch.device | str) -> None:
    """Compile a line of code, before minutes are spent on anything else.

    Raises:
        MissingError: this machine cannot compile for the device; says why.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # the compilers' errors share no base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MissingError(
            f"--compile: PyTorch cannot compile for {device} here ({lines[0]}). A CPU needs a C++ compiler such as "
            "g++, a GPU the package triton. Or train without it"
        ) from error
    finally:
        torch.compiler.reset()
