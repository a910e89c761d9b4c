"""`sagan-deploy export`: a checkpoint to ONNX."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars
from sagan_deploy.errors import ConfigError

if TYPE_CHECKING:
    from sagan_deploy.bundle.manifest import Artifact
    from sagan_deploy.checkpoints.native import Checkpoint
    from sagan_deploy.export import ExportedGenerator
    from sagan_deploy.model.inference.options import InferenceOptions
    from sagan_deploy.progress import Progress
    from sagan_deploy.tuning import Trial

_UpsampleOption = Annotated[
    Literal["auto", "phases", "differences", "transposed", "plain"],
    typer.Option(help="How upsampling and 3x3 convolution are written; auto: by width and precision."),
]
_ConvOption = Annotated[
    Literal["auto", "direct", "winograd"],
    typer.Option(help="How the other 3x3 convolutions are written; auto: Winograd for wide fp32 layers."),
]
_TuneOption = Annotated[
    bool,
    typer.Option("--tune", help="Try the fp32 forms on this machine's CPU; keep the fastest that parity passes."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(export)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A generator checkpoint (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")],
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "mixed", "int8", "fp8"],
        typer.Option(help="Type of weights and arithmetic. mixed: fp16 and --float32 parts; int8, fp8: convolutions."),
    ] = "fp32",
    form: Annotated[
        Literal["inference", "training"],
        typer.Option(help="inference: the same function with fewer operations; training: the layers as trained."),
    ] = "inference",
    attention: Annotated[
        Literal["auto", "fused", "decomposed"],
        typer.Option(help="fused: the layout that TensorRT turns into one kernel; auto: fused for half precision."),
    ] = "auto",
    upsample_conv: _UpsampleOption = "auto",
    conv: _ConvOption = "auto",
    output: Annotated[
        Literal["float", "uint8"], typer.Option(help="float: n c h w in [-1, 1]; uint8: n h w c, 0 to 255.")
    ] = "float",
    io_precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Type of the input z.")] = "fp32",
    float32: Annotated[
        list[str] | None,
        typer.Option(help="For mixed: a part that stays float32: stem, tail, stages.N[.block|.attention]. Repeatable."),
    ] = None,
    calibration_latents: Annotated[int, typer.Option(min=1, help="Images that int8 and fp8 are calibrated on.")] = 64,
    tune: _TuneOption = False,
    tune_batch: Annotated[int, typer.Option(min=1, help="Batch size that --tune times.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of ONNX Runtime for --tune.")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; TensorRT 10 reads the default.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export a generator to ONNX with a dynamic batch.

    Example: sagan-deploy export generator.safetensors --out generator.fp16.onnx --precision fp16
    """
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import export_generator, onnx_artifact
    from sagan_deploy.files import refuse_existing_file, write_bytes
    from sagan_deploy.model.inference.options import InferenceOptions

    refuse_existing_file(out, force=force)
    _check(tune, precision, form, opset, upsample_conv, conv)
    eight_bits = precision in ("int8", "fp8")
    weights = cast('Literal["fp32", "fp16", "bf16", "mixed"]', "fp16" if eight_bits else precision)
    options = InferenceOptions(weights, attention, upsample_conv, conv, output, io_precision, tuple(float32 or ()))
    trials: tuple[Trial, ...] = ()
    with progress_bars(quiet=quiet) as progress:
        loaded = load_checkpoint(checkpoint)
        if tune:
            exported, trials = _tuned(loaded, options, tune_batch, threads, progress)
        elif eight_bits:
            exported = _quantised(loaded, precision, options, calibration_latents, opset, progress)
        else:
            exported = export_generator(loaded, options, form=form, opset=opset, progress=progress)
    write_bytes(out, exported.payload)
    _show(exported, onnx_artifact(exported, out.name), out, trials, as_json=json)


def _quantised(
    loaded: Checkpoint, precision: str, options: InferenceOptions, latents: int, opset: int | None, progress: Progress
) -> ExportedGenerator:
    from sagan_deploy.quantisation import quantised

    kind = cast('Literal["int8", "fp8"]', precision)
    return quantised(loaded, kind, options, latents=latents, opset=opset, progress=progress)


def _tuned(
    loaded: Checkpoint, options: InferenceOptions, batch: int, threads: int | None, progress: Progress
) -> tuple[ExportedGenerator, tuple[Trial, ...]]:
    from sagan_deploy.tuning import tune

    tuned = tune(loaded, options, batch=batch, threads=threads, progress=progress)
    return tuned.exported, tuned.trials


def _check(tune: bool, precision: str, form: str, opset: int | None, *forms: str) -> None:
    if precision in ("int8", "fp8") and form == "training":
        raise ConfigError("--form training is for comparison and comes in --precision fp32 --output float only")
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
            print_result(f"{trial.median_ms:9.3f} ms  {trial.upsample_conv}, {trial.conv}: {trial.verdict}")
        print_result(
            f"{out}: {artifact.precision}, {artifact.form} form, {artifact.attention} attention, "
            f"opset {exported.opset}, {exported.nodes} nodes, {artifact.size / 1e6:.1f} MB"
        )
