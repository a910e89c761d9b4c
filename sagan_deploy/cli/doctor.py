"""`sagan-deploy doctor`: what this machine can do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from sagan_deploy.cli.talk import JsonOption, print_json, print_result

if TYPE_CHECKING:
    from rich.console import Group

    from sagan_deploy.doctor import Diagnosis


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(doctor)


def doctor(json: JsonOption = False) -> None:
    """Say which packages, driver and GPUs are here, which commands therefore work, and what installs the rest.

    The exit code is 1 when something is broken, 0 when something is merely missing.

    Example: sagan-deploy doctor
    """
    from sagan_deploy.doctor import examine

    diagnosis = examine()
    if json:
        print_json({**dataclasses.asdict(diagnosis), "healthy": diagnosis.healthy})
    else:
        print_result(_tables(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _tables(diagnosis: Diagnosis) -> Group:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "missing": "yellow", "problem": "red"}
    found = Table("what", "state", "detail", "what brings it")
    for finding in diagnosis.findings:
        state = f"[{colours[finding.status]}]{finding.status}[/]"
        found.add_row(finding.name, state, escape(finding.detail), escape(finding.fix))
    able = Table("command", "works here", "what it lacks")
    for ability in diagnosis.abilities:
        works = "[green]yes[/]" if ability.works else "[yellow]no[/]"
        able.add_row(ability.command, works, ", ".join(ability.lacks))
    return Group(found, able)
