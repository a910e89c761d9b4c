"""`sagan-deploy export`: a checkpoint to ONNX."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sagan_deploy.cli import export_options as options
from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars, say
from sagan_deploy.errors import ConfigError

if TYPE_CHECKING:
    from sagan_deploy.bundle.manifest import Artifact
    from sagan_deploy.checkpoints.native import Checkpoint
    from sagan_deploy.export import ExportedGenerator, Form
    from sagan_deploy.model.inference.options import Precision
    from sagan_deploy.progress import Progress
    from sagan_deploy.tuning import Trial


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(export)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A generator checkpoint (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")],
    precision: options.Precision = "fp32",
    form: options.Form = "inference",
    attention: options.Attention = "auto",
    upsample_conv: options.UpsampleConv = "auto",
    conv: options.Conv = "auto",
    output: options.Output = "float",
    io_precision: options.IoPrecision = "fp32",
    float32: options.Float32 = None,
    calibration_latents: options.CalibrationLatents = 64,
    tune: options.Tune = False,
    tune_batch: options.TuneBatch = 1,
    threads: options.Threads = None,
    opset: options.Opset = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export a generator to ONNX with a dynamic batch.

    Example: sagan-deploy export generator.safetensors --out generator.fp16.onnx --precision fp16
    """
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import onnx_artifact
    from sagan_deploy.files import refuse_existing_file, write_bytes
    from sagan_deploy.model.inference.options import InferenceOptions

    refuse_existing_file(out, force=force)
    _check_tuning(tune, precision, form, opset, upsample_conv, conv)
    if precision in ("int8", "fp8") and form == "training":
        raise ConfigError("--form training is for comparison and comes in --precision fp32 --output float only")
    shape = {
        "attention": attention, "upsample_conv": upsample_conv, "conv": conv,
        "output": output, "io_precision": io_precision,
    }  # fmt: skip
    with progress_bars(quiet=quiet) as progress:
        loaded = load_checkpoint(checkpoint)
        trials: tuple[Trial, ...] = ()
        if tune:
            from sagan_deploy.tuning import tune as run

            wanted = InferenceOptions(precision=precision, float32=tuple(float32 or ()), **shape)  # type: ignore[arg-type]
            tuned = run(loaded, wanted, batch=tune_batch, threads=threads, progress=progress)
            exported, trials = tuned.exported, tuned.trials
        else:
            exported = _exported(
                loaded, precision, form, shape, tuple(float32 or ()), calibration_latents, opset, progress, quiet=quiet
            )
    write_bytes(out, exported.payload)
    _show(exported, onnx_artifact(exported, out.name), out, trials, as_json=json)


def _exported(
    loaded: Checkpoint,
    precision: str,
    form: Form,
    shape: dict[str, Any],
    float32: tuple[str, ...],
    calibration_latents: int,
    opset: int | None,
    progress: Progress,
    *,
    quiet: bool,
) -> ExportedGenerator:
    """The file in the precision that is wanted."""
    from sagan_deploy.export import export_generator
    from sagan_deploy.model.inference.options import InferenceOptions
    from sagan_deploy.parity.islands import export_mixed, in_words
    from sagan_deploy.quantisation import quantised

    if precision == "mixed" and not float32:
        if form == "training":
            raise ConfigError("--form training is for comparison and comes in --precision fp32 --output float only")
        exported, recipe = export_mixed(loaded, InferenceOptions(**shape), opset=opset, progress=progress)
        say(in_words(recipe), quiet=quiet)
        return exported
    if precision in ("fp32", "fp16", "bf16", "mixed"):
        wanted = InferenceOptions(precision=cast("Precision", precision), float32=float32, **shape)
        return export_generator(loaded, wanted, form=form, opset=opset, progress=progress)
    kind, half = cast('Literal["int8", "fp8"]', precision), InferenceOptions(precision="fp16", **shape)
    return quantised(loaded, kind, half, latents=calibration_latents, opset=opset, progress=progress)


def _check_tuning(tune: bool, precision: str, form: str, opset: int | None, *forms: str) -> None:
    if tune and (precision != "fp32" or form != "inference" or opset is not None or set(forms) != {"auto"}):
        raise ConfigError(
            "--tune tries the forms of a float32 inference export itself; leave out --precision, --form, --opset, "
            "--upsample-conv and --conv"
        )


def _show(
    exported: ExportedGenerator, artifact: Artifact, out: Path, trials: tuple[Trial, ...], *, as_json: bool
) -> None:
    facts: dict[str, object] = {
        "path": str(out),
        "sha256": artifact.sha256,
        "bytes": artifact.size,
        "precision": artifact.precision,
        "form": artifact.form,
        "attention": artifact.attention,
        "opset": exported.opset,
        "nodes": exported.nodes,
    }
    if trials:
        facts["tuning"] = [dataclasses.asdict(trial) for trial in trials]
    if as_json:
        print_json(facts)
    else:
        for trial in trials:
            print_result(trial.in_words)
        print_result(
            f"{out}: {artifact.precision}, {artifact.form} form, {artifact.attention} attention, "
            f"opset {exported.opset}, {exported.nodes} nodes, {artifact.size / 1e6:.1f} MB"
        )
