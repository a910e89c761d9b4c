"""What a bench was asked and what it found; files of it, and what has become slower since one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from sagan_deploy.config import from_dict
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes


@dataclass(frozen=True)
class Row:
    """One contender at one batch size.

    Latencies are milliseconds of wall time per call, `cpu_ms` is processor time per call (all threads), `gpu_ms` the
    median time of a GPU between two CUDA events around the network, without copies. In every round each contender has
    its turn, and `speedup` is the baseline's time divided by this one's in the median round;
    `speedup_low` and `speedup_high` are the 10th and 90th percentile of that ratio. `peak_mb` is the largest
    resident memory of a process that does nothing else (loading included), `gflops` counts the contender's own
    multiplications and additions, `attainable` is the least time that this machine's measured product rate and memory
    rate allow for them, over the median. What could not be measured is None.
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
    speedup_low: float = 1.0
    speedup_high: float = 1.0
    gpu_ms: float | None = None
    peak_mb: float | None = None
    file_mb: float | None = None
    gflops: float | None = None
    attainable: float | None = None
    percentiles_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The least time that a GPU's published peaks allow in float16: a bound, measured by nobody.

    `limit` is what bounds it, ``arithmetic`` or ``memory``.
    """

    name: str
    target: str
    batch: int
    lower_bound_ms: float
    limit: str


@dataclass(frozen=True)
class BenchReport:
    """All rows, what could not run here (name → reason), and the machine that ran them."""

    rows: tuple[Row, ...]
    not_run: dict[str, str]
    machine: dict[str, str]
    baseline: str
    predictions: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    Args:
        batches: batch sizes.
        duration: seconds per contender and batch, after `warmup` seconds.
        iterations: at least so many rounds, however long they take.
        threads: of every CPU engine; None leaves it to each.
        compile: add torch.compile for checkpoints.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None is the CPU for checkpoints, for others what runs best.
        percentiles: of the latency, besides the 50th, 90th and 99th.
        baseline: part of the name of the contender that ratios are against; None is the first one.
        memory: measure peak memory, in a process per contender.
        targets: GPUs to predict for.
        seed: of latents and labels.
    """

    batches: tuple[int, ...] = (1, 8)
    duration: float = 3.0
    warmup: float = 0.5
    threads: int | None = None
    compile: bool = False
    seed: int = 0
    iterations: int = 1
    percentiles: tuple[float, ...] = ()
    baseline: str | None = None
    memory: bool = False
    targets: tuple[str, ...] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches (={self.batches}) must be numbers of at least 1")
        if not 0 < self.duration <= 3600 or not 0 <= self.warmup <= 3600:
            raise ConfigError(
                f"duration (={self.duration}) must lie in (0, 3600] seconds, warmup (={self.warmup}) in [0, 3600]"
            )
        if self.iterations < 1:
            raise ConfigError(f"iterations (={self.iterations}) must be at least 1")
        if not all(0 <= value <= 100 for value in self.percentiles):
            raise ConfigError(f"percentiles (={self.percentiles}) must lie in [0, 100]")


def report_json(report: BenchReport) -> str:
    """The report as JSON text that `read_report` reads."""
    return json.dumps(dataclasses.asdict(report), indent=2) + "\n"


def read_report(path: Path) -> BenchReport:
    """A report that was saved earlier.

    Raises:
        InputError: the file is no such report.
    """
    try:
        values = json.loads(read_bytes(path))
        rows = tuple(from_dict(Row, row) for row in values["rows"])
        return BenchReport(rows, dict(values["not_run"]), dict(values["machine"]), values["baseline"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise InputError(f"{path} is no report of sagan-deploy bench --save ({error}).") from error


def compare(new: BenchReport, old: BenchReport, max_regression: float) -> list[str]:
    """A line for every row whose median latency grew by more than `max_regression` (0.05 is 5 %).

    Raises:
        InputError: the two ran on different machines or with other threads, or have no row in common.
    """
    differing = [key for key in new.machine.keys() & old.machine.keys() if new.machine[key] != old.machine[key]]
    differing = [key for key in sorted(differing) if key in ("processor", "cores", "threads")]
    if differing:
        pairs = ", ".join(f"{key} {old.machine[key]} then and {new.machine[key]} now" for key in differing)
        raise InputError(f"the older report is of another machine ({pairs}); only times of one machine compare.")
    before = {(row.name, row.batch): row.p50_ms for row in old.rows}
    common = [row for row in new.rows if (row.name, row.batch) in before]
    if not common:
        raise InputError("the two reports have no row in common: name the same files and batch sizes.")
    return [
        f"{row.name}, batch {row.batch}: {row.p50_ms:.3f} ms, {row.p50_ms / was - 1:+.1%} against {was:.3f} ms"
        for row in common
        if row.p50_ms > (was := before[row.name, row.batch]) * (1 + max_regression)
    ]
