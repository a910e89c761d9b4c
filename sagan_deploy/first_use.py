"""A plan built where it runs: once per machine, judged by the bundle's golden images before it draws anything else.

The classic TensorRT can only build on the GPU that the plan is for, so a bundle that was made elsewhere cannot hold its
plan. `load_or_build` makes it at first use and keeps it:

    CACHE/<key>/          a bundle of its own: manifest.json, model.plan, golden.npz
    CACHE/<key>.lock      held while it is made

The key is a SHA-256 over everything that a plan depends on (`Recipe`). An entry appears whole, after its plan drew the
golden images, or not at all; its hashes are checked at every use, and one that is damaged or of another recipe is built
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sagan_deploy.bundle.bundle import Bundle, CorruptError, finish_bundle, open_bundle
from sagan_deploy.bundle.golden import GOLDEN_NAME
from sagan_deploy.bundle.manifest import MANIFEST_NAME, Artifact, HashedFile, Manifest, Verdict
from sagan_deploy.errors import CheckFailed, InputError, MissingError
from sagan_deploy.files import new_folder, sha256_bytes, write_bytes
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import RuntimeGenerator, cuda, load
from sagan_deploy.runtime.loading import BackendName
from sagan_deploy.verify import verify_bundle

if TYPE_CHECKING:
    from exporters.tensorrt.backend import Backend

log = logging.getLogger(__name__)

_PLAN = "model.plan"
_FORMAT = 1  # of the cache; another one makes other keys
_PREFERENCE = ("fp16", "mixed", "fp32", "bf16", "int8", "fp8")  # what CUDA is fast at comes first
# The sign by which backup programs know a cache: https://bford.info/cachedir/
_TAG = "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# Plans of sagan-deploy; delete them at will.\n"


@dataclass(frozen=True)
class BuildSettings:
    """What a caller may choose of a build; the batches are those of `sagan_deploy.build.build_plan`."""

    flavour: Literal["auto", "tensorrt", "rtx"] = "auto"
    min_batch: int = 1
    opt_batch: int | None = None
    max_batch: int = 64
    workspace_bytes: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that a plan depends on."""

    onnx_sha256: str
    golden_sha256: str
    flavour: str
    tensorrt_version: str
    compute_capability: tuple[int, int]
    gpu: str  # the classic builder measures its kernels on this very model
    system: tuple[str, str]
    settings: BuildSettings
    toolkit_version: str
    format: int = _FORMAT

    @property
    def key(self) -> str:
        """The name of the entry: a SHA-256 in hex digits."""
        return sha256_bytes(json.dumps(dataclasses.asdict(self), sort_keys=True).encode())

    @property
    def target(self) -> str:
        """The GPU as `sagan-deploy build --target` takes it."""
        return "sm_{}{}".format(*self.compute_capability)


def load_or_build(
    bundle: Path | str,
    *,
    cache: Path | str | None = None,
    settings: BuildSettings | None = None,
    backend: BackendName = "auto",
    device: str | None = None,
    threads: int | None = None,
    spin: bool = True,
    cuda_graphs: bool = False,
    runtime_cache: Path | str | None = None,
    progress: Progress = silent,
) -> RuntimeGenerator:
    """`sagan_deploy.runtime.load`, and a bundle without a plan that runs here gets one, which takes minutes once.

    Without a GPU, or where no plan can be built, it goes on as `load` does and says so in `rejected`.

    Args:
        bundle: the folder that `sagan-deploy deploy` made; it must hold an ONNX model and golden images.
        cache: folder for the plans; None is `default_cache()`.
        settings: batches, memory and flavour of the plan.
        backend: as in `load`.
        device: as in `load`.
        threads: as in `load`.
        spin: as in `load`.
        cuda_graphs: as in `load`.
        runtime_cache: as in `load`.
        progress: told how far the build is.

    Raises:
        CheckFailed: the plan that was built draws other images than the golden ones; it was thrown away.
        InputError, MissingError, ConfigError: as `load`.
    """
    builder = functools.partial(build_missing, cache=cache, settings=settings, progress=progress)
    return load(
        bundle, backend=backend, device=device, threads=threads, spin=spin,
        cuda_graphs=cuda_graphs, runtime_cache=runtime_cache, builder=builder,
    )  # fmt: skip


