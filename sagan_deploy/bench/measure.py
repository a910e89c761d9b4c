"""Every contender takes its turn in every round, so that drift hits all alike."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sagan_deploy.bench.contenders import Contender, GpuTimed, Run, batch_of, contenders_of
from sagan_deploy.bench.machine import Peak, describe, gpu_peak, measured_peak
from sagan_deploy.bench.memory import peak_bytes
from sagan_deploy.bench.report import BenchOptions, BenchReport, Prediction, Row
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.files import read_bytes
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import RuntimeGenerator, cuda
from sagan_deploy.runtime.loading import gpu_of

_TURN = 0.1  # seconds


@dataclass(frozen=True)
class _Opened:
    contender: Contender
    run: Run

    @property
    def on_the_cpu(self) -> bool:
        """Whether the processor computes, and not only gives orders."""
        if isinstance(self.run, RuntimeGenerator):
            return self.run.backend_name == "onnxruntime-cpu"
        return self.contender.device in (None, "cpu")


@dataclass
class _Times:
    """What one contender took: seconds of every call, the median of every turn, milliseconds of the GPU per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    gpu_ms: list[float] = field(default_factory=list)


def bench(files: Sequence[Path], options: BenchOptions | None = None, *, progress: Progress = silent) -> BenchReport:
    """Measure every file on this machine.

    A checkpoint brings PyTorch eager (twice: channels last, too) and, in ONNX Runtime and in OpenVINO where that is
    installed, the plain export of its layers and the inference form.

    Args:
        files: checkpoints, ONNX files, plans or bundles of generators with one interface.
        options: how long, with which batches and threads, against which baseline.
        progress: told about every batch size.

    Raises:
        InputError: a file is of another kind, or its generator takes other inputs than the first one's.
        MissingError: nothing could run here.
        ConfigError: no contender has the baseline's name, a target has no published peaks, or no such device.
    """
    options = options or BenchOptions()
    gpu = gpu_of(options.device)
    if gpu is not None and options.memory:
        raise ConfigError("memory is that of processes, not of GPUs: leave it out with a device that is one")
    peaks = {name: gpu_peak(name) for name in options.targets}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opened, not_run, config = _open_all([Path(file) for file in files], options, scratch, stack, progress)
        baseline = _baseline(list(opened), options.baseline)
        peak = None if gpu is not None else _peak(options.threads)
        rows: list[Row] = []
        for done, batch in enumerate(options.batches):
            progress("bench", done, len(options.batches))
            measured = measure({name: each.run for name, each in opened.items()}, config, batch, options, baseline)
            rows += [_with_facts(row, opened[row.name], config, options, peak) for row in measured]
        progress("bench", len(options.batches), len(options.batches))
        predictions = [
            _predicted(each.contender.onnx, name, batch, target, peaks[target])
            for target in options.targets
            for name, each in opened.items()
            if each.contender.onnx is not None
            for batch in options.batches
        ]
    machine = describe(options.threads, peak) | ({} if gpu is None else {"gpu": cuda.device_name(gpu)})
    return BenchReport(tuple(rows), not_run, machine, baseline, tuple(predictions))


def _open_all(
    files: list[Path], options: BenchOptions, scratch: Path, stack: contextlib.ExitStack, progress: Progress
) -> tuple[dict[str, _Opened], dict[str, str], GeneratorConfig]:
    opened: dict[str, _Opened] = {}
    not_run: dict[str, str] = {}
    configs: list[GeneratorConfig] = []
    for number, file in enumerate(files):
        try:
            config, found = contenders_of(
                file, scratch / str(number), compiled=options.compile, progress=progress, device=options.device
            )
        except MissingError as error:
            not_run[str(file)] = str(error)
            continue
        configs.append(config)
        for contender in found:
            try:
                name, run = contender.open(options.threads, stack)
            except MissingError as error:
                not_run[f"{contender.label} ({contender.form or contender.kind})"] = str(error)
            else:
                opened[name] = _Opened(contender, run)
    if not opened:
        raise MissingError("; ".join(f"{name}: {reason}" for name, reason in not_run.items()))
    _check_same_interface(configs)
    return opened, not_run, configs[0]


def _baseline(names: list[str], wanted: str | None) -> str:
    found = [name for name in names if wanted is None or wanted in name]
    if not found:
        raise ConfigError(f"baseline (={wanted!r}) is in none of the names: {', '.join(names)}")
    return found[0]


