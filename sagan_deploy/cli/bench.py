"""`sagan-deploy bench`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(bench)


def bench() -> None:
    """Not written yet."""
