"""Which artifact runs here, and with what: the best one that does, and for every other one the reason why not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from io import BufferedReader
from pathlib import Path
from typing import Literal

from sagan_deploy.bundle.bundle import Bundle, CorruptError, find_manifest, open_bundle, sidecar_path
from sagan_deploy.bundle.manifest import Artifact, Manifest
from sagan_deploy.errors import ConfigError, InputError, MissingError, SaganDeployError
from sagan_deploy.files import held_open, path_of, read_bytes
from sagan_deploy.filetypes import detect
from sagan_deploy.runtime import cuda
from sagan_deploy.runtime.contexts import TensorRTOptions
from sagan_deploy.runtime.contract import Contract, contract_of_artifact
from sagan_deploy.runtime.generator import Backend, Rejection, RuntimeGenerator
from sagan_deploy.runtime.ort import CpuOptions, load_onnxruntime, open_onnx
from sagan_deploy.runtime.refit import Source, source_beside

BackendName = Literal["auto", "tensorrt", "onnxruntime"]
Builder = Callable[[Bundle, int], Path]

# fp16 is what CUDA is fast at; on the CPU ONNX Runtime computes it in fp32 after many conversions.
BUILDERS = "sagan_deploy.builders"
_PREFERENCE = {
    "onnxruntime-cuda": ("fp16", "mixed", "fp32", "bf16", "int8", "fp8"),
    "onnxruntime-cpu": ("fp32", "mixed", "fp16", "bf16", "int8", "fp8"),
}


@dataclass(frozen=True)
class Candidate:
    """One way to run one file.

    `ready` raises `MissingError` when this machine cannot, without reading the file; `open` checks the hash of the
    file and makes the backend.
    """

    backend: Literal["tensorrt", "onnxruntime-cuda", "onnxruntime-cpu"]
    file: str
    artifact: Artifact | None
    ready: Callable[[], object]
    open: Callable[[], tuple[Backend, Contract]]

    def load(self, rejected: Iterable[Rejection] = ()) -> RuntimeGenerator:
        """Open it, or raise what speaks against it."""
        if self.artifact is not None and self.artifact.verdict.status == "failed":
            raise InputError(f"{self.file} failed parity when it was made: {self.artifact.verdict.reason}")
        self.ready()
        backend, contract = self.open()
        return RuntimeGenerator(contract, backend, artifact=self.file, rejected=tuple(rejected))


@dataclass(frozen=True)
class _FirstUse:
    """The plan that a builder makes here, behind the plans that are there already."""

    path: Path
    builder: Builder
    gpu: int
    options: TensorRTOptions
    backend: Literal["tensorrt"] = "tensorrt"
    file: str = "a plan to be built here"

    def load(self, rejected: Iterable[Rejection] = ()) -> RuntimeGenerator:
        """Have it built and open it, or raise what speaks against it."""
        _need_gpu()
        plan = self.builder(open_bundle(self.path), self.gpu)
        manifest, artifact = _described_plan(plan)
        onnx = source_beside(plan, artifact.plan)
        way = _plan(manifest, artifact, str(plan), _need_gpu, lambda: read_bytes(plan), self.gpu, self.options, onnx)
        return way.load(rejected)


def _check_request(backend: str, device: str | None, *, for_plans: bool) -> None:
    if backend not in ("auto", "tensorrt", "onnxruntime"):
        raise ConfigError(f"backend (={backend!r}) must be auto, tensorrt or onnxruntime")
    if backend == "tensorrt" and device == "cpu":
        raise ConfigError("backend 'tensorrt' needs a GPU; it cannot run with device 'cpu'")
    if for_plans and (backend == "onnxruntime" or device == "cpu"):
        raise ConfigError(
            f"cuda_graphs and builder are for TensorRT plans; leave them out with backend {backend!r} and device "
            f"{device or 'any'!r}"
        )


def installed_builder() -> Builder:
    """The builder that a package on this machine offers; its code is loaded when it builds, not before.

    Production knows no exporter: whoever can build says so by an entry point, `sagan_deploy.first_use` among them.

    Raises:
        MissingError: nobody does.
    """
    for entry in entry_points(group=BUILDERS):

        def build(bundle: Bundle, gpu: int, entry: EntryPoint = entry) -> Path:
            return Path(entry.load()(bundle, gpu))

        return build
    raise MissingError(f"no package here builds plans (entry point {BUILDERS!r}). Install sagan-deploy again.")


def load(
    path: Path | str,
    *,
    backend: BackendName = "auto",
    device: str | None = None,
    threads: int | None = None,
    spin: bool = True,
    cuda_graphs: bool = False,
    runtime_cache: Path | str | None = None,
    build_missing: bool = False,
    builder: Builder | None = None,
) -> RuntimeGenerator:
    """Load a generator with the best engine that this machine has for it.

    The order is: a TensorRT plan that fits the GPU and the installed version, one that `builder` makes, ONNX Runtime
    with CUDA, ONNX Runtime on the CPU. A request for a backend or a device is met or refused, never replaced by
    something slower.

    Args:
        path: a bundle, an ``.onnx`` or a ``.plan`` with its ``.plan.json`` beside it.
        backend: ``"tensorrt"`` or ``"onnxruntime"`` to have only that.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` to have only that.
        threads: threads inside one run on the CPU; None leaves it to ONNX Runtime.
        spin: on the CPU they look out for more work at full speed for tens of milliseconds, also after a call. False
            lets them sleep: the cores are free for others, and calls take up to 1.6 times as long (two threads).
        cuda_graphs: plans launch a batch as a whole, where the same batch size comes again and again. Other backends
            have no such thing.
        runtime_cache: file that keeps, for later starts, what the engine makes of a model on this machine. TensorRT
            for RTX keeps the kernels that it compiles, and writes them when the generator is closed; ONNX Runtime on
            the CPU keeps the model as it was optimised, and writes it at once. Others have nothing to keep. One file
            serves one model on one kind of machine.
        build_missing: let the installed `builder` make a plan where none fits: once, which takes minutes.
        builder: makes a plan for a bundle of which none runs here: from the open bundle and the number of the GPU to
            the file, with its sidecar beside it. `sagan_deploy.first_use` has one; production without it stays as it
            is, because building needs packages that running does not.

    Raises:
        InputError: the file is corrupt, of another kind, or does not fit this machine.
        MissingError: a package, a driver or a GPU that the request needs is missing.
        ConfigError: the options contradict each other.
        CheckFailed: the plan that `builder` made draws other images (from `builder`).
    """
    _check_request(backend, device, for_plans=cuda_graphs or build_missing or builder is not None)
    builder = builder or (installed_builder() if build_missing else None)
    kept = None if runtime_cache is None else Path(runtime_cache)
    options, cpu = TensorRTOptions(cuda_graphs, kept), CpuOptions(threads, spin, kept)
    if builder is not None and detect(path) != "bundle":
        raise ConfigError(f"{path} is no bundle; a builder needs one, because its golden images judge what it builds")
    found = candidates(path, device=device, cpu=cpu, options=options)
    wanted = [way for way in found if backend == "auto" or way.backend.startswith(backend)]
    ways: list[Candidate | _FirstUse] = [*_in_order(wanted)]
    if builder is not None:
        plans = sum(way.backend == "tensorrt" for way in ways)
        ways.insert(plans, _FirstUse(Path(path), builder, _devices(device)[1] or 0, options))
    if not ways:
        raise InputError(f"{path} holds nothing that runs with backend {backend!r} and device {device or 'any'!r}.")
    return _first_that_runs(path, ways)


def _first_that_runs(path: Path | str, ways: Iterable[Candidate | _FirstUse]) -> RuntimeGenerator:
    rejected: list[Rejection] = []
    errors: list[SaganDeployError] = []
    for way in ways:
        try:
            return way.load(rejected)
        except CorruptError:
            raise  # a damaged file is never a reason to quietly take another one
        except (InputError, MissingError) as error:
            rejected.append(Rejection(way.backend, way.file, str(error)))
            errors.append(error)
    # The CPU asks for nothing special: what an ONNX model is refused for there is the model's own fault.
    if len(errors) == 1 or (rejected[-1].backend == "onnxruntime-cpu" and isinstance(errors[-1], InputError)):
        raise errors[-1]
    missing = any(isinstance(error, MissingError) for error in errors)
    raise (MissingError if missing else InputError)(f"nothing in {path} runs here. " + " | ".join(map(str, rejected)))


def candidates(
    path: Path | str,
    *,
    device: str | None = None,
    cpu: CpuOptions | None = None,
    options: TensorRTOptions | None = None,
) -> list[Candidate]:
    """Every way to run every file of `path`, in the order of the manifest.

    Raises:
        InputError: `path` is no bundle, ONNX model or plan.
        ConfigError: `device` is no device.
    """
    path = Path(path)
    on_cpu, gpu = _devices(device)
    options = options or TensorRTOptions()
    kind = detect(path)
    if kind == "checkpoint":
        raise InputError(
            f"{path} is a checkpoint; production runs what is made from it: sagan-deploy deploy {path} --out bundle"
        )
    if kind == "bundle":
        bundle = open_bundle(path)
        found = [_of_artifact(bundle, artifact, gpu, cpu, options) for artifact in bundle.manifest.artifacts]
        ways = [way for group in found for way in group]
    elif kind == "plan":
        manifest, artifact = _described_plan(path)
        onnx = source_beside(path, artifact.plan)
        ways = [_plan(manifest, artifact, path.name, lambda: None, lambda: read_bytes(path), gpu, options, onnx)]
    else:
        ways = _onnx(path.name, None, lambda: held_open(path), None, gpu, cpu)
    return [way for way in ways if (on_cpu if way.backend == "onnxruntime-cpu" else gpu is not None)]


def _in_order(ways: list[Candidate]) -> list[Candidate]:
    """All plans as the manifest lists them, then the best ONNX model for CUDA, then the best one for the CPU."""
    plans = [way for way in ways if way.backend == "tensorrt"]
    return [*plans, *_best(ways, "onnxruntime-cuda"), *_best(ways, "onnxruntime-cpu")]


def _best(ways: list[Candidate], backend: str) -> list[Candidate]:
    def rank(way: Candidate) -> tuple[bool, int]:
        if way.artifact is None:
            return False, 0
        return way.artifact.verdict.status == "failed", _PREFERENCE[backend].index(way.artifact.precision)

    return sorted((way for way in ways if way.backend == backend), key=rank)[:1]


def _of_artifact(
    bundle: Bundle, artifact: Artifact, gpu: int | None, cpu: CpuOptions | None, options: TensorRTOptions
) -> list[Candidate]:
    if artifact.kind == "onnx":
        hold = functools.partial(bundle.hold, artifact)
        return _onnx(artifact.path, artifact, hold, bundle.manifest, gpu, cpu)

    # Opening a plan checks its hash, in its place in the order of checks.
    def read_plan() -> bytes:
        return read_bytes(bundle.file_path(artifact))

    onnx = source_beside(bundle.file_path(artifact), artifact.plan)
    return [_plan(bundle.manifest, artifact, artifact.path, _need_gpu, read_plan, gpu, options, onnx)]


def _need_gpu() -> None:
    if reason := cuda.unavailable():
        raise MissingError(f"it needs an NVIDIA GPU: {reason}.")


def _plan(
    manifest: Manifest,
    artifact: Artifact,
    name: str,
    ready: Callable[[], None],
    read: Callable[[], bytes],
    gpu: int | None,
    options: TensorRTOptions,
    onnx: Source,
) -> Candidate:
    def open_() -> tuple[Backend, Contract]:
        from sagan_deploy.runtime.tensorrt import open_plan

        return open_plan(read(), name, manifest, artifact, device=gpu or 0, options=options, onnx=onnx)

    return Candidate("tensorrt", name, artifact, ready, open_)


def _onnx(
    name: str,
    artifact: Artifact | None,
    hold: Callable[[], AbstractContextManager[BufferedReader]],
    manifest: Manifest | None,
    gpu: int | None,
    cpu: CpuOptions | None,
) -> list[Candidate]:
    def open_(device: int | None) -> tuple[Backend, Contract]:
        with hold() as stream:
            known = artifact.sha256 if artifact is not None else None
            backend, contract = open_onnx(path_of(stream), name, device=device, cpu=cpu, model_sha256=known)
        if manifest is not None and artifact is not None:
            _check_agree(name, contract, contract_of_artifact(manifest, artifact))
        return backend, contract

    def way(backend: Literal["onnxruntime-cuda", "onnxruntime-cpu"], device: int | None) -> Candidate:
        ready = functools.partial(load_onnxruntime, device)
        return Candidate(backend, name, artifact, ready, functools.partial(open_, device))

    return [way("onnxruntime-cuda", gpu or 0), way("onnxruntime-cpu", None)]


def _check_agree(name: str, found: Contract, stated: Contract) -> None:
    pairs = {
        "config": (found.config, stated.config),
        "output": (found.output, stated.output),
        "type of z": (found.z_dtype, stated.z_dtype),
        "type of images": (found.image_dtype, stated.image_dtype),
    }
    for what, (model, manifest) in pairs.items():
        if model != manifest:
            raise CorruptError(f"{name} and the manifest disagree on the {what}: {model} and {manifest}.")


def _described_plan(plan: Path) -> tuple[Manifest, Artifact]:
    found = find_manifest(plan)
    if found is None:
        raise InputError(
            f"{sidecar_path(plan)} is missing: it says what {plan.name} takes and gives. Copy it too, or build the "
            f"plan again with: sagan-deploy build model.onnx --out {plan.name}"
        )
    return found


def gpu_of(device: str | None) -> int | None:
    """Number of the GPU that `device` names; None where it names the CPU or nothing.

    Raises:
        ConfigError: `device` is none of ``cpu``, ``cuda`` and ``cuda:N``.
    """
    return None if device is None else _devices(device)[1]


def _devices(device: str | None) -> tuple[bool, int | None]:
    """Whether the CPU may be used, and which GPU may be."""
    if device is None:
        return True, 0
    if device == "cpu":
        return True, None
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal() or device.endswith(":"):
        raise ConfigError(f"device (={device!r}) must be cpu, cuda or cuda:N")
    return False, int(number or 0)
