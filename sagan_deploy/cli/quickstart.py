"""`sagan-deploy quickstart`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(quickstart)


def quickstart() -> None:
    """Not written yet."""
