"""`sagan-deploy bench`: latency and throughput, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from sagan_deploy.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from sagan_deploy.bench import BenchOptions, BenchReport


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(bench)


def bench(
    files: Annotated[list[Path] | None, typer.Argument(help="Checkpoints, ONNX files, plans or bundles.")] = None,
    batch: Annotated[str, typer.Option(help="Comma-separated batch sizes.")] = "1,8",
    duration: Annotated[float, typer.Option(help="Seconds per file and batch size; --train: 20 times that.")] = 3.0,
    warmup: Annotated[float, typer.Option(help="Seconds before the clock runs.")] = 0.5,
    iterations: Annotated[int, typer.Option(min=1, help="At least so many rounds, however long they take.")] = 1,
    percentile: Annotated[str, typer.Option(help="More percentiles of the latency, for --json, like 95,99.9.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every CPU engine.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Part of the name that ratios are against; first row.")] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Add torch.compile, for checkpoints or --train (minutes).")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Time training steps instead: against the usual step, and every measure.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1 ...; default: cpu, but the best for ONNX files, plans and bundles."),
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Peak memory too, each in a process of its own.")] = False,
    target: Annotated[str, typer.Option(help="Predict lower bounds for GPUs, like rtx-4090,l4.")] = "",
    save: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page with a bar for every row.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="A report saved on this machine to hold this run against.")
    ] = None,
    max_regression: Annotated[str, typer.Option(help="With --compare: slower by more than this exits with 1.")] = "5%",
    seed: SeedOption = 0,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure files side by side, in turns; a checkpoint adds PyTorch, the plain export and the inference form.

    Example: sagan-deploy bench generator.safetensors bundle --batch 1,16 --threads 2
    """
    if train:
        _bench_training(20.0 * duration, threads, compile_, device or "cpu", json=json, quiet=quiet)
        return
    from sagan_deploy.bench import BenchOptions

    if not files:
        raise ConfigError("name at least one file to measure, or --train")
    options = BenchOptions(
        batches=tuple(int(value) for value in _numbers("--batch", batch, whole=True)),
        duration=duration,
        warmup=warmup,
        threads=threads,
        compile=compile_,
        seed=seed,
        iterations=iterations,
        percentiles=tuple(_numbers("--percentile", percentile)) if percentile else (),
        baseline=baseline,
        memory=memory,
        targets=tuple(target.split(",")) if target else (),
        device=device,
    )
    _measure(files, options, save, page, compare, _share(max_regression), force=force, json=json, quiet=quiet)


def _measure(
    files: list[Path],
    options: BenchOptions,
    save: Path | None,
    page: Path | None,
    compare: Path | None,
    limit: float,
    *,
    force: bool,
    json: bool,
    quiet: bool,
) -> None:
    from sagan_deploy.bench import bench as run
    from sagan_deploy.bench.report import read_report, report_json
    from sagan_deploy.files import refuse_existing_file, write_bytes
    from sagan_deploy.optional import require
    from sagan_deploy.reports.console import bench_table

    for file in (save, page):
        if file is not None:
            refuse_existing_file(file, force=force)
    if page is not None:
        require("jinja2", "export")  # before the minutes of measuring
    old = None if compare is None else read_report(compare)
    with progress_bars(quiet=quiet) as progress:
        report = run(files, options, progress=progress)
    for name, reason in report.not_run.items():
        say(f"not run: {name}: {reason}", quiet=quiet)
    if save is not None:
        write_bytes(save, report_json(report).encode())
    if page is not None:
        from sagan_deploy.reports.html import bench_page

        write_bytes(page, bench_page(report).encode())
    if json:
        print_json(dataclasses.asdict(report))
    else:
        print_result(bench_table(report))
    if old is not None:
        _judge(report, old, limit)


def _judge(report: BenchReport, old: BenchReport, limit: float) -> None:
    from sagan_deploy.bench.report import compare

    if slower := compare(report, old, limit):
        raise CheckFailed(f"slower than before by more than {limit:.3g} of the time: " + "; ".join(slower))


def _numbers(option: str, text: str, *, whole: bool = False) -> list[float]:
    try:
        return [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} (={text}) must be numbers with commas between them, like 1,8") from None


def _share(text: str) -> float:
    """``5%`` and ``0.05`` are the same."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise ConfigError(f"--max-regression (={text}) must be a share like 5% or 0.05")
    return value


def _bench_training(
    seconds: float, threads: int | None, compiled: bool, device: str, *, json: bool, quiet: bool
) -> None:
    from sagan_deploy.optional import require
    from sagan_deploy.reports.speed import speed_table

    require("torch", "train")
    from sagan_deploy.training.compiled import check_compiler
    from sagan_deploy.training.speed import measure_speed

    if compiled:
        check_compiler(device)
    with progress_bars(quiet=quiet) as progress:
        report = measure_speed(seconds=seconds, threads=threads, compiled=compiled, device=device, progress=progress)
    if json:
        print_json(dataclasses.asdict(report))
    else:
        print_result(speed_table(report))
