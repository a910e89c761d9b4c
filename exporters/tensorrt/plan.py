"""What the first bytes of a plan say: who wrote it, in which version, for which GPUs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from exporters.targets import Capability, Flavour

_MAGIC: dict[bytes, Flavour] = {b"ftrt": "tensorrt", b"vtrt": "rtx"}
_BYTES = 64
# Bit i of the capability mask in a plan of TensorRT for RTX.
_MASK: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan.

    Flavour and version are what NVIDIA's own trtexec reads; the rest was observed in plans of TensorRT for RTX 1.7
    and serves to explain, never to refuse. `compute_capabilities` and `weight_bytes` are None in classic plans.
    """

    flavour: Flavour
    version: tuple[int, int, int, int]
    total_bytes: int
    compute_capabilities: tuple[Capability, ...] | None
    weight_bytes: int | None

    @classmethod
    def parse(cls, plan: bytes | memoryview) -> PlanHeader:
        """Read the first 64 bytes.

        Raises:
            ValueError: they do not begin a plan.
        """
        head = bytes(plan[:_BYTES])
        flavour = _MAGIC.get(head[:4])
        if flavour is None or len(head) < _BYTES:
            raise ValueError(f"no TensorRT plan: it begins with {head[:4]!r} and has {len(plan)} bytes")
        (total,) = struct.unpack_from("<Q", head, 16)
        version = struct.unpack_from("4B", head, 24)
        if flavour == "tensorrt":
            return cls(flavour, version, total, None, None)
        (mask,) = struct.unpack_from("<Q", head, 32)
        (weights,) = struct.unpack_from("<Q", head, 56)
        capabilities = tuple(capability for bit, capability in enumerate(_MASK) if mask >> bit & 1)
        return cls(flavour, version, total, capabilities, weights)
