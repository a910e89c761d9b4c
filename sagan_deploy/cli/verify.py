"""`sagan-deploy verify`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(verify)


def verify() -> None:
    """Not written yet."""
