"""Frozen descriptions of a job: what to export, what to build. They refuse nonsense when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from exporters.errors import BadProfile, SpecError

Precision = Literal["fp16", "bf16", "fp32"]
Weights = Literal["fixed", "refittable", "stripped"]

# The exporter of torch writes opset 18 and later.
OLDEST_OPSET = 18


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that an input may have: every axis from `min` to `max`, tuned for `opt`."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise BadProfile(f"min {self.min}, opt {self.opt} and max {self.max} must have the same number of axes")
        if not all(1 <= low <= best <= high for low, best, high in zip(self.min, self.opt, self.max, strict=True)):
            raise BadProfile(
                f"1 <= min <= opt <= max must hold in every axis, not min {self.min}, opt {self.opt}, max {self.max}"
            )


Profile = Mapping[str, ShapeRange]


@dataclass(frozen=True)
class OnnxSpec:
    """How a module becomes ONNX.

    Args:
        input_names: names of the inputs, in the order of the module's arguments.
        output_names: names of the outputs, in the order of what the module returns.
        dynamic_axes: for an input, which axes are free and how they are called: ``{"z": {0: "n"}}``. Axes with one
            name have one size.
        opset: version of the ONNX operator set; bfloat16 networks need 22.
        metadata: key and value strings to keep in the model.
    """

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    opset: int = 20
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (*self.input_names, *self.output_names)
        if not self.input_names or not self.output_names or len(set(names)) != len(names) or "" in names:
            raise SpecError(f"inputs {self.input_names} and outputs {self.output_names} must have names of their own")
        unknown = sorted(set(self.dynamic_axes) - set(self.input_names))
        if unknown:
            raise SpecError(f"dynamic_axes names {', '.join(unknown)}; the inputs are {', '.join(self.input_names)}")
        if self.opset < OLDEST_OPSET:
            raise SpecError(f"opset (={self.opset}) must be at least {OLDEST_OPSET}: torch writes no older one")
        for key, value in self.metadata.items():
            if not isinstance(value, str):
                raise SpecError(f"metadata {key!r} (={value!r}) must be text")
        axes = {name: MappingProxyType(dict(free)) for name, free in self.dynamic_axes.items()}
        object.__setattr__(self, "dynamic_axes", MappingProxyType(axes))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))


@dataclass(frozen=True)
class EngineSpec:
    """How an ONNX model becomes a plan, and what the plan must turn out to be.

    Args:
        targets: names for `resolve_targets`: the GPUs that the plan is for.
        profiles: the shapes it takes; one mapping from input name to `ShapeRange` per profile. None are needed when
            every shape is fixed.
        workspace_bytes: the most scratch memory that kernels may plan with; None leaves it to TensorRT.
        precision: what convolutions and matrix products must read; None asserts nothing.
        fused_attention: how many fused attention kernels there must be; None asserts nothing.
        timing_cache: kernel timings of an earlier build with the classic TensorRT on the same kind of GPU; empty bytes
            begin a new cache, None keeps none.
        weights: ``fixed`` in the plan; ``refittable``: they can be replaced in a loaded plan; ``stripped``: the plan is
            without them, and gets those of the same ONNX model where it is loaded.
    """

    targets: tuple[str, ...] = ("local",)
    profiles: tuple[Profile, ...] = ()
    workspace_bytes: int | None = None
    precision: Precision | None = None
    fused_attention: int | None = None
    timing_cache: bytes | None = None
    weights: Weights = "fixed"

    def __post_init__(self) -> None:
        if not self.targets:
            raise SpecError("targets is empty; name at least one GPU, or 'local'")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise SpecError(f"workspace_bytes (={self.workspace_bytes}) must be positive")
        if self.precision not in (None, "fp16", "bf16", "fp32"):
            raise SpecError(f"precision (={self.precision!r}) must be fp16, bf16, fp32 or None")
        if self.weights not in ("fixed", "refittable", "stripped"):
            raise SpecError(f"weights (={self.weights!r}) must be fixed, refittable or stripped")
        if self.fused_attention is not None and self.fused_attention < 0:
            raise SpecError(f"fused_attention (={self.fused_attention}) must not be negative")
        for profile in self.profiles:
            _check_profile(profile)
        object.__setattr__(self, "profiles", tuple(MappingProxyType(dict(profile)) for profile in self.profiles))


def _check_profile(profile: Profile) -> None:
    """One batch for all inputs: TensorRT accepts a profile whose inputs disagree, and no call could ever fill it."""
    batches = {name: (shape.min[0], shape.opt[0], shape.max[0]) for name, shape in profile.items() if shape.min}
    if len(set(batches.values())) > 1:
        listed = ", ".join(f"{name} {low}/{best}/{high}" for name, (low, best, high) in batches.items())
        raise BadProfile(f"all inputs of a profile must have the same batch min/opt/max, not {listed}")
