"""`sagan-deploy train`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(train)


def train() -> None:
    """Not written yet."""
