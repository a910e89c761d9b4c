"""`sagan-deploy prepare`: images to a folder of pixels that training maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagan_deploy.cli import train_options as options
from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars, say


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(prepare)


def prepare(
    data: Annotated[str, typer.Argument(help=options.DATA_HELP)],
    size: Annotated[int, typer.Option(min=4, max=4096, help="Height and width of the images, as the preset draws.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    corrupt_limit: options.CorruptLimit = 0,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read images once and for all, into a folder that train and evaluate take as --data and map instead of loading.

    For data larger than memory, for several processes on one machine, and for starting at once.

    Example: sagan-deploy prepare pictures --size 128 --out pixels
    """
    from sagan_deploy.training.data import open_dataset
    from sagan_deploy.training.data import prepare as write

    with progress_bars(quiet=quiet) as progress:
        made = write(
            lambda pixels: open_dataset(data, size, corrupt_limit=corrupt_limit, pixels=pixels, progress=progress),
            out,
            force=force,
        )
    left_out = made.preparation.get("left_out", ())
    for name in left_out:
        say(f"left out, since it cannot be read: {name}", quiet=quiet)
    if made.attribution:
        say(made.attribution, quiet=quiet)
    if json:
        print_json(
            {
                "path": str(out),
                "images": len(made),
                "size": size,
                "bytes": made.images.nbytes,
                "class_names": made.class_names,
                "left_out": left_out,
            }
        )
    else:
        classes = f" in {made.num_classes} classes" if made.num_classes else ""
        print_result(
            f"{out}: {len(made)} images of {size}x{size}{classes}, {made.images.nbytes / 1e6:.0f} MB; "
            f"train with --data {out}"
        )
