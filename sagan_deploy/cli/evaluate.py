"""`sagan-deploy evaluate`: the quality of finished files on the same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagan_deploy.cli.talk import JsonOption, QuietOption, SeedOption, print_json, print_result, progress_bars
from sagan_deploy.cli.train_options import CorruptLimit


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(evaluate)


def evaluate(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints, ONNX files, plans or bundles.")],
    data: Annotated[str, typer.Option(help="The real images with their classes, as for train.")],
    images_per_class: Annotated[
        int, typer.Option(min=2, help="How many images of every class to draw; without classes, in all.")
    ] = 200,
    features: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="An ONNX network, images [n, c, h, w] in [-1, 1] to features [n, d] and, if it has them, class logits "
            "[n, k]: measure distances and the class score in them, too.",
        ),
    ] = None,
    corrupt_limit: CorruptLimit = 0,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what files draw against real images: PyTorch's checkpoint next to exported engines, on equal latents.

    A small classifier, trained here on the real images, judges; its Fréchet distance is no FID. With --features and
    an Inception network of your own, FID, KID and Inception Score are measured beside it.

    Example: sagan-deploy evaluate run/generator.safetensors bundle --data robots
    """
    from sagan_deploy.optional import require

    require("torch", "train")
    from sagan_deploy.generation import open_generator
    from sagan_deploy.reports.quality import files_table
    from sagan_deploy.training.data import open_dataset
    from sagan_deploy.training.quality.files import evaluate_files

    with open_generator(files[0]) as generator:
        size = generator.config.image_size
    with progress_bars(quiet=quiet) as progress:
        images = open_dataset(data, size, corrupt_limit=corrupt_limit, progress=progress)
        rows = evaluate_files(
            files, images, images_per_class=images_per_class, seed=seed, features=features, progress=progress
        )
    if json:
        print_json([row.to_dict() for row in rows])
    else:
        print_result(files_table(rows))
