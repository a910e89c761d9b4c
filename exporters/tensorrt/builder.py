"""`build_engine`: ONNX to a plan, checked before the build and judged by the builder's own report after it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exporters.errors import BadProfile, NoGpu, UnsupportedTarget
from exporters.gpu import local_gpus
from exporters.specs import EngineSpec, Profile
from exporters.targets import Target, check_served, resolve_targets, sm_name
from exporters.tensorrt.backend import Backend, Record
from exporters.tensorrt.failures import classify, rejected
from exporters.tensorrt.layers import LayerReport
from exporters.tensorrt.monitor import BuildControl, Progress, no_progress
from exporters.tensorrt.network import check_network
from exporters.tensorrt.plan import PlanHeader

_ACTIVATION = re.compile(r"^Total Activation Memory: (\d+) bytes", re.MULTILINE)
_WEIGHTS = re.compile(r"^Total Weights Memory: (\d+) bytes", re.MULTILINE)


@dataclass(frozen=True)
class BuildResult:
    """A plan and what its builder said of it.

    `activation_bytes` is the device memory that the largest profile plans with, `weight_bytes` that of the weights.
    """

    plan: bytes
    layers: LayerReport
    header: PlanHeader
    targets: tuple[Target, ...]
    activation_bytes: int
    weight_bytes: int
    seconds: float


def build_engine(backend: Backend, onnx: bytes, spec: EngineSpec, progress: Progress = no_progress) -> BuildResult:
    """Build a plan.

    Precision is that of the ONNX model, in every version: builders that could choose are told not to. What `spec`
    asserts of precision and fused attention is checked on the result, and a plan that fails is not returned.
    Ctrl-C and exceptions of `progress` cancel the build and are raised when it has stopped.

    Raises:
        SpecError: unknown or unsupported targets, profiles that do not fit.
        InvalidOnnx, OnnxRejected: the model is not taken.
        BuildFailed: the builder gave up; see its kinds.
        RecipeMismatch: the plan is not what `spec` asserts.
    """
    targets = resolve_targets(spec.targets)
    _check_targets(backend, targets)
    started = time.perf_counter()
    control = BuildControl(progress)
    with backend.logger.capture() as records, control.interruptible():
        plan = _build(backend, onnx, spec, targets, control, records)
    control.finish(built=plan is not None)
    if plan is None:
        raise classify(records)
    texts = [record.text for record in records]
    report = LayerReport.parse(texts)
    if spec.precision is not None:
        report.check_precision(spec.precision)
    if spec.fused_attention is not None:
        report.check_fused_attention(spec.fused_attention)
    return BuildResult(
        plan=plan,
        layers=report,
        header=PlanHeader.parse(plan),
        targets=targets,
        activation_bytes=_largest(_ACTIVATION, texts),
        weight_bytes=_largest(_WEIGHTS, texts),
        seconds=time.perf_counter() - started,
    )


def _check_targets(backend: Backend, targets: Sequence[Target]) -> None:
    check_served(targets, backend.flavour)
    if backend.caps.cc_targets:
        return
    # The classic builder times its kernels on the local GPU; a plan for another one cannot be asked for.
    gpus, reason = local_gpus()
    if not gpus:
        raise NoGpu(
            f"{backend.product} builds on the GPU that the plan is for, and {reason}. "
            f"For GeForce and RTX cards build ahead of time with TensorRT for RTX: --flavour rtx"
        )
    here = gpus[0].compute_capability
    others = [target.name for target in targets if target.compute_capability != here]
    if others:
        raise UnsupportedTarget(
            f"{backend.product} builds for the GPU of this machine ({gpus[0].name}, {sm_name(here)}), not for "
            f"{', '.join(others)}. Run the build there, with --target local."
        )


def _build(
    backend: Backend,
    onnx: bytes,
    spec: EngineSpec,
    targets: Sequence[Target],
    control: BuildControl,
    records: Sequence[Record],
) -> bytes | None:
    trt, logger = backend.trt, backend.logger
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if backend.caps.strong_typing_flag else 0
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise rejected(parser, records)
    check_network(network, spec, targets)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if spec.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_bytes)
    if backend.caps.cc_targets:
        _apply_targets(backend, config, targets)
    for profile in spec.profiles:
        _add_profile(builder, config, profile, records)
    monitor = control.monitor(trt)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(memoryview(plan))


def _apply_targets(backend: Backend, config: Any, targets: Sequence[Target]) -> None:
    known = backend.trt.ComputeCapability
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(known, target.name.replace("_", "").upper(), None)
        if capability is None or not config.set_compute_capability(capability, index):
            raise UnsupportedTarget(f"{backend.product} does not know {target.name}: leave it out or update.")


def _add_profile(builder: Any, config: Any, profile: Profile, records: Sequence[Record]) -> None:
    made = builder.create_optimization_profile()
    for name, shapes in profile.items():
        made.set_shape(name, shapes.min, shapes.opt, shapes.max)
    if config.add_optimization_profile(made) < 0:
        said = next((record.text for record in reversed(records) if record.is_error), "without a reason")
        raise BadProfile(f"TensorRT refuses the profile {dict(profile)}: {said}")


def _largest(pattern: re.Pattern[str], texts: Sequence[str]) -> int:
    """The largest of the numbers that one message per profile gives; 0 when there is none."""
    return max((int(number) for text in texts for number in pattern.findall(text)), default=0)
