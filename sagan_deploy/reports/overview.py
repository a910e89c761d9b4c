"""A whole report in a few lines: where the worst is, where it begins, what would mend it, what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sagan_deploy.parity.evidence import Gain
from sagan_deploy.parity.report import Gate, Leg, ParityReport
from sagan_deploy.reports import words
from sagan_deploy.reports.scales import ranked

_LOST = 0.05  # a relative L2 error that no budget allows for rounding
_MENDS = 0.5  # a part that takes less of the error away alone is not worth a command


def worst(report: ParityReport) -> tuple[Leg, Gate] | None:
    """The leg and gate with the least margin, failed ones first; None when nothing was measured."""
    found = [(leg, gate) for leg in report.legs if (gate := words.worst_gate(leg)) is not None]
    return min(found, key=lambda pair: (pair[1].passed, words.tightness(pair[1])), default=None)


def verdict_lines(report: ParityReport) -> tuple[str, ...]:
    """What stands under the headline, a sentence each."""
    lines = []
    tightest = worst(report)
    if tightest is not None:
        leg, gate = tightest
        if not gate.passed:
            lines.append(f"The worst: {words.problem(gate)} ({leg.name}).")
        elif not words.kept(gate):
            share = words.percent(words.used(gate), 0)
            lines.append(f"Closest to its limit: {gate.rule} of {leg.name}, {share} of the limit used.")
    for leg in report.legs:
        if leg.status == "failed" and leg.fault is not None:
            lines.append(f"{leg.name}: {words.stage(leg.fault)}.")
        if leg.status == "failed" and (mend := mending(leg)):
            lines.append(f"{leg.name}: {mend}.")
    return tuple(lines)


def mending(leg: Leg) -> str:
    """What the best part in float32 would mend, in one clause; empty where none mends much."""
    best = _mending_gain(leg)
    if best is None:
        return ""
    share = words.percent(best.share, 0)
    return f"{best.path} in float32, with the checkpoint's weights, takes {share} of the error away"


def _mending_gain(leg: Leg) -> Gain | None:
    best = ranked(leg.gains)[0] if leg.gains else None
    return best if best is not None and best.share >= _MENDS else None  # NaN is no gain


def tiles(report: ParityReport) -> tuple[tuple[str, str], ...]:
    """The report in numbers, each with what it counts."""
    gates = [gate for leg in report.legs for gate in leg.gates]
    held = sum(gate.passed for gate in gates)
    ran = sum(leg.status != "not_run" for leg in report.legs)
    tightest = worst(report)
    found = [
        (f"{ran} of {len(report.legs)}", "legs judged here"),
        (f"{held} of {len(gates)}", "gates hold"),
        (str(sum(report.cases.values())), f"images per file in {len(report.cases)} cases"),
    ]
    if tightest is not None and not words.kept(tightest[1]):
        found.append((words.margin(tightest[1]), "the least margin"))
    return (*found, (words.seconds(report.seconds), "took it"))


def next_step(report: ParityReport, checkpoint: str, files: Sequence[str], folder: str | None) -> str:
    """The command, or the page, that somebody who has read the table needs next."""
    name = shlex.quote(checkpoint)
    page = None if folder is None else shlex.quote(f"{folder}/report.html")
    failed = [leg for leg in report.legs if leg.status == "failed"]
    for leg in failed:
        if any(gate.rule == "hard.checkpoint" for gate in leg.failed_gates):
            return f"export {leg.name} from this checkpoint, or name the one that it comes from"
        if leg.gains and _too_narrow(leg, report):  # the export searches the fewest float32 parts itself
            return f"sagan-deploy export {name} --out mixed.onnx --precision mixed"
    if failed:
        again = " ".join(["sagan-deploy parity", name, *map(shlex.quote, files), "--report parity"])
        return f"open {page}" if page is not None else again
    if report.not_run:
        return "the same command where the rest can run; --require-all exits with 3 until it does"
    return f"sagan-deploy deploy {name} --out bundle"


def _too_narrow(leg: Leg, report: ParityReport) -> bool:
    """Whether the format itself is to blame: values overflow, or PyTorch loses the images in it as well.

    A file that fails where PyTorch in the same precision does well is not too coarse but wrong.
    """
    if leg.ranges is None:
        return False
    lost = report.yardstick.get(leg.ranges.precision, {}).get("tensor.rel_l2", 0.0)
    return bool(leg.ranges.overflows) or not lost < _LOST


def step_facts(step: Mapping[str, Any]) -> dict[str, str]:
    """A step of the provenance without its name, every value as text."""
    plain = (str, int, float, bool)
    return {
        str(key): str(value) if isinstance(value, plain) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for key, value in step.items()
        if key != "step"
    }
