"""The table of `sagan-deploy bench --train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sagan_deploy.training.speed import SpeedReport


def speed_table(report: SpeedReport) -> Table:
    """One line per way to take a training step; the last column is what the measure that is left out is worth."""
    from rich.table import Table

    setting = report.setting
    title = f"training steps, {setting['images']}, {report.rounds} rounds, {setting['threads']} threads"
    table = Table(title=title)
    for name in ("step", "ms", "cpu ms", "images/s", "times the usual", "by cpu time", "measure is worth"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for row in report.rows:
        worth = f"{row.brings:.2f}x" if row.name.startswith("without") else ""
        table.add_row(
            row.name, f"{row.wall_ms:.0f}", f"{row.cpu_ms:.0f}", f"{row.images_per_second:.1f}",
            f"{row.against_usual:.2f}x", f"{row.cpu_against_usual:.2f}x", worth,
        )  # fmt: skip
    return table
