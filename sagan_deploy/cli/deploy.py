"""`sagan-deploy deploy`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(deploy)


def deploy() -> None:
    """Not written yet."""
