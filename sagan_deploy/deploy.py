"""The whole way in one call: checkpoint → ONNX → TensorRT plan → parity → one bundle, or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sagan_deploy.build import build_plan, write_plan
from sagan_deploy.bundle.bundle import finish_bundle, hashed_file, read_manifest, sidecar_path
from sagan_deploy.bundle.golden import GOLDEN_NAME, Golden, golden_bytes
from sagan_deploy.bundle.manifest import MANIFEST_NAME, Artifact, Limits, Manifest, Verdict
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.environment import tool_versions
from sagan_deploy.errors import CheckFailed, ConfigError, MissingError
from sagan_deploy.export import export_generator, onnx_artifact
from sagan_deploy.files import new_folder, refuse_existing, remove, write_bytes
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.model.inference.options import InferenceOptions
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.islands import export_mixed
from sagan_deploy.parity.policy import Policy
from sagan_deploy.progress import Progress, silent
from sagan_deploy.quantisation import LATENTS, quantised
from sagan_deploy.reports.folder import write_reports
from sagan_deploy.reports.words import without_folder
from sagan_deploy.tuning import Trial, tune
from sagan_deploy.verify import default_limits

if TYPE_CHECKING:
    from sagan_deploy.parity.report import ParityReport

_GOLDEN_IMAGES = 8
_GOLDEN_SEED = 2018  # the paper's year; any number serves, as long as it stays


@dataclass(frozen=True)
class DeployOptions:
    """What goes into a bundle.

    `targets` names GPUs for the TensorRT plan; None builds for all RTX GPUs where the builder is installed, and an
    empty tuple builds none. `images` is how many latents parity judges per file. `float32` names the parts that stay
    float32 in the precision ``mixed`` (`InferenceOptions.float32`); none leaves the choice to
    `parity.islands.export_mixed`. `calibration_latents` is how many images int8 and fp8 are calibrated on. `tune` takes
    for fp32 the form that `tuning.tune` finds fastest on this machine's CPU.
    """

    precisions: tuple[str, ...] = ("fp32", "fp16")
    targets: tuple[str, ...] | None = None
    flavour: str = "auto"
    attention: str = "auto"
    float32: tuple[str, ...] = ()
    calibration_latents: int = LATENTS
    output: str = "float"
    opt_batch: int = 8
    max_batch: int = 64
    images: int | None = None
    seed: int = 0
    tune: bool = False
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if not self.precisions:
            raise ConfigError("precisions (=()) must name at least one of fp32, fp16, bf16, mixed, int8, fp8")
        if len(set(self.precisions)) != len(self.precisions):
            raise ConfigError(f"precisions (={self.precisions}) must name each one once")
        if self.float32 and "mixed" not in self.precisions:
            raise ConfigError(f"float32 (={self.float32}) names parts for mixed; add --precision mixed or leave it out")
        if self.tune and "fp32" not in self.precisions:
            raise ConfigError(f"tune times float32 files on the CPU; precisions (={self.precisions}) have no fp32")
        if self.calibration_latents < 1:
            raise ConfigError(f"calibration_latents (={self.calibration_latents}) must be at least 1")
        for precision in self.precisions:
            self.inference_options(precision)  # refused before the first export, which takes seconds
        if not 1 <= self.opt_batch <= self.max_batch:
            raise ConfigError(f"opt_batch (={self.opt_batch}) must lie in 1..max_batch (={self.max_batch})")

    def inference_options(self, precision: str) -> InferenceOptions:
        """How the ONNX file of a precision is written; int8, fp8 and a search for mixed's parts begin as fp16."""
        begins = precision in ("int8", "fp8") or (precision == "mixed" and not self.float32)
        return InferenceOptions(
            "fp16" if begins else precision,  # type: ignore[arg-type]
            attention=self.attention,  # type: ignore[arg-type]
            output=self.output,  # type: ignore[arg-type]
            float32=self.float32 if precision == "mixed" else (),
        )


@dataclass(frozen=True)
class Deployment:
    """What `deploy` made: `seconds` per step, `skipped` with the reason for what was not built, and the `trials` of
    tuning, fastest first.
    """

    folder: Path
    manifest: Manifest
    report: ParityReport
    seconds: dict[str, float]
    skipped: dict[str, str]
    trials: tuple[Trial, ...] = ()


