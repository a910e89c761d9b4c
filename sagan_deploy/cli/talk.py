"""What the commands say: results to stdout, talk and progress bars to stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sagan_deploy.progress import Progress, silent

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No talk and no progress bars on stderr.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists already.")]


def say(message: str, *, quiet: bool = False) -> None:
    """A line of talk on stderr."""
    if not quiet:
        typer.echo(message, err=True)


def print_json(value: Any) -> None:
    """A result for machines: indented JSON on stdout. NaN and infinities become null, as JSON has neither."""
    typer.echo(json.dumps(_finite(value), indent=2))


def print_result(renderable: Any) -> None:
    """A result for people, a Rich renderable or text, on stdout."""
    from rich.console import Console

    # Without a terminal (CI logs, pipes) Rich assumes 80 columns, which folds paths; COLUMNS still decides.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    Console(width=width, soft_wrap=isinstance(renderable, str)).print(renderable)


@contextlib.contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Progress]:
    """Rich progress bars on stderr, one per task, as a `Progress` callback; silent when asked or not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def progress(task: str, completed: float, total: float | None) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=completed, total=total)

        yield progress


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
