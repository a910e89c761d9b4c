"""A report against an earlier one: did a new build come closer to a limit, although it still keeps it?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes
from sagan_deploy.parity.report import SCHEMA_VERSION, Gate, ParityReport

#: How much more of a limit may be used up than before.
ALLOWED = 0.1
_SKIPPED = ("hard.",)  # kept or not kept: parity itself says so


@dataclass(frozen=True)
class Drift:
    """One gate then and now. `used` is the share of the limit, of the limit that holds now, that a value uses up."""

    leg: str
    rule: str
    before: float
    now: float
    used_before: float
    used_now: float
    allowed: float

    @property
    def worse(self) -> bool:
        """Whether more of the limit is used up than allowed; NaN is."""
        return not self.used_now - self.used_before <= self.allowed


@dataclass(frozen=True)
class Comparison:
    """All gates that both reports have, and the legs that only one of them has."""

    path: str
    drifts: tuple[Drift, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def worse(self) -> tuple[Drift, ...]:
        """What got worse, the largest first."""
        return tuple(sorted((d for d in self.drifts if d.worse), key=lambda d: d.used_before - d.used_now))


def compare_with_baseline(report: ParityReport, path: Path, allowed: float = ALLOWED) -> Comparison:
    """Hold a report against a saved one.

    Legs are matched by name and gates by rule. Both values are measured by the limits that hold now.

    Args:
        report: the new one.
        path: a ``report.json``, of the same checkpoint or of another one.
        allowed: by how much of the limit a value may come closer to it, 0.1 for a tenth.

    Raises:
        InputError: no parity report, or one of another version.
    """
    saved = {leg["name"]: leg for leg in baseline_legs(path) if leg["status"] != "not_run"}
    ours = {leg.name: leg for leg in report.legs if leg.status != "not_run"}
    drifts = []
    for name in (name for name in ours if name in saved):
        values = {gate["rule"]: float(gate["value"]) for gate in saved[name]["gates"]}
        for gate in ours[name].gates:
            if gate.rule in values and not gate.rule.startswith(_SKIPPED):
                before = values[gate.rule]
                used = (_used(gate, before), _used(gate, gate.value))
                drifts.append(Drift(name, gate.rule, before, gate.value, *used, allowed))
    new = tuple(name for name in ours if name not in saved)
    return Comparison(str(path), tuple(drifts), new, tuple(name for name in saved if name not in ours))


def _used(gate: Gate, value: float) -> float:
    """The share of the gate's limit that a value uses up; NaN all of it and more."""
    if math.isnan(value):
        return math.inf
    if not gate.at_least:
        return value / gate.limit if gate.limit > 0 else value
    if gate.limit < 1:  # a similarity: its distance from 1 counts
        return (1 - value) / (1 - gate.limit)
    return 10 ** ((gate.limit - value) / 20)  # decibels, as a ratio of amplitudes


def baseline_legs(path: Path) -> list[dict[str, Any]]:
    """The legs of a saved report; errors are those of `compare_with_baseline`."""
    try:
        saved = json.loads(read_bytes(path))
        if saved["schema"] != SCHEMA_VERSION:
            raise InputError(f"{path} has schema {saved['schema']}, this version reads {SCHEMA_VERSION}. Save it anew.")
        legs: list[dict[str, Any]] = saved["legs"]
        for leg in legs:
            for gate in leg["gates"]:
                float(gate["value"]), str(gate["rule"])
            str(leg["name"]), str(leg["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no parity report ({type(error).__name__}: {error}). Save one with: sagan-deploy parity ... "
            "--save-baseline FILE"
        ) from error
    return legs
