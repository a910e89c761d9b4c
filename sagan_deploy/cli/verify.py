"""`sagan-deploy verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagan_deploy.cli.talk import JsonOption, QuietOption, print_json, print_result, progress_bars
from sagan_deploy.errors import CheckFailed, MissingError

if TYPE_CHECKING:
    from sagan_deploy.verify import VerifyResult


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(verify)


def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder that `deploy` wrote.")],
    device: Annotated[str | None, typer.Option(help="Only cpu, cuda or cuda:N; default: all that there are.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a bundle's integrity and let everything that runs on this machine draw its golden images, without PyTorch.

    Exits with 1 when an artifact draws other images, 3 when none runs here, 4 when a file is damaged.

    Example: sagan-deploy verify bundle
    """
    from sagan_deploy.verify import verify_bundle

    with progress_bars(quiet=quiet or json) as progress:
        result = verify_bundle(bundle, device=device, progress=progress)
    if json:
        print_json(result.to_dict())
    else:
        print_result(_table(result))
        if result.unlisted:
            print_result(f"Not listed in the manifest, and never read: {', '.join(result.unlisted)}")
    if result.failed:
        names = ", ".join(f"{replay.file} with {replay.backend}" for replay in result.failed)
        raise CheckFailed(f"{bundle} draws other images than it should here: {names}")
    if not result.passed:
        raise MissingError(
            f"all {result.files} files of {bundle} are whole, but none of its artifacts could be run here"
        )


def _table(result: VerifyResult) -> Any:
    from rich.markup import escape
    from rich.table import Table

    title = f"{result.path}: {result.files} files whole; {result.images} golden images replayed"
    table = Table("file", "runs with", "verdict", "rel. L2 (limit)", "max. abs (limit)", "why not", title=escape(title))
    colours = {"passed": "green", "failed": "bold red", "not_run": "yellow"}
    for replay in result.replays:
        limits = replay.limits
        table.add_row(
            escape(replay.file),
            replay.backend,
            f"[{colours[replay.status]}]{replay.status.replace('_', ' ')}[/]",
            "" if replay.rel_l2 is None or limits is None else f"{replay.rel_l2:.1e} ({limits.rel_l2:.1e})",
            "" if replay.max_abs is None or limits is None else f"{replay.max_abs:.1e} ({limits.max_abs:.1e})",
            escape(replay.reason),
        )
    return table
