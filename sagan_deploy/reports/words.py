"""The words and number formats that all reports share, so that they say the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from sagan_deploy.bundle.manifest import Artifact, TensorInfo
from sagan_deploy.parity.report import Gate, Leg, ParityReport, StageFault

_VERDICTS = {"passed": "passed", "failed": "FAILED", "not_run": "not run"}


def verdict(status: str) -> str:
    """A status in words that can be told apart without colours."""
    return _VERDICTS[status]


def headline(report: ParityReport) -> str:
    """The whole report in one line."""
    passed = sum(leg.status == "passed" for leg in report.legs)
    failed = sum(leg.status == "failed" for leg in report.legs)
    counts = [f"{count} {word}" for count, word in ((passed, "passed"), (failed, "FAILED")) if count]
    if report.not_run:
        counts.append(f"{len(report.not_run)} not run")
    nothing = "Parity was not judged, as nothing ran"
    start = "Parity FAILED" if failed else "Parity passed" if report.passed else nothing
    return f"{start}: {', '.join(counts) or 'no legs'}"


def number(value: float) -> str:
    """Three significant digits; whole numbers as they are, their neighbours as such (``1 − 5e-05``), words for NaN."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    whole = round(value)
    away = value - whole
    if whole and abs(away) < 5e-3 and abs(value) < 10:  # 0.99995 must not become a perfect 1
        return f"{whole} {'+' if away > 0 else '−'} {abs(away):.2g}"
    return f"{value:.3g}"


def given(artifact: Artifact) -> str:
    """The inputs of an artifact: ``z float32 [n, 128], labels int64 [n]``."""
    return ", ".join(_tensor(tensor) for tensor in artifact.inputs)


def made(artifact: Artifact) -> str:
    """The output of an artifact: ``images uint8 [n, 128, 128, 3]``."""
    return _tensor(artifact.outputs[0])


def _tensor(tensor: TensorInfo) -> str:
    return f"{tensor.name} {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


def percent(share: float, digits: int = 1, *, signed: bool = False) -> str:
    """0.5 → ``50.0 %``, and when `signed` ``+50.0 %`` or ``−50.0 %``."""
    if not math.isfinite(share):
        return number(share)
    rounded = round(100 * share, digits) or 0.0  # no minus before a zero
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f} %".replace("-", "−")


def share(value: float) -> str:
    """A share that may be tiny: ``0``, ``0.012 %``, ``34 %``."""
    return "0" if value == 0 else f"{100 * value:.2g} %" if math.isfinite(value) else number(value)


def bits(value: float) -> str:
    """Doublings with one digit and a true minus: ``10.9``, ``−1.3``."""
    return f"{value:.1f}".replace("-", "−") if math.isfinite(value) else number(value)


def megabytes(size: int) -> str:
    """Bytes as MB of a million bytes."""
    return f"{size / 1e6:.2f} MB" if size < 10e6 else f"{size / 1e6:.1f} MB"


def seconds(value: float) -> str:
    """``0.42 s``, ``12.3 s``, ``3 min 05 s``."""
    if value >= 119.95:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest:02d} s"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def timings(steps: Mapping[str, float]) -> str:
    """Seconds per step and their sum, in one line."""
    parts = [f"{step} {seconds(value)}" for step, value in steps.items()]
    return ", ".join([*parts, f"together {seconds(sum(steps.values()))}"]) if parts else ""


def limit(gate: Gate) -> str:
    """``≤ 0.01`` or ``≥ 40``."""
    return f"{'≥' if gate.at_least else '≤'} {number(gate.limit)}"


def margin(gate: Gate) -> str:
    """How far inside the limit, as a share of it, or in decibels; a negative one fails."""
    if kept(gate):
        return "kept"
    if math.isinf(gate.margin):
        return "all" if gate.passed else "none"
    if _in_decibels(gate):
        return f"{gate.value - gate.limit:+.1f} dB".replace("-", "−")
    return f"{100 * gate.margin:+.0f} %".replace("-", "−")


def used(gate: Gate) -> float:
    """How much of the limit is used up, 0 to 1; 1 as well for anything that fails."""
    if not gate.passed:
        return 1.0
    if kept(gate):
        return 0.0
    if _in_decibels(gate):
        return float(10 ** ((gate.limit - gate.value) / 20))  # of the amplitude that the error may have
    return min(max(1.0 - gate.margin, 0.0), 1.0)


def place(gate: Gate) -> str:
    """Where the worst value lies: case, image and pixel, as far as they are known."""
    parts = [gate.case] if gate.case else []
    if gate.image is not None:
        parts.append(f"image {gate.image}")
    if gate.pixel is not None:
        channel, row, column = gate.pixel
        parts.append(f"channel {channel}, row {row}, column {column}")
    return ", ".join(parts)


def problem(gate: Gate) -> str:
    """A failed gate in one clause: what it measured, where, and what was allowed."""
    where = f" at {place(gate)}" if place(gate) else ""
    return f"{gate.rule} is {number(gate.value)}{where}, the limit is {limit(gate)}"


def stage(fault: StageFault) -> str:
    """The stage where a failure begins, in one clause."""
    return f"first stage over its own budget: {fault.path} ({number(fault.value)}, limit {number(fault.limit)})"


def worst_gate(leg: Leg) -> Gate | None:
    """The gate with the least margin, failed ones first.

    Gates that are kept or not (nothing is NaN, all shapes are right) have no margin to speak of and come last.
    """
    return min(leg.gates, key=tightness, default=None)


def tightness(gate: Gate) -> tuple[bool, bool, float, float]:
    """Sorts gates: failed ones first, by their margin, then those that use up more of their limit."""
    return kept(gate), gate.passed, -used(gate), gate.margin


def _in_decibels(gate: Gate) -> bool:
    return gate.at_least and gate.limit >= 1


def kept(gate: Gate) -> bool:
    """Whether a gate holds that can only be kept or broken, and so has no margin to speak of."""
    return gate.passed and (gate.rule.startswith("hard.") or gate.value == gate.limit)


def runs_with(artifact: Artifact) -> str:
    """What runs a file of a bundle."""
    plan = artifact.plan
    if plan is None:
        return "ONNX Runtime"
    name = "TensorRT-RTX" if plan.flavour == "rtx" else "TensorRT"
    return f"{name} {plan.tensorrt_version} on {', '.join(plan.targets)}"


def without_folder(report: ParityReport, folder: str) -> ParityReport:
    """The same report with the paths of files below `folder` relative to it; the others stay as they are."""
    prefix = folder.rstrip("/") + "/"
    legs = [
        dataclasses.replace(leg, path=leg.path.removeprefix(prefix)) if leg.path is not None else leg
        for leg in report.legs
    ]
    return dataclasses.replace(report, legs=tuple(legs))
