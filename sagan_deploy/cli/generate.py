"""`sagan-deploy generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, SeedOption, print_json, progress_bars, say
from sagan_deploy.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(generate)


def generate(
    file: Annotated[Path, typer.Argument(help="A bundle, an .onnx, a .plan or a .safetensors checkpoint.")],
    out: Annotated[Path, typer.Option(help="NAME.png: one grid; NAME.npz: arrays; a folder: single images.")],
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    seed: SeedOption = 0,
    classes: Annotated[
        str | None, typer.Option(help="Numbers or names with commas, taken in turn; default: drawn.")
    ] = None,
    truncation: Annotated[float | None, typer.Option(help="Redraw latents beyond this magnitude.")] = None,
    start: Annotated[int, typer.Option(min=0, help="Index of the first image of the seed.")] = 0,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Images per row of the grid; default: about square.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt or onnxruntime.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the best that there is.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images. A seed gives the same images from every file made of one checkpoint.

    Example: sagan-deploy generate bundle --count 16 --seed 3 --out samples.png
    """
    from sagan_deploy.generation import check_output, draw, output_form, save_drawing

    if backend not in ("auto", "tensorrt", "onnxruntime"):
        raise ConfigError(f"--backend (={backend}) must be auto, tensorrt or onnxruntime")
    if columns is not None and output_form(out) != "grid":
        raise ConfigError("--columns has no effect without a grid: let --out end in .png")
    check_output(out, force=force)
    wanted = None if classes is None else [name.strip() for name in classes.split(",")]
    with progress_bars(quiet=quiet or json) as progress:
        drawing = draw(
            file, count, seed=seed, classes=wanted, truncation=truncation, start=start,
            backend=backend, device=device, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    files = save_drawing(drawing, out, columns=columns, force=force)
    if json:
        labels = None if drawing.labels is None else drawing.labels.tolist()
        print_json(
            {
                "out": str(out),
                "files": [str(path) for path in files],
                "count": count,
                "labels": labels,
                "drawn_by": drawing.choice,
                "not_used": drawing.rejected,
            }
        )
        return
    for reason in drawing.rejected:
        say(f"not used: {reason}", quiet=quiet)
    say(f"{count} images drawn by {drawing.choice}", quiet=quiet)
    typer.echo(str(out))
