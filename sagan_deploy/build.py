"""An ONNX file to a TensorRT plan and its sidecar: the plan must turn out to be what the file says of itself."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sagan_deploy.bundle.bundle import sidecar_path
from sagan_deploy.bundle.kernels import kernels_of
from sagan_deploy.bundle.manifest import Artifact, Manifest, PlanInfo, Precision, Range, Verdict
from sagan_deploy.bundle.onnx_description import OnnxDescription, describe_onnx
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes, remove, sha256_bytes, write_bytes, write_text
from sagan_deploy.filetypes import detect
from sagan_deploy.onnx_header import OnnxHeader, OnnxTensor, read_onnx_header
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from exporters.quantise import Kind
    from exporters.specs import EngineSpec, Profile, Weights
    from exporters.targets import Target
    from exporters.tensorrt.backend import Backend
    from exporters.tensorrt.builder import BuildResult, CheckedModel

    BatchRange = tuple[int, int, int]  # smallest, best and largest batch

_ASSERTED = ("fp32", "fp16", "bf16")
_QUANTISED = ("int8", "fp8")


@dataclass(frozen=True)
class BuiltPlan:
    """A plan in memory.

    `manifest` is the content of its sidecar; None for an ONNX model of another origin, of which nothing is known
    that a sidecar would have to say. `result` is what the builder reported, `product` the TensorRT that built it.
    """

    plan: bytes
    manifest: Manifest | None
    result: BuildResult
    product: str


def build_plan(
    onnx_path: Path | str,
    *,
    targets: Sequence[str] = ("all-rtx",),
    flavour: str = "auto",
    min_batch: int = 1,
    opt_batch: int | None = None,
    max_batch: int = 64,
    profiles: Sequence[BatchRange | Profile] = (),
    workspace_bytes: int | None = None,
    timing_cache: bytes | None = None,
    weights: Weights = "fixed",
    progress: Progress = silent,
) -> BuiltPlan:
    """Build a TensorRT plan.

    For a model that `export` wrote, its precision is asserted on the plan, and one fused attention kernel per attention
    block where it was written for that. Any other ONNX model is built as it is.

    Args:
        onnx_path: the ONNX file. Its types decide the precision of the plan.
        targets: GPUs (``rtx-4090``), compute capabilities (``sm_89``), ``all-rtx`` or ``local``.
        flavour: ``rtx`` builds ahead of time on any machine, ``tensorrt`` on the GPU that the plan is for; ``auto``
            takes the installed one that serves the targets.
        min_batch: the smallest batch that the plan takes.
        opt_batch: the batch that it is tuned for; None is 8, or less where `max_batch` is.
        max_batch: the largest batch; the memory that the plan needs grows with it. A plan with fused attention takes
            at least 2, because TensorRT fuses nothing when the batch can only be 1.
        profiles: instead of the three batches, several ranges that the plan is tuned for: each (min, opt, max) batch,
            or shapes by input name. Every profile has its own kernels and its own memory.
        workspace_bytes: the most scratch memory that a plan may use; None leaves it to TensorRT.
        timing_cache: kernel timings of an earlier build, for the classic TensorRT; empty bytes begin a cache.
        weights: ``fixed``, ``refittable`` or ``stripped``; see `exporters.specs.EngineSpec`. Other than fixed ones need
            a GPU at build time. A stripped plan is loaded together with the ONNX file it was built from.
        progress: told how far the build is.

    Raises:
        InputError: the file is no ONNX model, or its metadata is damaged.
        ConfigError: batches that contradict each other, inputs that no batch size describes, or profiles for a model
            without free sizes.
        ExportersError: as `exporters.tensorrt.builder.build_engine`.
    """
    from exporters.quantise import check_quantised_plan
    from exporters.tensorrt.builder import build_engine

    job = _prepare(Path(onnx_path), targets, flavour, profiles, (min_batch, opt_batch, max_batch), workspace_bytes)
    spec = dataclasses.replace(job.spec, timing_cache=timing_cache, weights=weights)
    result = build_engine(job.backend, job.payload, spec, progress)
    manifest = None
    if job.description is not None and job.description.precision == "mixed":
        result.layers.check_mixed(job.description.float32_parts)
    if job.description is not None and job.description.precision in _QUANTISED:
        kind = cast("Kind", job.description.precision)
        check_quantised_plan(result.layers, kind, job.description.quantised_convolutions)
    if job.description is not None:
        manifest = _manifest(job.description, job.payload, job.backend, spec, result)
    return BuiltPlan(result.plan, manifest, result, job.backend.product)


def check_plan(
    onnx_path: Path | str,
    *,
    targets: Sequence[str] = ("all-rtx",),
    flavour: str = "auto",
    min_batch: int = 1,
    opt_batch: int | None = None,
    max_batch: int = 64,
    profiles: Sequence[BatchRange | Profile] = (),
    weights: Weights = "fixed",
) -> tuple[CheckedModel, str]:
    """A dry run: all that `build_plan` checks before it builds, and the TensorRT that checked it. Nothing is built.

    Arguments and errors are those of `build_plan`.
    """
    from exporters.tensorrt.builder import check_engine

    job = _prepare(Path(onnx_path), targets, flavour, profiles, (min_batch, opt_batch, max_batch), None)
    spec = dataclasses.replace(job.spec, weights=weights)
    return check_engine(job.backend, job.payload, spec), job.backend.product


def write_plan(out: Path | str, built: BuiltPlan) -> Path:
    """Write ``OUT`` and, where the plan has one, its sidecar ``OUT.json``: both or none.

    Raises:
        InputError: the disk refuses.
    """
    out = Path(out)
    sidecar = sidecar_path(out)
    text = None
    if built.manifest is not None:
        artifact = dataclasses.replace(built.manifest.artifacts[0], path=out.name)
        text = dataclasses.replace(built.manifest, artifacts=(artifact,)).to_json()
    write_bytes(out, built.plan)
    try:
        if text is not None:
            write_text(sidecar, text)
        else:
            remove(sidecar)  # an older plan's would describe this one wrongly
    except BaseException:
        remove(out)
        raise
    return out


@dataclass(frozen=True)
class _Job:
    """A file, what it says of itself, and how it is to be built."""

    payload: bytes
    description: OnnxDescription | None
    backend: Backend
    spec: EngineSpec


def _prepare(
    path: Path,
    targets: Sequence[str],
    flavour: str,
    profiles: Sequence[BatchRange | Profile],
    batches: tuple[int, int | None, int],
    workspace_bytes: int | None,
) -> _Job:
    """`batches` (smallest, best or None, largest) make the only profile where no `profiles` are asked for."""
    from exporters.quantise import check_quantised_targets
    from exporters.targets import resolve_targets
    from exporters.tensorrt.backend import load_backend

    ranges = profiles or (smallest_best_largest(*batches),)
    if (kind := detect(path)) != "onnx":
        raise InputError(f"{path} is a {kind}; a plan is built from an ONNX model: sagan-deploy export")
    payload = read_bytes(path)
    header = read_onnx_header(payload, str(path))
    description = describe_onnx(header, path)
    wanted = resolve_targets(targets)
    if description is not None and description.precision in _QUANTISED:
        check_quantised_targets(cast("Kind", description.precision), wanted)
    backend = load_backend(_flavour(flavour, wanted))
    spec = _spec(header, description, wanted, ranges, workspace_bytes, path)
    if profiles and not spec.profiles:  # who asks for one believes in free sizes
        raise ConfigError(
            f"{path} has no free sizes, so a plan of it takes only the sizes that it has: leave the profile out, or "
            "export it with a free batch"
        )
    return _Job(payload, description, backend, spec)


def smallest_best_largest(low: int, best: int | None, high: int) -> tuple[int, int, int]:
    """The batches of a profile; None for the best is 8, or what is nearest to it between the others.

    Raises:
        ConfigError: they contradict each other.
    """
    best = best if best is not None else max(low, min(8, high))
    if not 1 <= low <= best <= high:
        raise ConfigError(f"batches must satisfy 1 <= min <= opt <= max, not {low}, {best}, {high}")
    return low, best, high


def _flavour(wanted: str, targets: Sequence[Target]) -> Literal["tensorrt", "rtx", "auto"]:
    """The flavour to load: ``auto`` is the installed one that serves all targets, RTX before the classic one."""
    from exporters.tensorrt.backend import installed

    if wanted != "auto":
        return cast('Literal["tensorrt", "rtx"]', wanted)
    serving = [name for name in ("rtx", "tensorrt") if all(name in target.flavours for target in targets)]
    flavours = cast('list[Literal["tensorrt", "rtx"]]', serving)
    return next((name for name in flavours if installed(name)), flavours[0] if flavours else "auto")


def _spec(
    header: OnnxHeader,
    description: OnnxDescription | None,
    targets: Sequence[Target],
    profiles: Sequence[BatchRange | Profile],
    workspace_bytes: int | None,
    path: Path,
) -> EngineSpec:
    from exporters.specs import EngineSpec

    free = [tensor for tensor in header.inputs if any(isinstance(size, str) for size in tensor.shape)]
    precision = description.precision if description is not None and description.precision in _ASSERTED else None
    fused = description.fused_attention if description is not None else None
    # TensorRT 1.7 for RTX drops an axis that is 1 for good, and then no longer knows the pattern of attention.
    ranges = [(1, 1, 2) if fused and profile == (1, 1, 1) else profile for profile in profiles]
    return EngineSpec(
        targets=tuple(target.name for target in targets),
        profiles=tuple(_profile(free, wanted, path) for wanted in ranges) if free else (),
        workspace_bytes=workspace_bytes,
        precision=cast('Literal["fp16", "bf16", "fp32"] | None', precision),
        fused_attention=fused,
    )


def _profile(free: Sequence[OnnxTensor], wanted: BatchRange | Profile, path: Path) -> Profile:
    from exporters.specs import ShapeRange

    if not isinstance(wanted, tuple):
        return wanted
    batches = smallest_best_largest(*wanted)
    profile = {}
    for tensor in free:
        batch, *rest = tensor.shape
        if not isinstance(batch, str) or any(isinstance(size, str) for size in rest):
            raise ConfigError(
                f"{path}: the input {tensor.name!r} has the shape {list(tensor.shape)}; only the first size, the "
                f"batch, may be free. Export it with the other sizes fixed."
            )
        sizes = cast("list[int]", rest)
        profile[tensor.name] = ShapeRange(*((size, *sizes) for size in batches))
    return profile


def _manifest(
    description: OnnxDescription, onnx: bytes, backend: Backend, spec: EngineSpec, result: BuildResult
) -> Manifest:
    plan = _plan_info(onnx, backend, spec, result)
    artifact = Artifact(
        path="model.plan",
        kind="plan",
        sha256=sha256_bytes(result.plan),
        size=len(result.plan),
        precision=cast("Precision", description.precision),
        form=cast('Literal["inference", "training"]', description.form),
        attention=cast('Literal["fused", "decomposed"]', description.attention),
        output=cast('Literal["float", "uint8"]', description.output),
        inputs=description.inputs,
        outputs=description.outputs,
        plan=plan,
        verdict=Verdict("not_run", "not judged yet"),
    )
    step = {
        "step": "build",
        "tensorrt": backend.product,
        "targets": list(plan.targets),
        "onnx_sha256": plan.onnx_sha256,
    }
    return Manifest(
        toolkit_version=version("sagan-deploy"),
        generator=description.config,
        class_names=description.class_names,
        checkpoint_sha256=description.checkpoint_sha256,
        provenance=(*description.provenance, step),
        artifacts=(artifact,),
        golden=None,
        tools={backend.trt.__name__: backend.version},
    )


def _plan_info(onnx: bytes, backend: Backend, spec: EngineSpec, result: BuildResult) -> PlanInfo:
    return PlanInfo(
        flavour=backend.flavour,
        tensorrt_version=backend.version,
        targets=tuple(target.name for target in result.targets),
        compute_capabilities=tuple(target.compute_capability for target in result.targets),
        profiles=tuple(_ranges(profile) for profile in spec.profiles),
        activation_bytes=result.activation_bytes,
        profile_activation_bytes=result.profile_activation_bytes,
        weight_bytes=result.weight_bytes,
        fused_attention=result.layers.fused_attention,
        layer_count=len(result.layers.layers),
        layer_digest=result.layers.digest,
        kernels=kernels_of(result.layers),
        weights=spec.weights,
        onnx_sha256=sha256_bytes(onnx),
        build_os=platform.system().lower(),
        build_arch=platform.machine().lower(),
    )


def _ranges(profile: Profile) -> dict[str, Range]:
    return {name: {"min": shape.min, "opt": shape.opt, "max": shape.max} for name, shape in profile.items()}
