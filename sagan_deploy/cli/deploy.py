"""`sagan-deploy deploy`: export, build and parity in one go."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sagan_deploy.cli.export_options import CalibrationLatents, Float32
from sagan_deploy.cli.talk import (
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    print_json,
    print_result,
    progress_bars,
    say,
)

if TYPE_CHECKING:
    from sagan_deploy.deploy import Deployment

TritonOption = Annotated[Path | None, typer.Option(help="Also write a Triton model repository: a folder.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(deploy)


def deploy(
    checkpoint: Annotated[Path, typer.Argument(help="A generator checkpoint (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to make: a folder.")],
    precision: Annotated[str, typer.Option(help="Comma-separated: fp32, fp16, bf16, mixed, int8, fp8.")] = "fp32,fp16",
    target: Annotated[
        str | None,
        typer.Option(help="GPUs for the TensorRT plan, or 'none'; by default all RTX GPUs if the builder is here."),
    ] = None,
    flavour: Annotated[Literal["auto", "tensorrt", "rtx"], typer.Option(help="Which TensorRT.")] = "auto",
    attention: Annotated[Literal["auto", "fused", "decomposed"], typer.Option(help="As in export.")] = "auto",
    float32: Float32 = None,
    calibration_latents: CalibrationLatents = 64,
    output: Annotated[Literal["float", "uint8"], typer.Option(help="What the engines give.")] = "float",
    tune: Annotated[bool, typer.Option("--tune", help="For fp32: time the equal forms, keep the fastest.")] = False,
    opt_batch: Annotated[int, typer.Option(min=1, help="The batch that the plan is tuned for.")] = 8,
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch that the plan takes.")] = 64,
    count: Annotated[
        int | None, typer.Option(min=1, help="Latents that parity judges; by default by image size.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A parity policy (TOML).")] = None,
    triton: TritonOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export, build and judge a generator, and put what passed into one bundle.

    Example: sagan-deploy deploy generator.safetensors --out bundle --target rtx-4090,rtx-5090
    """
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.deploy import DeployOptions
    from sagan_deploy.deploy import deploy as run
    from sagan_deploy.parity.policy import Policy, load_policy
    from sagan_deploy.triton import check_out, write_triton

    if triton is not None:
        check_out(triton, force=force)  # before the minutes of work
    options = DeployOptions(
        precisions=tuple(part.strip() for part in precision.split(",")),
        targets=None if target is None else () if target == "none" else tuple(target.split(",")),
        flavour=flavour,
        attention=attention,
        float32=tuple(float32 or ()),
        calibration_latents=calibration_latents,
        output=output,
        opt_batch=opt_batch,
        max_batch=max_batch,
        images=count,
        seed=seed,
        tune=tune,
        policy=load_policy(policy) if policy is not None else Policy(),
    )
    with progress_bars(quiet=quiet) as progress:
        made = run(load_checkpoint(checkpoint), out, options, force=force, progress=progress)
    if triton is not None:
        say(f"Triton model repository: {write_triton(out, triton, force=force)}", quiet=quiet)
    for name, reason in made.skipped.items():
        say(f"not made: {name}: {reason}", quiet=quiet)
    _show(made, out, triton, json=json)


def _show(made: Deployment, out: Path, triton: Path | None, *, json: bool) -> None:
    from sagan_deploy.reports.console import artifact_table

    if json:
        print_json(_facts(made, out, triton))
    else:
        for trial in made.trials:
            print_result(trial.in_words)
        print_result(artifact_table(made.manifest, made.seconds))


def _facts(made: Deployment, out: Path, triton: Path | None) -> dict[str, Any]:
    return {
        "bundle": str(out),
        "triton": None if triton is None else str(triton),
        "manifest": made.manifest.to_dict(),
        "seconds": made.seconds,
        "skipped": made.skipped,
        "tuning": [dataclasses.asdict(trial) for trial in made.trials],
    }
