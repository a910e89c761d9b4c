"""Parity on GitHub: annotations beside the change, and a summary of the run in Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence

from sagan_deploy.parity.baseline import Comparison
from sagan_deploy.parity.report import Gate, Leg, ParityReport
from sagan_deploy.reports import words
from sagan_deploy.reports.drift import regression
from sagan_deploy.reports.overview import verdict_lines


def annotation_lines(report: ParityReport, drift: Comparison | None = None) -> list[str]:
    """Workflow commands, one per line of stdout.

    An error per failed gate and per value that got worse since the baseline, a warning per leg that was not run, a
    notice per loosened limit.
    """
    lines = []
    for leg in report.legs:
        title = f"Parity: {leg.name}"
        if leg.status == "not_run":
            lines.append(_command("warning", title, f"not run: {leg.reason}"))
        elif leg.status == "failed":
            problems = [_problem(gate, leg) for gate in leg.failed_gates] or [leg.reason or "failed"]
            lines += [_command("error", title, problem) for problem in problems]
    for rule, reason in report.loosened.items():
        lines.append(_command("notice", "Parity: a limit was changed", f"{rule}: {reason}"))
    if drift is not None:
        lines += [_command("error", f"Parity: {worse.leg}", regression(worse, drift.path)) for worse in drift.worse]
    return lines


def summary(report: ParityReport, drift: Comparison | None = None) -> str:
    """GitHub Markdown, for the file that ``GITHUB_STEP_SUMMARY`` names."""
    parts = [f"## {words.headline(report)}", *map(_cell, verdict_lines(report)), _legs(report.legs)]
    parts.append(f"Reference: {_cell(report.reference)}; {sum(report.cases.values())} images per file.")
    for leg in report.legs:
        if leg.failed_gates:
            parts += [f"### {_cell(leg.name)}", _gates(leg.failed_gates)]
        if over := [stage for stage in leg.stages if not stage.passed]:
            errors = [(stage.path, words.number(stage.value), words.number(stage.limit)) for stage in over]
            parts += ["Stages over their own budget:", _table(("stage", "error", "budget"), errors)]
    if report.loosened:
        rows = [(rule, reason) for rule, reason in report.loosened.items()]
        parts += ["### Limits that a policy changed", _table(("rule", "reason"), rows)]
    if drift is not None:
        parts += ["### Against the baseline", *(_cell(regression(worse, drift.path)) for worse in drift.worse)]
        parts += [] if drift.worse else [_cell(f"Nothing got worse since {drift.path}.")]
    if report.command:
        parts += ["To make it again:", "\n".join(f"    {line}" for line in report.command.splitlines())]
    return "\n\n".join(parts) + "\n"


def _legs(legs: Sequence[Leg]) -> str:
    rows = []
    for leg in legs:
        worst = words.worst_gate(leg)
        gate = ("",) * 4
        if worst is not None:
            gate = (worst.rule, words.number(worst.value), words.limit(worst), words.margin(worst))
        rows.append((leg.name, leg.how, words.verdict(leg.status), *gate, leg.reason))
    return _table(("leg", "run with", "verdict", "tightest gate", "value", "limit", "margin", "why"), rows)


def _gates(gates: Sequence[Gate]) -> str:
    rows = [(g.rule, words.number(g.value), words.limit(g), words.place(g), g.derivation) for g in gates]
    return _table(("gate", "value", "limit", "worst", "where the limit comes from"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that cannot end its cell, start markup or become HTML."""
    text = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\|`*_[]#~":
        text = text.replace(mark, f"\\{mark}")
    return text


def _problem(gate: Gate, leg: Leg) -> str:
    return words.problem(gate) + (f"; {words.stage(leg.fault)}" if leg.fault is not None else "")


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