def measure(
    contenders: dict[str, Run], config: GeneratorConfig, batch: int, options: BenchOptions, baseline: str | None = None
) -> list[Row]:
    """A row per contender from rounds in which each takes its turn; the first is the baseline unless one is named.

    A turn is one call, or as many as fit into a tenth of a second. Before it, unless one thread is asked for, all rest:
    the threads of the engine that was called last wait for more work at full speed, and would take the next one's
    cores (measured: the same two files 1.43x apart without a rest, and 1.77x from 0.1 s on).
    """
    given = batch_of(config, batch, options.seed)
    times = {name: _Times() for name in contenders}
    for run in contenders.values():
        for _ in _rounds(options.warmup, 1):
            run(*given)
    for _ in _rounds(options.duration * len(contenders), options.iterations):
        for name, run in contenders.items():
            time.sleep(0.0 if options.threads == 1 else _TURN)
            mine = times[name]
            first = len(mine.wall)
            for _ in _rounds(min(_TURN, options.duration), 1):
                start, start_cpu = time.perf_counter(), time.process_time()
                run(*given)
                mine.wall.append(time.perf_counter() - start)
                mine.cpu.append(time.process_time() - start_cpu)
            mine.turns.append(float(np.median(mine.wall[first:])))
            if isinstance(run, GpuTimed) and (spent := run.gpu_milliseconds(*given)) is not None:
                mine.gpu_ms.append(spent)
    reference = np.array(times[baseline or next(iter(times))].turns)
    return [_row(name, batch, mine, reference / np.array(mine.turns), options) for name, mine in times.items()]


def _row(name: str, batch: int, times: _Times, ratios: np.ndarray, options: BenchOptions) -> Row:
    wall = np.array(times.wall)
    p50, p90, p99 = np.percentile(wall, [50, 90, 99])
    low, high = np.percentile(ratios, [10, 90])
    return Row(
        name=name,
        batch=batch,
        calls=len(wall),
        p50_ms=float(p50) * 1e3,
        p90_ms=float(p90) * 1e3,
        p99_ms=float(p99) * 1e3,
        cpu_ms=float(np.median(times.cpu)) * 1e3,
        gpu_ms=float(np.median(times.gpu_ms)) if times.gpu_ms else None,
        images_per_second=batch / float(p50),
        speedup=float(np.median(ratios)),
        speedup_low=float(low),
        speedup_high=float(high),
        percentiles_ms={f"{value:g}": float(np.percentile(wall, value)) * 1e3 for value in options.percentiles},
    )


def _with_facts(row: Row, opened: _Opened, config: GeneratorConfig, options: BenchOptions, peak: Peak | None) -> Row:
    """The row with size on disk, peak memory and the share of the attainable, as far as they can be had."""
    contender = opened.contender
    facts: dict[str, float | None] = {}
    if contender.file.is_file():
        facts["file_mb"] = contender.file.stat().st_size / 1e6
    if options.memory:
        weighed = peak_bytes(contender, config, row.batch, options.threads)
        facts["peak_mb"] = None if weighed is None else weighed / 1e6
    if contender.onnx is not None and peak is not None and opened.on_the_cpu:
        from exporters.cost import model_cost

        cost = model_cost(read_bytes(contender.onnx), row.batch)
        flops = 2 * cost.multiplications
        least = max(flops / peak.flops, (cost.weight_bytes + cost.io_bytes) / peak.bytes)
        facts |= {"gflops": flops / row.p50_ms / 1e6, "attainable": least / (row.p50_ms / 1e3)}
    return replace(row, **facts)  # type: ignore[arg-type]


def _predicted(onnx: Path | None, name: str, batch: int, target: str, peak: Peak) -> Prediction:
    from exporters.cost import model_cost

    assert onnx is not None
    cost = model_cost(read_bytes(onnx), batch)
    arithmetic = 2 * cost.multiplications / peak.flops
    memory = (2 * cost.weights + cost.io_bytes) / peak.bytes  # two bytes per weight in float16
    limit = "arithmetic" if arithmetic >= memory else "memory"
    return Prediction(name, target, batch, max(arithmetic, memory) * 1e3, limit)


def _peak(threads: int | None) -> Peak | None:
    try:
        return measured_peak(threads)
    except ImportError:
        return None  # production machines have no onnx; the shares are left out


def _rounds(seconds: float, at_least: int) -> Iterator[None]:
    """So many turns, and more until the time is over."""
    end, done = time.perf_counter() + seconds, 0
    while done < at_least or time.perf_counter() < end:
        done += 1
        yield


def _check_same_interface(configs: Sequence[GeneratorConfig]) -> None:
    kinds = {(config.z_dim, config.num_classes) for config in configs}
    if len(kinds) > 1:
        listed = ", ".join(f"z_dim {z} with {classes} classes" for z, classes in sorted(kinds))
        raise InputError(f"these files hold generators with different inputs ({listed}); compare them one by one.")
