"""PyTorch as a contender: the baked generator, eager or compiled, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sagan_deploy.torch_device import usable

if TYPE_CHECKING:
    import torch


def open_pytorch(
    file: Path,
    device: str,
    stack: contextlib.ExitStack,
    *,
    threads: int | None,
    half: bool,
    channels_last: bool,
    compiled: bool,
) -> PyTorchRun:
    """The generator of a checkpoint, ready to be called; `stack` undoes what is set for the whole process.

    Raises:
        InputError: the file is no checkpoint.
        MissingError: this PyTorch cannot use the device.
    """
    import torch

    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import baked

    if threads is not None:
        torch.set_num_threads(threads)
    place, dtype = usable(device), torch.float16 if half else torch.float32
    network = baked(load_checkpoint(file).generator()).to(place, dtype)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Ten bits are not what the other float32 contenders compute with.
    stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    torch.backends.cudnn.allow_tf32 = False
    return PyTorchRun(torch.compile(network) if compiled else network, place, dtype)


class PyTorchRun:
    """Calls a network as all engines here are called: from arrays to arrays. On the CPU the copies are none."""

    def __init__(self, module: Callable[..., torch.Tensor], place: torch.device, dtype: torch.dtype) -> None:
        self._module, self._place, self._dtype = module, place, dtype

    def __call__(self, z: np.ndarray, labels: np.ndarray | None) -> object:
        """Images in the memory of the host."""
        import torch

        given = self._given(z, labels)
        with torch.inference_mode():
            return self._module(*given).float().cpu()

    def gpu_milliseconds(self, z: np.ndarray, labels: np.ndarray | None) -> float | None:
        """The time between two CUDA events around the network, without the copies; None on the CPU."""
        import torch

        if self._place.type != "cuda":
            return None
        given = self._given(z, labels)
        with torch.cuda.device(self._place), torch.inference_mode():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            self._module(*given)
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))

    def _given(self, z: np.ndarray, labels: np.ndarray | None) -> tuple[torch.Tensor, ...]:
        import torch

        latents = torch.from_numpy(z).to(self._place, self._dtype)
        return (latents,) if labels is None else (latents, torch.from_numpy(labels).to(self._place))
