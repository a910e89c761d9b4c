"""`sagan-deploy inspect`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(inspect)


def inspect() -> None:
    """Not written yet."""
