"""Which of the equal forms is fastest on this machine: each is exported and timed, and the fastest that parity passes
is kept.

Times depend on shapes and the machine and not on weights, so they are kept for the next checkpoint of that shape. The
verdict is made anew every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagan_deploy.bench.contenders import Run
from sagan_deploy.bench.measure import measure
from sagan_deploy.bench.report import BenchOptions
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.config import to_dict
from sagan_deploy.environment import machine, tool_versions
from sagan_deploy.errors import CheckFailed, ConfigError
from sagan_deploy.export import ExportedGenerator, export_generator
from sagan_deploy.files import sha256_bytes, write_bytes
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import load

if TYPE_CHECKING:
    from sagan_deploy.model.inference import InferenceOptions

_VARIANTS = (
    {"upsample_conv": "phases", "conv": "direct"},
    {"upsample_conv": "differences", "conv": "direct"},
    {"upsample_conv": "differences", "conv": "winograd"},
    {"upsample_conv": "transposed", "conv": "direct"},
    {"upsample_conv": "plain", "conv": "direct"},
    {"upsample_conv": "auto", "conv": "auto"},
)


@dataclass(frozen=True)
class Trial:
    """One form: its options, its median latency, and ``kept``, ``slower`` or why parity refused it."""

    upsample_conv: str
    conv: str
    median_ms: float
    verdict: str

    @property
    def in_words(self) -> str:
        """One line of the table."""
        return f"{self.median_ms:9.3f} ms  {self.upsample_conv}, {self.conv}: {self.verdict}"


@dataclass(frozen=True)
class Tuned:
    """The file that is kept, and all trials, fastest first. `cached` says that the times are of an earlier run."""

    exported: ExportedGenerator
    trials: tuple[Trial, ...]
    cached: bool


def tune(
    checkpoint: Checkpoint,
    options: InferenceOptions,
    *,
    batch: int = 1,
    threads: int | None = None,
    duration: float = 2.0,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Export the form that is fastest in ONNX Runtime on this machine's CPU.

    Args:
        checkpoint: the generator.
        options: everything but `upsample_conv` and `conv`, which are tried.
        batch: size of the batch that is timed.
        threads: of ONNX Runtime; None leaves it to it.
        duration: seconds per form.
        cache: folder of earlier times; None is ``$XDG_CACHE_HOME/sagan-deploy``.
        progress: told about exports and measuring.

    Raises:
        ConfigError: a half precision, which this CPU computes in float32, so that its times say nothing.
        CheckFailed: parity passes none of the forms.
    """
    if options.precision != "fp32":
        raise ConfigError(
            f"tuning times ONNX Runtime on the CPU, which computes {options.precision} in float32 after conversions; "
            "only fp32 can be tuned here"
        )
    file = (cache or _cache_folder()) / f"tune-{_key(checkpoint, options, batch, threads)}.json"
    times = _read(file)
    cached = times is not None
    if times is None:
        times = _times(checkpoint, options, BenchOptions((batch,), duration, threads=threads), progress)
        write_bytes(file, json.dumps(times).encode())
    return _keep_fastest(checkpoint, options, times, cached, progress)


def _times(checkpoint: Checkpoint, options: InferenceOptions, how: BenchOptions, progress: Progress) -> list[float]:
    """The median latency of every variant in milliseconds, measured in turns."""
    runs: dict[str, Run] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for index, variant in enumerate(_VARIANTS):
            path = folder / f"{index}.onnx"
            write_bytes(path, _export(checkpoint, options, variant, progress).payload)
            runs[str(index)] = stack.enter_context(load(path, device="cpu", threads=how.threads))
        progress("measure", 0, 1)
        rows = measure(runs, checkpoint.config, how.batches[0], how)
        progress("measure", 1, 1)
    return [row.p50_ms for row in rows]


def _keep_fastest(
    checkpoint: Checkpoint, options: InferenceOptions, times: list[float], cached: bool, progress: Progress
) -> Tuned:
    trials: list[Trial] = []
    kept: ExportedGenerator | None = None
    for index in sorted(range(len(times)), key=times.__getitem__):
        verdict = "slower"
        if kept is None:
            exported = _export(checkpoint, options, _VARIANTS[index], progress)
            verdict = _refusal(checkpoint, exported, progress) or "kept"
            kept = exported if verdict == "kept" else None
        trials.append(Trial(median_ms=times[index], verdict=verdict, **_VARIANTS[index]))
    if kept is None:
        raise CheckFailed("parity passes none of the forms: " + "; ".join(trial.verdict for trial in trials))
    return Tuned(kept, tuple(trials), cached)


def _export(
    checkpoint: Checkpoint, options: InferenceOptions, variant: dict[str, str], progress: Progress
) -> ExportedGenerator:
    changes: dict[str, Any] = dict(variant)
    return export_generator(checkpoint, dataclasses.replace(options, **changes), progress=progress)


def _refusal(checkpoint: Checkpoint, exported: ExportedGenerator, progress: Progress) -> str:
    """Why parity refuses this file, or nothing."""
    from sagan_deploy.parity.compare import judge

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "form.onnx"
        write_bytes(path, exported.payload)
        legs = judge(checkpoint, [path], progress=progress).legs
    return "; ".join(f"{leg.name}: {leg.status}" for leg in legs if leg.status != "passed")


def _key(checkpoint: Checkpoint, options: InferenceOptions, batch: int, threads: int | None) -> str:
    facts = {
        "config": to_dict(checkpoint.config),
        "options": dataclasses.asdict(options) | {"upsample_conv": "", "conv": ""},
        "variants": _VARIANTS,
        "batch": batch,
        "threads": threads,
        "machine": machine(),
        "tools": {name: tool_versions().get(name) for name in ("sagan-deploy", "onnxruntime", "onnxruntime-gpu")},
    }
    return sha256_bytes(json.dumps(facts, sort_keys=True).encode())[:16]


def _read(file: Path) -> list[float] | None:
    try:
        times = [float(value) for value in json.loads(file.read_bytes())]
    except (OSError, ValueError, TypeError):
        return None
    return times if len(times) == len(_VARIANTS) and min(times) > 0 else None


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sagan-deploy"