def build_missing(
    bundle: Bundle,
    device: int,
    *,
    cache: Path | str | None = None,
    settings: BuildSettings | None = None,
    progress: Progress = silent,
) -> Path:
    """The plan of a bundle for the GPU of this machine: from the cache, or built, judged and kept now.

    Args:
        bundle: an open bundle.
        device: number of the CUDA device.
        cache: folder for the plans; None is `default_cache()`.
        settings: None is the defaults.
        progress: told how far the build is.

    Returns:
        The plan, in an entry of the cache whose manifest describes it.

    Raises:
        CheckFailed: it draws other images than the golden ones; nothing is kept.
        InputError: the bundle lacks what is needed, or TensorRT refuses its model.
        MissingError: no GPU, or no TensorRT that builds for it.
    """
    onnx, golden = _source(bundle)
    recipe = _recipe(onnx, golden, device, settings or BuildSettings())
    folder = Path(cache) if cache is not None else default_cache()
    if not (folder / _TAG[0]).exists():
        write_bytes(folder / _TAG[0], _TAG[1])
    entry = folder / recipe.key
    # Without the lock, so that a thousand processes that start at once do not queue for a finished plan.
    if _usable(entry, recipe):
        return entry / _PLAN
    with only_one(folder / f"{recipe.key}.lock"):
        if not _usable(entry, recipe, say=True):
            log.info("building a plan of %s for %s, which takes minutes once", onnx.path, recipe.target)
            with new_folder(entry, marker=MANIFEST_NAME, force=True) as neighbour:
                _fill(neighbour, bundle, onnx, golden, recipe, device, progress)
    return entry / _PLAN


def default_cache() -> Path:
    """Where plans are kept: ``sagan-deploy`` in the user's cache folder."""
    if platform.system() == "Windows":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sagan-deploy" / "plans"


def _source(bundle: Bundle) -> tuple[Artifact, HashedFile]:
    models = [a for a in bundle.manifest.artifacts if a.kind == "onnx" and a.verdict.status != "failed"]
    if not models:
        raise InputError(f"{bundle.folder} holds no ONNX model that passed parity, so no plan can be built from it.")
    if bundle.manifest.golden is None:
        raise InputError(
            f"{bundle.folder} has no golden images, so nobody could say whether a plan built here draws the right "
            f"ones. Make the bundle again with: sagan-deploy deploy"
        )
    return min(models, key=lambda artifact: _PREFERENCE.index(artifact.precision)), bundle.manifest.golden


def _recipe(onnx: Artifact, golden: HashedFile, device: int, settings: BuildSettings) -> Recipe:
    if reason := cuda.unavailable():
        raise MissingError(f"a plan needs an NVIDIA GPU: {reason}.")
    capability = cuda.compute_capability(device)
    backend = _backend(capability, settings)
    return Recipe(
        onnx_sha256=onnx.sha256,
        golden_sha256=golden.sha256,
        flavour=backend.flavour,
        tensorrt_version=backend.version,
        compute_capability=capability,
        gpu=cuda.device_name(device),
        system=(platform.system().lower(), platform.machine().lower()),
        settings=settings,
        toolkit_version=version("sagan-deploy"),
    )


def _backend(capability: tuple[int, int], settings: BuildSettings) -> Backend:
    """The TensorRT that builds for this GPU: the one that is asked for, or the installed one that serves it."""
    from exporters.errors import ExportersError
    from exporters.targets import check_served, resolve_targets
    from exporters.tensorrt.backend import installed, load_backend

    try:
        targets = resolve_targets("sm_{}{}".format(*capability))
        if settings.flavour != "auto":
            check_served(targets, settings.flavour)
            return load_backend(settings.flavour)
        serving = targets[0].flavours
        return load_backend(next((flavour for flavour in serving if installed(flavour)), (*serving, "tensorrt")[0]))
    except ExportersError as error:
        raise _ours(error) from error


def _ours(error: Exception) -> InputError | MissingError:
    missing = getattr(error, "exit_code", None) == MissingError.exit_code
    return (MissingError if missing else InputError)(f"no plan can be built here: {error}")


