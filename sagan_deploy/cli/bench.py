"""`sagan-deploy bench`: latency and throughput, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sagan_deploy.cli.talk import JsonOption, QuietOption, SeedOption, print_json, print_result, progress_bars, say


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(bench)


def bench(
    files: Annotated[list[Path] | None, typer.Argument(help="Checkpoints, ONNX files, plans or bundles.")] = None,
    batch: Annotated[str, typer.Option(help="Comma-separated batch sizes.")] = "1,8",
    duration: Annotated[float, typer.Option(help="Seconds per file and batch size.")] = 3.0,
    warmup: Annotated[float, typer.Option(help="Seconds before the clock runs.")] = 0.5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every CPU engine.")] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Add torch.compile for checkpoints (minutes).")] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Time training steps instead: against the usual step, and every measure.")
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure files side by side, in turns; a checkpoint adds PyTorch, the plain export and the inference form.

    Example: sagan-deploy bench generator.safetensors bundle --batch 1,16 --threads 2
    """
    if train:
        _bench_training(20.0 * duration, threads, json=json, quiet=quiet)
        return
    from sagan_deploy.bench import BenchOptions
    from sagan_deploy.bench import bench as run
    from sagan_deploy.errors import ConfigError
    from sagan_deploy.reports.console import bench_table

    if not files:
        raise ConfigError("name at least one file to measure, or --train")
    try:
        batches = tuple(int(part) for part in batch.split(","))
    except ValueError:
        raise ConfigError(f"--batch (={batch}) must be numbers with commas between them, like 1,8") from None
    options = BenchOptions(batches, duration, warmup, threads, compile_, seed)
    with progress_bars(quiet=quiet) as progress:
        report = run(files, options, progress=progress)
    for name, reason in report.not_run.items():
        say(f"not run: {name}: {reason}", quiet=quiet)
    if json:
        print_json(dataclasses.asdict(report))
    else:
        print_result(bench_table(report))


def _bench_training(seconds: float, threads: int | None, *, json: bool, quiet: bool) -> None:
    from sagan_deploy.optional import require
    from sagan_deploy.reports.speed import speed_table

    require("torch", "train")
    from sagan_deploy.training.speed import measure_speed

    with progress_bars(quiet=quiet) as progress:
        report = measure_speed(seconds=seconds, threads=threads, progress=progress)
    if json:
        print_json(dataclasses.asdict(report))
    else:
        print_result(speed_table(report))
