"""A comparison with a baseline as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagan_deploy.reports import words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sagan_deploy.parity.baseline import Comparison, Drift


def drift_table(comparison: Comparison) -> RenderableType:
    """Per leg the gate that moved most towards its limit, every one that moved too far, and legs without a partner."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "gate", "then", "now", "of the limit then", "now", "", title=f"Against {comparison.path}")
    shown = {drift.leg: drift for drift in sorted(comparison.drifts, key=_moved)}
    for drift in dict.fromkeys((*comparison.worse, *shown.values())):
        facts = (drift.leg, drift.rule, words.number(drift.before), words.number(drift.now))
        shares = (words.percent(drift.used_before), words.percent(drift.used_now))
        verdict = Text("WORSE", "bold red") if drift.worse else Text("as good", "green")
        table.add_row(*map(Text, (*facts, *shares)), verdict)
    notes = [Text(f"not in the baseline: {name}") for name in comparison.new]
    notes += [Text(f"only in the baseline: {name}") for name in comparison.gone]
    return Group(table, *notes)


def regression(drift: Drift, path: str) -> str:
    """What got worse since a baseline, in one clause."""
    shares = f"{words.percent(drift.used_before, 0)} and now {words.percent(drift.used_now, 0)} of its limit"
    values = f"{drift.rule} was {words.number(drift.before)} and is {words.number(drift.now)}"
    return f"{drift.leg} got worse since {path}: {values}, that is {shares}"


def _moved(drift: Drift) -> float:
    return drift.used_now - drift.used_before
