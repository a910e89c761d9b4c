"""`sagan-deploy parity`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(parity)


def parity() -> None:
    """Not written yet."""