def _usable(entry: Path, recipe: Recipe, *, say: bool = False) -> bool:
    """Whether an entry is whole and of this recipe; `say` logs why one that is there is not."""
    if not entry.exists():
        return False
    try:
        found = open_bundle(entry)
        found.verify_hashes()
        (artifact,) = found.manifest.artifacts
        plan, golden = artifact.plan, found.manifest.golden
        if plan is None or golden is None or artifact.verdict.status != "passed":
            raise InputError("it holds no plan that drew its golden images.")
        facts = (plan.onnx_sha256, golden.sha256, plan.flavour, plan.tensorrt_version)
        wanted = (recipe.onnx_sha256, recipe.golden_sha256, recipe.flavour, recipe.tensorrt_version)
        if facts != wanted or recipe.compute_capability not in plan.compute_capabilities:
            raise InputError(f"it is of {facts} for {', '.join(plan.targets)}; {wanted} for {recipe.target} is needed.")
    except (InputError, ValueError) as error:
        if say:
            log.warning("the plan in %s is built again: %s", entry, error)
        return False
    return True


def _fill(
    folder: Path, bundle: Bundle, onnx: Artifact, golden: HashedFile, recipe: Recipe, device: int, progress: Progress
) -> None:
    """Build into a folder that is thrown away unless this returns."""
    manifest, plan = _built(bundle, onnx, recipe, device, progress)
    write_bytes(folder / _PLAN, plan)
    write_bytes(folder / GOLDEN_NAME, bundle.read(golden))
    (artifact,) = manifest.artifacts
    artifact = dataclasses.replace(artifact, path=_PLAN, limits=onnx.limits)
    kept = HashedFile(GOLDEN_NAME, golden.sha256)
    finish_bundle(folder, dataclasses.replace(manifest, artifacts=(artifact,), golden=kept))
    (replay,) = verify_bundle(folder, device=f"cuda:{device}", progress=progress).replays
    if replay.status == "failed":
        raise CheckFailed(
            f"the plan built here from {onnx.path} draws other images than the golden ones of the bundle: "
            f"{replay.reason} (worst relative L2 {replay.rel_l2}, largest error {replay.max_abs}, allowed "
            f"{replay.limits}). It was thrown away. Run the bundle with backend='onnxruntime', or make one with "
            f"another --precision or with --attention decomposed."
        )
    if replay.status != "passed":
        raise InputError(f"the plan built here cannot run: {replay.reason}")
    verdict = Verdict("passed", f"drew the golden images on {recipe.gpu}")
    judged = dataclasses.replace(artifact, verdict=verdict)
    finish_bundle(folder, dataclasses.replace(manifest, artifacts=(judged,), golden=kept))


def _built(bundle: Bundle, onnx: Artifact, recipe: Recipe, device: int, progress: Progress) -> tuple[Manifest, bytes]:
    from exporters.errors import BuildCancelled, ExportersError
    from sagan_deploy.build import build_plan

    bundle.read(onnx)  # checks the hash
    cuda.use_device(device)  # the classic builder measures on the current one
    settings = recipe.settings
    try:
        built = build_plan(
            bundle.file_path(onnx),
            targets=(recipe.target,),
            flavour=recipe.flavour,
            min_batch=settings.min_batch,
            opt_batch=settings.opt_batch,
            max_batch=settings.max_batch,
            workspace_bytes=settings.workspace_bytes,
            progress=progress,
        )
    except BuildCancelled:
        raise
    except ExportersError as error:
        raise _ours(error) from error
    manifest = built.manifest
    if manifest is None:
        raise InputError(f"{onnx.path} is an ONNX model of another origin; a plan needs its metadata.")
    (artifact,) = manifest.artifacts
    if artifact.plan is None or artifact.plan.onnx_sha256 != onnx.sha256:
        raise CorruptError(f"{onnx.path} changed while a plan was built from it. Copy the bundle again.")
    return manifest, built.plan


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock file: one process or thread at a time, the others wait. It dies with its process.

    The empty file stays: who removed it could remove one that another process waits for.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(f"cannot lock {path}: {error.strerror or error}. Choose another cache folder.") from error
    try:
        if not _lock(handle, wait=False):
            log.info("another process builds this plan; waiting for %s", path)
            _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)  # which gives the lock back


def _lock(handle: int, *, wait: bool) -> bool:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:  # LK_LOCK gives up after ten seconds
                if not wait:
                    return False
    else:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
