"""`sagan-deploy quickstart`: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagan_deploy.cli.talk import (
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    print_json,
    print_result,
    progress_bars,
    say,
)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")] = Path("quickstart"),
    data: Annotated[str, typer.Option(help="robots, digits, a folder of images or an .npz file.")] = "robots",
    minutes: Annotated[float, typer.Option(help="Time for training; the rest takes about two more.")] = 3.0,
    seed: SeedOption = 0,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small SAGAN on real images and take it to a judged bundle, on any machine.

    Example: sagan-deploy quickstart --out quickstart --minutes 3
    """
    from sagan_deploy.optional import require

    require("torch", "train")
    require("onnxruntime", "onnxruntime")
    from sagan_deploy.quickstart import quickstart as run
    from sagan_deploy.quickstart import summary
    from sagan_deploy.reports.console import artifact_table, quality_table

    with progress_bars(quiet=quiet) as progress:
        made = run(out, data=data, minutes=minutes, seed=seed, force=force, progress=progress)
    for name, reason in made.deployment.skipped.items():
        say(f"not made: {name}: {reason}", quiet=quiet)
    if json:
        print_json(summary(made))
        return
    print_result(quality_table(made.quality))
    print_result(artifact_table(made.deployment.manifest, made.seconds))
    print_result(f"Look at {out / 'report.html'} and {out / 'samples.png'}; {out / 'bundle'} is ready for production.")
