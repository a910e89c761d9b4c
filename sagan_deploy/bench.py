"""Latency and throughput side by side: every contender takes its turn in every round, so that drift hits all alike."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sagan_deploy.bundle.bundle import is_bundle
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.files import write_bytes
from sagan_deploy.filetypes import detect
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import load

Run = Callable[[np.ndarray, np.ndarray | None], object]


@dataclass(frozen=True)
class Row:
    """One contender at one batch size.

    Latencies are milliseconds of wall time per call, `cpu_ms` is processor time per call (all threads), `speedup` the
    baseline's median latency divided by this one's.
    """

    name: str
    batch: int
    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    cpu_ms: float
    images_per_second: float
    speedup: float


@dataclass(frozen=True)
class BenchReport:
    """All rows, what could not run here (name → reason), and the machine that ran them."""

    rows: tuple[Row, ...]
    not_run: dict[str, str]
    machine: dict[str, str]
    baseline: str


@dataclass(frozen=True)
class BenchOptions:
    """How to measure. `duration` is seconds per contender and batch, after `warmup` seconds."""

    batches: tuple[int, ...] = (1, 8)
    duration: float = 3.0
    warmup: float = 0.5
    threads: int | None = None
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches (={self.batches}) must be numbers of at least 1")
        if not 0 < self.duration <= 3600 or not 0 <= self.warmup <= 3600:
            raise ConfigError(
                f"duration (={self.duration}) must lie in (0, 3600] seconds, warmup (={self.warmup}) in [0, 3600]"
            )


def bench(files: Sequence[Path], options: BenchOptions | None = None, *, progress: Progress = silent) -> BenchReport:
    """Measure every file on this machine.

    A checkpoint brings three contenders: PyTorch eager, and in ONNX Runtime the plain export of its layers and the
    inference form. The first contender of the first file is the baseline of all ratios.

    Args:
        files: checkpoints, ONNX files, plans or bundles of generators with one interface.
        options: how long, with which batches and threads.
        progress: told about every batch size.

    Raises:
        InputError: a file is of another kind, or its generator takes other inputs than the first one's.
        MissingError: nothing could run here.
    """
    options = options or BenchOptions()
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Run] = {}
        not_run: dict[str, str] = {}
        configs: list[GeneratorConfig] = []
        for file in files:
            try:
                config, runs = _contenders(Path(file), options, stack, progress)
            except MissingError as error:
                not_run[str(file)] = str(error)
                continue
            configs.append(config)
            contenders.update(runs)
        if not contenders:
            raise MissingError("; ".join(f"{name}: {reason}" for name, reason in not_run.items()))
        _check_same_interface(configs)
        rows: list[Row] = []
        for done, batch in enumerate(options.batches):
            progress("bench", done, len(options.batches))
            rows += _measure(contenders, configs[0], batch, options)
        progress("bench", len(options.batches), len(options.batches))
    return BenchReport(tuple(rows), not_run, _machine(options), next(iter(contenders)))


def _contenders(
    file: Path, options: BenchOptions, stack: contextlib.ExitStack, progress: Progress
) -> tuple[GeneratorConfig, dict[str, Run]]:
    if not is_bundle(file) and detect(file) == "checkpoint":
        return _checkpoint_contenders(file, options, stack, progress)
    generator = stack.enter_context(load(file, threads=options.threads))
    return generator.config, {f"{file} ({generator.backend_name})": generator}


def _checkpoint_contenders(
    file: Path, options: BenchOptions, stack: contextlib.ExitStack, progress: Progress
) -> tuple[GeneratorConfig, dict[str, Run]]:
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import baked, export_generator

    checkpoint = load_checkpoint(file)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    eager = baked(checkpoint.generator())
    runs: dict[str, Run] = {f"{file} (PyTorch eager)": _torch_run(eager, options)}
    if options.compile:
        import torch

        runs[f"{file} (torch.compile)"] = _torch_run(torch.compile(eager), options)
    for form, name in (("training", "plain export"), ("inference", "inference form")):
        path = folder / f"{form}.onnx"
        write_bytes(path, export_generator(checkpoint, form=form, progress=progress).payload)  # type: ignore[arg-type]
        generator = stack.enter_context(load(path, threads=options.threads))
        runs[f"{file} ({name}, {generator.backend_name})"] = generator
    return checkpoint.config, runs


def _torch_run(module: Callable[..., object], options: BenchOptions) -> Run:
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)

    def run(z: np.ndarray, labels: np.ndarray | None) -> object:
        with torch.inference_mode():
            given = (torch.from_numpy(z),) if labels is None else (torch.from_numpy(z), torch.from_numpy(labels))
            return module(*given)

    return run


def _measure(contenders: dict[str, Run], config: GeneratorConfig, batch: int, options: BenchOptions) -> list[Row]:
    z = sample_latents(options.seed, batch, config.z_dim)
    labels = sample_labels(options.seed, batch, config.num_classes) if config.conditional else None
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in _for_seconds(options.warmup):
            run(z, labels)
    for _ in _for_seconds(options.duration * len(contenders)):
        for name, run in contenders.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run(z, labels)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    baseline = float(np.median(next(iter(wall.values()))))
    return [_row(name, batch, np.array(wall[name]), np.array(cpu[name]), baseline) for name in contenders]


def _row(name: str, batch: int, wall: np.ndarray, cpu: np.ndarray, baseline: float) -> Row:
    p50, p90, p99 = np.percentile(wall, [50, 90, 99])
    return Row(
        name=name,
        batch=batch,
        calls=len(wall),
        p50_ms=p50 * 1e3,
        p90_ms=p90 * 1e3,
        p99_ms=p99 * 1e3,
        cpu_ms=float(np.median(cpu)) * 1e3,
        images_per_second=batch / p50,
        speedup=baseline / p50,
    )


def _for_seconds(seconds: float) -> Iterator[None]:
    """At least one turn, and more until the time is over."""
    end = time.perf_counter() + seconds
    yield
    while time.perf_counter() < end:
        yield


def _check_same_interface(configs: Sequence[GeneratorConfig]) -> None:
    kinds = {(config.z_dim, config.num_classes) for config in configs}
    if len(kinds) > 1:
        listed = ", ".join(f"z_dim {z} with {classes} classes" for z, classes in sorted(kinds))
        raise InputError(f"these files hold generators with different inputs ({listed}); compare them one by one.")


def _machine(options: BenchOptions) -> dict[str, str]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(options.threads or "chosen by each engine"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
