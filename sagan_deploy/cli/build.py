"""`sagan-deploy build`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(build)


def build() -> None:
    """Not written yet."""
