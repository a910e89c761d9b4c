"""`sagan-deploy targets`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(targets)


def targets() -> None:
    """Not written yet."""
