"""`sagan-deploy generate`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(generate)


def generate() -> None:
    """Not written yet."""
