"""Results as tables for the terminal. Words carry every verdict; colours only help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagan_deploy.reports import words
from sagan_deploy.reports.overview import mending
from sagan_deploy.reports.quality import quality_lines
from sagan_deploy.reports.rules import RULES

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from sagan_deploy.bench import BenchReport
    from sagan_deploy.bundle.manifest import Manifest
    from sagan_deploy.parity.report import Leg, ParityReport
    from sagan_deploy.training.quality import QualityReport

_SHOWN = 2  # failed gates of a leg; the report has all of them
_STYLES = {"passed": "green", "failed": "bold red", "not_run": "yellow"}


def parity_table(report: ParityReport) -> RenderableType:
    """A row per leg with its tightest gate, then what is wrong with each failed leg and where it begins."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = ("file", "run with", "verdict", "tightest gate", "value", "limit", "margin", "why")
    table = Table(*head, title=Text(words.headline(report)))
    for leg in report.legs:
        gate = words.worst_gate(leg)
        facts, reason = ("",) * 4, "see below" if leg.failed_gates else leg.reason
        if gate is not None:
            facts = (gate.rule, words.number(gate.value), words.limit(gate), words.margin(gate))
        table.add_row(Text(leg.name), Text(leg.how), _verdict(leg.status), *map(Text, facts), Text(reason))
    details = [text for leg in report.legs for text in _failures(leg)]
    details += [Text(f"changed limit {rule}: {reason}") for rule, reason in report.loosened.items()]
    return Group(table, *details)


def rules_table() -> RenderableType:
    """Every rule id with what it measures."""
    from rich.table import Table

    table = Table("rule", "measures", "judged on", "limit")
    for rule in RULES:
        table.add_row(rule.id, rule.measures, rule.judged, "derived, or from a policy" if rule.adjustable else "fixed")
    return table


def artifact_table(manifest: Manifest, seconds: dict[str, float]) -> RenderableType:
    """The files of a bundle with what runs them and their verdicts, then how long every step took."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "precision", "images", "runs with", "size", "verdict", "why")
    for artifact in manifest.artifacts:
        images = "8-bit codes" if artifact.output == "uint8" else "float"
        size = Text(words.megabytes(artifact.size), justify="right")
        facts = (Text(artifact.precision), Text(images), Text(words.runs_with(artifact)), size)
        table.add_row(Text(artifact.path), *facts, _verdict(artifact.verdict.status), Text(artifact.verdict.reason))
    return Group(table, Text(words.timings(seconds))) if seconds else table


def bench_table(report: BenchReport) -> RenderableType:
    """A row per contender and batch size, then what could not run and the machine."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    weighed = any(row.peak_mb is not None for row in report.rows)
    on_gpu = any(row.gpu_ms is not None for row in report.rows)
    counted = any(row.gflops is not None for row in report.rows)
    head = ["batch", "what", "images/s", "median ms", "90 % ms", "99 % ms", "CPU ms", *(["GPU ms"] if on_gpu else [])]
    head += ["calls", "speed-up (10–90 %)", *(["GFLOP/s", "of attainable"] if counted else []), "file MB"]
    head += ["peak MB"] if weighed else []
    table = Table(*head, title=Text(f"speed-up is against {report.baseline}"))
    batch = None
    for row in report.rows:
        if batch not in (None, row.batch):
            table.add_section()
        batch = row.batch
        times = [f"{value:.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.cpu_ms)]
        times += ["" if row.gpu_ms is None else f"{row.gpu_ms:.2f}"] * on_gpu
        ratio = f"{row.speedup:.2f}× ({row.speedup_low:.2f}–{row.speedup_high:.2f})"
        share = "" if row.attainable is None else f"{row.attainable:.0%}"
        facts = [*([_or_nothing(row.gflops), share] * counted), _or_nothing(row.file_mb)]
        facts += [_or_nothing(row.peak_mb)] * weighed
        numbers = (f"{row.images_per_second:.1f}", *times, str(row.calls), ratio, *facts)
        table.add_row(str(row.batch), Text(row.name), *(Text(value, justify="right") for value in numbers))
    predicted = [
        Text(
            f"prediction, not measured: {each.name}, batch {each.batch}, on {each.target} in fp16: at least "
            f"{each.lower_bound_ms:.3f} ms, bound by {each.limit}"
        )
        for each in report.predictions
    ]
    lost = [Text(f"not run: {name}: {reason}") for name, reason in report.not_run.items()]
    machine = Text(", ".join(f"{name}: {value}" for name, value in report.machine.items()))
    return Group(table, *predicted, *lost, machine)


def _or_nothing(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def quality_table(quality: QualityReport) -> RenderableType:
    """What was measured on generated images, beside what it is to be held against."""
    from rich.table import Table
    from rich.text import Text

    table = Table("measured", "value", "held against", "verdict", title=f"{quality.images} generated images")
    for line in quality_lines(quality):
        style = {"reached": "green", "MISSED": "bold red"}.get(line.verdict, "")
        value = Text(line.value, justify="right")
        table.add_row(Text(line.name), value, Text(line.beside), Text(line.verdict, style))
    return table


def _failures(leg: Leg) -> list[Text]:
    """The tightest failed gates of a leg, its first faulty stage and what would mend it."""
    from rich.text import Text

    failed = sorted(leg.failed_gates, key=lambda gate: gate.margin)
    lines = []
    for gate in failed[:_SHOWN]:
        lines.append(Text(f"{leg.name}: {words.problem(gate)}"))
        lines.append(Text(f"    the limit: {gate.derivation}"))
    if len(failed) > _SHOWN:
        rest = ", ".join(gate.rule for gate in failed[_SHOWN:])
        lines.append(Text(f"{leg.name}: {len(failed) - _SHOWN} more failed: {rest}"))
    if leg.fault is not None:
        lines.append(Text(f"{leg.name}: {words.stage(leg.fault)}"))
    if leg.status == "failed" and (mend := mending(leg)):
        lines.append(Text(f"{leg.name}: {mend}"))
    return lines


def _verdict(status: str) -> Text:
    from rich.text import Text

    return Text(words.verdict(status), _STYLES[status])
