"""The processes that train one run together: who is who, and the little that they tell each other.

Started by ``torchrun``, which sets RANK, WORLD_SIZE and the address of the first process. Every process holds whole
networks: the largest preset has 81 million weights in both, 0.3 GB, so dividing them (FSDP) would only cost messages.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from sagan_deploy.errors import ConfigError, InputError, MissingError, SaganDeployError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's `rank` among `size`, and the `device` it computes on. All methods are called by all processes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This process's part of `count` rows of the whole batch.

        Raises:
            ConfigError: they do not divide evenly.
        """
        if count % self.size:
            raise ConfigError(f"batch_size (={count}) must be a multiple of the number of processes (={self.size})")
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.size == 1 else bool(max(self._gathered(int(flag))))

    def from_first(self, value: int | None) -> int | None:
        """The first process's number, in all."""
        if self.size == 1:
            return value
        told = self._gathered(-1 if value is None else value)[0]
        return None if told < 0 else told

    def bytes_from_first(self, payload: bytes | None) -> bytes:
        """The first process's bytes, in all: files are read once, and only the first node needs them."""
        if self.size == 1:
            return payload or b""
        length = torch.tensor([len(payload or b"")], device=self.device)
        dist.broadcast(length, 0)
        released(length)
        content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if self.first and payload:
            content.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        dist.broadcast(content, 0)
        released(content)
        return content.cpu().numpy().tobytes()

    def on_first(self, action: Callable[[], T]) -> T | None:
        """What `action` gives in the first process, which alone runs it. If it fails there, all stop: none waits."""
        if self.size == 1:
            return action()
        result: T | None = None
        error: SaganDeployError | None = None
        if self.first:
            try:
                result = action()
            except SaganDeployError as caught:
                error = caught
        if self.any(error is not None):
            raise error or InputError("the first process stopped; its message says why")
        return result

    def mean(self, values: Sequence[Tensor]) -> list[float]:
        """The means of single numbers over the processes."""
        stacked = torch.stack([value.detach().float() for value in values])
        if self.size > 1:
            dist.all_reduce(stacked)
            released(stacked)
        return [float(value) / self.size for value in stacked]

    def agree(self, digest: str) -> bool:
        """Whether all processes have the same digest (of at least 15 hexadecimal digits)."""
        return self.size == 1 or len(set(self._gathered(int(digest[:15], 16)))) == 1

    def _gathered(self, value: int) -> list[int]:
        mine = torch.tensor([value], dtype=torch.int64, device=self.device)
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_of_them, mine)
        released(mine, *all_of_them)
        return [int(one) for one in all_of_them]


def released(*tensors: Tensor, patience: float = 1.0) -> None:
    """Wait until gloo's threads have let go of these, for at most so many seconds.

    Who lets go last of a tensor that Python made needs the interpreter. These threads do it a moment after they woke
    the caller, and outlive even the group (PyTorch 2.13's DDP never frees it): where a short run ends on busy
    processors, the interpreter was gone by then in one run of ten, and the process aborted.
    """
    until = time.monotonic() + patience
    while any(t.device.type == "cpu" and t._use_count() > 1 for t in tensors) and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0)


@contextlib.contextmanager
def joined_world(device: str = "cpu") -> Iterator[World]:
    """The world that ``torchrun`` describes, or this process alone.

    Args:
        device: ``cuda`` gives every process of a machine the GPU of its LOCAL_RANK.

    Raises:
        ConfigError: a process is told to use one certain GPU.
        MissingError: there are more processes than GPUs here.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World(device=device)
        return
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device (={device}) must be cpu or cuda with {size} processes: each takes one of its own")
    if device == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise MissingError(f"process {local} of this machine has no GPU ({there} here): lower --nproc-per-node")
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    store, rank, size = next(rendezvous("env://"))
    meeting = of_this_life(store, rank, size)
    dist.init_process_group("nccl" if device != "cpu" else "gloo", store=meeting, rank=rank, world_size=size)
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


def of_this_life(store: Store, rank: int, size: int) -> Store:
    """A part of `store` that only the `size` processes use that live now. Returns when all of them have come.

    ``torchrun`` (PyTorch 2.13) keeps one store over all restarts, and processes that find the addresses of their dead
    predecessors in it call them in vain. Its number of restarts does not tell lives apart: every machine counts its
    own. So each process writes a fresh word, and those who read the same words are of one life.

    Raises:
        MissingError: a process did not come within the store's timeout.
    """
    store.set(f"word/{rank}", secrets.token_hex(16))
    patience = store.timeout  # type: ignore[attr-defined]  # the stubs lack it
    until = time.monotonic() + patience.total_seconds()
    while time.monotonic() < until:
        words = [store.get(f"word/{other}") for other in range(size)]
        meeting = PrefixStore(f"life/{hashlib.sha256(b''.join(words)).hexdigest()}", store)
        meeting.set(f"came/{rank}", "")
        if meeting.check([f"came/{other}" for other in range(size)]):
            return meeting
        time.sleep(0.05)  # a word was still that of a predecessor
    raise MissingError(f"process {rank} of {size} met no others within {patience}: look at what they said")
