"""GPU names, their compute capabilities, and which flavour of TensorRT builds plans for them.

TensorRT for RTX builds ahead of time, on any machine, for the capabilities it knows; the classic TensorRT builds for
every GPU from Turing on, but only on a machine that has it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from exporters.errors import NoGpu, UnknownTarget, UnsupportedTarget
from exporters.gpu import local_gpus

Flavour = Literal["tensorrt", "rtx"]
Capability = tuple[int, int]

PRODUCT: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}

_GPUS: dict[Capability, tuple[str, ...]] = {
    (7, 0): ("V100", "Titan V"),
    (7, 5): ("RTX 2060", "RTX 2070", "RTX 2080", "Titan RTX", "GTX 1650", "GTX 1660", "T4", "Quadro RTX 6000"),
    (8, 0): ("A100", "A30"),
    (8, 6): (
        *("RTX 3050", "RTX 3060", "RTX 3070", "RTX 3080", "RTX 3090"),
        *("RTX A2000", "RTX A4000", "RTX A5000", "RTX A6000", "A2", "A10", "A10G", "A16", "A40"),
    ),
    (8, 7): ("Jetson Orin", "Jetson AGX Orin", "Jetson Orin NX", "Jetson Orin Nano"),
    (8, 9): (
        *("RTX 4050", "RTX 4060", "RTX 4070", "RTX 4080", "RTX 4090"),
        *("RTX 4000 Ada", "RTX 5000 Ada", "RTX 6000 Ada", "L4", "L40", "L40S"),
    ),
    (9, 0): ("H100", "H200", "GH200"),
    (10, 0): ("B100", "B200", "GB200"),
    (10, 3): ("B300", "GB300"),
    (11, 0): ("Jetson Thor",),
    (12, 0): ("RTX 5050", "RTX 5060", "RTX 5070", "RTX 5080", "RTX 5090", "RTX PRO 6000 Blackwell"),
    (12, 1): ("GB10", "DGX Spark"),
}

# Turing is served by TensorRT for RTX only when asked for: it costs every other target of the same plan.
_RTX_DEFAULT: tuple[Capability, ...] = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
_RTX: tuple[Capability, ...] = ((7, 5), *_RTX_DEFAULT)
_OLDEST: Capability = (7, 5)

# What distinguishes cards of one chip generation, and never their compute capability.
_VARIANT = re.compile(r"(-(ti|super|laptop|mobile|max-q|d|v2|gpu|pcie|sxm\d?|nvl|\d+gb|generation|blackwell))+$")


@dataclass(frozen=True)
class Target:
    """GPUs of one compute capability; `flavours` says who builds for them, preferred one first."""

    name: str  # "sm_89"
    compute_capability: Capability
    gpus: tuple[str, ...]
    flavours: tuple[Flavour, ...]


def known_targets() -> tuple[Target, ...]:
    """Every target that has a name here, oldest first."""
    return tuple(_target(capability) for capability in _GPUS)


def resolve_targets(names: str | Iterable[str]) -> tuple[Target, ...]:
    """The targets that people mean, oldest first, each once.

    Args:
        names: ``"rtx-5090,sm_89"`` or a sequence of such names. A name is a GPU (``rtx-4090``, ``RTX 3080 Ti``,
            ``a100``), a compute capability (``sm_89``, ``8.9``), ``all-rtx`` (what TensorRT for RTX builds for
            without being asked for more) or ``local`` (the GPUs of this machine).

    Raises:
        UnknownTarget: a name is none of these; the message has the closest ones.
        NoGpu: ``local``, and there is no GPU here.
    """
    parts = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    wanted = [part.strip() for part in parts if part.strip()]
    if not wanted:
        raise UnknownTarget("no target is named. Name a GPU (rtx-4090), a compute capability (sm_89) or all-rtx.")
    found = {capability for name in wanted for capability in _capabilities(name)}
    return tuple(_target(capability) for capability in sorted(found))


def check_served(targets: Iterable[Target], flavour: Flavour) -> None:
    """Refuse targets that a flavour never builds for, with the way that does.

    Raises:
        UnsupportedTarget: the message names the GPU, the flavour and the alternative.
    """
    for target in targets:
        if flavour in target.flavours:
            continue
        gpus = f"{target.name} ({', '.join(target.gpus[:3]) or 'no GPU known here'})"
        if not target.flavours:
            raise UnsupportedTarget(f"{gpus} is older than sm_75 (Turing), the oldest that any TensorRT builds for.")
        raise UnsupportedTarget(
            f"TensorRT for RTX does not build for {gpus}; it serves {', '.join(map(sm_name, _RTX))}. Use the classic "
            f"TensorRT on a machine with that GPU: --flavour tensorrt --target local"
        )


def sm_name(capability: Capability) -> str:
    """The usual name of a compute capability: (8, 9) is ``sm_89``."""
    return f"sm_{capability[0]}{capability[1]}"


def _target(capability: Capability) -> Target:
    flavours: tuple[Flavour, ...] = ("rtx",) if capability in _RTX else ()
    if capability >= _OLDEST:
        flavours = (*flavours, "tensorrt")
    return Target(sm_name(capability), capability, _GPUS.get(capability, ()), flavours)


def _capabilities(name: str) -> tuple[Capability, ...]:
    key = _canonical(name)
    if key == "all-rtx":
        return _RTX_DEFAULT
    if key == "local":
        gpus, reason = local_gpus()
        if not gpus:
            raise NoGpu(f"the target 'local' is the GPU of this machine, and {reason}. Name one, e.g. rtx-4090.")
        return tuple({gpu.compute_capability for gpu in gpus})
    if number := re.fullmatch(r"(?:sm-?|cc-?|compute-?)?(\d{1,2})\.?(\d)", key):
        return ((int(number[1]), int(number[2])),)
    by_name = {_canonical(gpu): capability for capability, gpus_ in _GPUS.items() for gpu in gpus_}
    for candidate in (key, _VARIANT.sub("", key)):
        for spelling in (candidate, f"rtx-{candidate}"):
            if spelling in by_name:
                return (by_name[spelling],)
    known = [*by_name, *map(sm_name, _GPUS), "all-rtx", "local"]
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or ["rtx-4090", "sm_89", "all-rtx"]
    raise UnknownTarget(f"{name!r} is no GPU known here. Did you mean {', '.join(close)}? A capability works always.")


def _canonical(name: str) -> str:
    """``NVIDIA GeForce RTX 4090 Laptop GPU`` and ``rtx4090`` as ``rtx-4090…``."""
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    key = re.sub(r"^(nvidia-|geforce-|tesla-|quadro-(?=rtx-a))+", "", key)
    return re.sub(r"^(rtx|gtx)(?=\d)", r"\1-", key)