def deploy(
    checkpoint: Checkpoint,
    out: Path,
    options: DeployOptions | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Deployment:
    """Export, build and judge a generator, and put what passed into one folder that production loads.

    Args:
        checkpoint: the generator, read from a file.
        out: the bundle's folder; it appears at the end, whole.
        options: what to build.
        force: replace an existing bundle.
        progress: told about every step.

    Raises:
        CheckFailed: a file failed parity; no bundle is made, and the report lies in ``OUT-failed``.
        ConfigError, InputError, MissingError: as the single steps.
    """
    options = options or DeployOptions()
    out = Path(out)
    refuse_existing(out, marker=MANIFEST_NAME, force=force)
    _check_plan(options)
    clock = _Clock()
    with new_folder(out, marker=MANIFEST_NAME, force=force) as folder:
        artifacts, trials = _export_all(checkpoint, folder, options, clock, progress)
        plan, skipped = _build(folder, artifacts, options, clock, progress)
        artifacts += plan
        with clock("golden"):
            write_bytes(folder / GOLDEN_NAME, golden_bytes(golden_images(checkpoint)))
        with clock("parity"):
            paths = [folder / artifact.path for artifact in artifacts]
            report = judge(
                checkpoint, paths, options.policy, seed=options.seed, count=options.images, progress=progress
            )
        # From here on the manifest says what the sidecar of a single plan says.
        for artifact in plan:
            remove(sidecar_path(folder / artifact.path))
        report = _relative(report, folder)
        reports = write_reports(folder / "parity", report)
        if not report.passed:
            _keep_failed(folder / "parity", out, report)
        manifest = Manifest(
            toolkit_version=version("sagan-deploy"),
            generator=checkpoint.config,
            class_names=checkpoint.class_names,
            checkpoint_sha256=checkpoint.sha256,
            provenance=checkpoint.provenance,
            artifacts=_judged(artifacts, report, checkpoint.config),
            golden=hashed_file(folder, GOLDEN_NAME),
            tools=tool_versions(),
            files=tuple(hashed_file(folder, path.relative_to(folder).as_posix()) for path in reports),
        )
        manifest = finish_bundle(folder, manifest)
    # The folder had another name while it was made, which says nothing to anybody now.
    return Deployment(out, manifest, without_folder(report, folder.as_posix()), clock.seconds, skipped, trials)


def golden_images(checkpoint: Checkpoint, count: int = _GOLDEN_IMAGES) -> Golden:
    """A few latents and what the training form makes of them in float64, to be replayed anywhere."""
    import torch

    config = checkpoint.config
    z = sample_latents(_GOLDEN_SEED, count, config.z_dim)
    labels = sample_labels(_GOLDEN_SEED, count, config.num_classes) if config.conditional else None
    generator = checkpoint.generator().double()
    rows = []
    for i in range(count):  # one by one: float64 feature maps of a whole batch are large
        label = torch.from_numpy(labels[i : i + 1]) if labels is not None else None
        rows.append(generator(torch.from_numpy(z[i : i + 1]).double(), label))
    return Golden(z, labels, torch.cat(rows).float().numpy())


def _check_plan(options: DeployOptions) -> None:
    """Refuse targets that the plan cannot be built for before the minutes of work, as the build would after them."""
    from exporters.quantise import check_quantised_targets
    from exporters.targets import check_served, resolve_targets
    from exporters.tensorrt.backend import installed

    precision = _plan_precision(options.precisions)
    if options.targets == () or precision is None or (options.targets is None and not installed("rtx")):
        return
    wanted = resolve_targets(options.targets or ("all-rtx",))
    if precision in ("int8", "fp8"):
        check_quantised_targets(cast('Literal["int8", "fp8"]', precision), wanted)
    if options.flavour != "auto":
        check_served(wanted, cast('Literal["tensorrt", "rtx"]', options.flavour))


def _plan_precision(precisions: Sequence[str]) -> str | None:
    """The precision that the plan is built in: the first one that is not fp32."""
    return next((precision for precision in precisions if precision != "fp32"), None)


def _export_all(
    checkpoint: Checkpoint, folder: Path, options: DeployOptions, clock: _Clock, progress: Progress
) -> tuple[list[Artifact], tuple[Trial, ...]]:
    artifacts: list[Artifact] = []
    trials: tuple[Trial, ...] = ()
    for precision in options.precisions:
        with clock(f"export {precision}"):
            form = options.inference_options(precision)
            if precision in ("int8", "fp8"):
                kind = cast('Literal["int8", "fp8"]', precision)
                latents = options.calibration_latents
                exported = quantised(checkpoint, kind, form, latents=latents, progress=progress)
            elif precision == "mixed" and not options.float32:
                exported, _ = export_mixed(
                    checkpoint, form, policy=options.policy, seed=options.seed, count=options.images, progress=progress
                )
            elif precision == "fp32" and options.tune:
                tuned = tune(checkpoint, form, progress=progress)
                exported, trials = tuned.exported, tuned.trials
            else:
                exported = export_generator(checkpoint, form, progress=progress)
            # The search for mixed's parts gives plain fp16 where nothing needs float32.
            path = f"onnx/generator.{exported.metadata['sagan_deploy.precision']}.onnx"
            if all(artifact.path != path for artifact in artifacts):
                write_bytes(folder / path, exported.payload)
                artifacts.append(onnx_artifact(exported, path))
    return artifacts, trials


def _build(
    folder: Path, artifacts: Sequence[Artifact], options: DeployOptions, clock: _Clock, progress: Progress
) -> tuple[list[Artifact], dict[str, str]]:
    """The plan of the half-precision ONNX, or the reason why there is none."""
    if options.targets == ():
        return [], {}
    precision = _plan_precision([artifact.precision for artifact in artifacts])
    if precision is None:
        return [], {"TensorRT plan": "plans are built from another precision than fp32; add --precision fp16"}
    half = next(artifact for artifact in artifacts if artifact.precision == precision)
    path = f"engines/generator.{half.precision}.plan"
    try:
        with clock("build"):
            built = build_plan(
                folder / half.path,
                targets=options.targets or ("all-rtx",),
                flavour=options.flavour,
                min_batch=1,
                opt_batch=options.opt_batch,
                max_batch=options.max_batch,
                progress=progress,
            )
            write_plan(folder / path, built)
    except Exception as error:
        # Only a missing builder is forgiven, and only when nobody asked for a plan.
        missing = isinstance(error, MissingError) or getattr(error, "exit_code", None) == MissingError.exit_code
        if options.targets is not None or not missing:
            raise
        return [], {"TensorRT plan": str(error)}
    return [dataclasses.replace(read_manifest(sidecar_path(folder / path)).artifacts[0], path=path)], {}


def _relative(report: ParityReport, folder: Path) -> ParityReport:
    """The report with paths inside the bundle; the folder that it was made in is gone when somebody reads it."""
    legs = [
        leg if leg.path is None else dataclasses.replace(leg, path=Path(leg.path).relative_to(folder).as_posix())
        for leg in report.legs
    ]
    return dataclasses.replace(report, legs=tuple(legs))


def _judged(artifacts: Sequence[Artifact], report: ParityReport, config: GeneratorConfig) -> tuple[Artifact, ...]:
    """The artifacts with what parity said of them, and the limits that it derived for every replay of their images.

    A plan that was not run here gets those of the ONNX file in the same precision.
    """
    legs = {leg.path: leg for leg in report.legs}
    limits: dict[str, Limits] = {}
    for artifact in artifacts:
        derived = {gate.rule: gate.limit for gate in legs[artifact.path].gates}
        if "tensor.rel_l2" in derived:
            usual = default_limits(config, artifact.precision)
            limits[artifact.precision] = Limits(
                rel_l2=max(usual.rel_l2, derived["tensor.rel_l2"]),
                max_abs=max(usual.max_abs, derived["tensor.max_abs"]),
            )
    return tuple(
        dataclasses.replace(
            artifact,
            verdict=Verdict(legs[artifact.path].status, legs[artifact.path].reason),
            limits=limits.get(artifact.precision),
        )
        for artifact in artifacts
    )


def _keep_failed(parity: Path, out: Path, report: ParityReport) -> None:
    failed = out.with_name(out.name + "-failed")
    for path in sorted(p for p in parity.rglob("*") if p.is_file()):
        write_bytes(failed / path.relative_to(parity), path.read_bytes())
    names = ", ".join(leg.name for leg in report.legs if leg.status == "failed")
    raise CheckFailed(f"parity failed for {names}; no bundle was made. The report lies in {failed}")


class _Clock:
    """Seconds per named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start
