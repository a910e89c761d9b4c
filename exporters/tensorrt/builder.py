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
from exporters.tensorrt import timing, weights
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

    `profile_activation_bytes` is the device memory that each profile plans with, `weight_bytes` that of the weights.
    `timing_cache` is what a classic builder measured, for the next build; None when none was asked for.
    """

    plan: bytes
    layers: LayerReport
    header: PlanHeader
    targets: tuple[Target, ...]
    profile_activation_bytes: tuple[int, ...]
    weight_bytes: int
    seconds: float
    timing_cache: bytes | None = None

    @property
    def activation_bytes(self) -> int:
        """The device memory that the largest profile plans with."""
        return max(self.profile_activation_bytes, default=0)


@dataclass(frozen=True)
class CheckedModel:
    """What a dry run found: the parser takes the model and the builder its profiles and targets. Nothing was built.

    `inputs` and `outputs` are (name, type, shape) with −1 for free sizes; `layers` counts the parsed network's.
    """

    targets: tuple[Target, ...]
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    layers: int


def build_engine(backend: Backend, onnx: bytes, spec: EngineSpec, progress: Progress = no_progress) -> BuildResult:
    """Build a plan.

    Precision is that of the ONNX model, in every version: builders that could choose are told not to. What `spec`
    asserts of precision and fused attention is checked on the result, and a plan that fails is not returned.
    Ctrl-C and exceptions of `progress` cancel the build and are raised when it has stopped.

    Raises:
        SpecError: unknown or unsupported targets, profiles that do not fit.
        NoGpu: the build needs a GPU that is not here.
        InvalidOnnx, OnnxRejected: the model is not taken.
        BuildFailed: the builder gave up; see its kinds.
        RecipeMismatch: the plan is not what `spec` asserts.
    """
    targets = resolve_targets(spec.targets)
    _check_targets(backend, targets)
    weights.check(backend, spec.weights)
    started = time.perf_counter()
    control = BuildControl(progress)
    with backend.logger.capture() as records, control.interruptible():
        job = _prepare(backend, onnx, spec, targets, records)
        builder, network, config = job.builder, job.network, job.config
        cache = timing.attach(backend, config, spec.timing_cache)
        monitor = control.monitor(backend.trt)
        config.progress_monitor = monitor
        memory = builder.build_serialized_network(network, config)
        plan = None if memory is None else bytes(memoryview(memory))
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
        profile_activation_bytes=_numbers(_ACTIVATION, texts),
        weight_bytes=max(_numbers(_WEIGHTS, texts), default=0),
        seconds=time.perf_counter() - started,
        timing_cache=None if cache is None else timing.content(cache),
    )


def check_engine(backend: Backend, onnx: bytes, spec: EngineSpec) -> CheckedModel:
    """Do all of `build_engine` except the build: targets, parser, data types, precision, profiles, support.

    Raises:
        SpecError, NoGpu, InvalidOnnx, OnnxRejected, PrecisionMismatch: as `build_engine`.
    """
    targets = resolve_targets(spec.targets)
    _check_targets(backend, targets)
    weights.check(backend, spec.weights)
    with backend.logger.capture() as records:
        network = _prepare(backend, onnx, spec, targets, records).network
        inputs = tuple(_described(network.get_input(i)) for i in range(network.num_inputs))
        outputs = tuple(_described(network.get_output(i)) for i in range(network.num_outputs))
        return CheckedModel(targets, inputs, outputs, network.num_layers)


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


@dataclass(frozen=True)
class _Job:
    """A parsed network and how it is to be built. The parser owns what the network reads, so it is kept too."""

    builder: Any
    network: Any
    config: Any
    parser: Any


def _prepare(
    backend: Backend, onnx: bytes, spec: EngineSpec, targets: Sequence[Target], records: Sequence[Record]
) -> _Job:
    trt, logger = backend.trt, backend.logger
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if backend.caps.strong_typing_flag else 0
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise rejected(parser, records)
    check_network(network, spec, targets, backend.flavour)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorRT allows TF32 by default, ten bits where float32 was asked for.
    config.clear_flag(trt.BuilderFlag.TF32)
    weights.apply(trt, config, spec.weights)
    if spec.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_bytes)
    if backend.caps.cc_targets:
        _apply_targets(backend, config, targets)
    for profile in spec.profiles:
        _add_profile(builder, config, profile, records)
    return _Job(builder, network, config, parser)


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


def _described(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.dtype.name.lower(), tuple(tensor.shape)


def _numbers(pattern: re.Pattern[str], texts: Sequence[str]) -> tuple[int, ...]:
    """What one message per profile gives, in the order of the profiles."""
    return tuple(int(number) for text in texts for number in pattern.findall(text))
