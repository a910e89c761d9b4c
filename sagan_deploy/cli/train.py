"""`sagan-deploy train`: images to a generator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars, say
from sagan_deploy.errors import ConfigError
from sagan_deploy.presets import PRESETS, Preset
from sagan_deploy.presets import preset as named_preset

if TYPE_CHECKING:
    from sagan_deploy.training.run import TrainResult

_HIGHEST_RATE = 0.1


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(train)


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")],
    data: Annotated[
        str | None,
        typer.Option(help="robots, digits, a folder with a sub-folder of images per class, or an .npz file."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}. Default: sagan32.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="How many steps; 0 writes an untrained generator and needs no data.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Instead of --steps: as many as fit into this time.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, max=65536, help="Images per step.")] = None,
    generator_lr: Annotated[float | None, typer.Option(help="Learning rate of the generator.")] = None,
    discriminator_lr: Annotated[float | None, typer.Option(help="Learning rate of the discriminator.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror half of the images.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, batches and noise. Default: 0.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a generator. Ctrl-C writes a checkpoint first; --resume goes on as if nothing had happened.

    Example: sagan-deploy train --preset sagan32 --data robots --minutes 3 --out run
    """
    from sagan_deploy.optional import require

    require("torch", "train")
    require("safetensors", "train")
    from sagan_deploy.training.data import open_dataset
    from sagan_deploy.training.run import check_out, saved_run
    from sagan_deploy.training.run import train as run

    if not resume:
        check_out(out, force=force)
    before = saved_run(out) if resume else None
    base = before.preset if before is not None and preset is None else named_preset(preset or "sagan32")
    chosen = _changed(
        base, batch_size=batch_size, generator_lr=generator_lr, discriminator_lr=discriminator_lr, flip=flip, seed=seed
    )
    source = data or (before.source if before is not None else None)
    if source is None and steps != 0:
        raise ConfigError("--data is missing: robots, digits, a folder of images or an .npz file")
    with progress_bars(quiet=quiet) as progress:
        images = open_dataset(source, chosen.generator.image_size, progress=progress) if source else None
        if images is not None and images.attribution:
            say(images.attribution, quiet=quiet)
        try:
            result = run(
                chosen, images, out,
                steps=steps, minutes=minutes, resume=resume, force=force, device=device, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            say(f"interrupted; go on with: sagan-deploy train --out {out} --resume", quiet=quiet)
            raise
    if json:
        print_json(_summary(result))
    else:
        print_result(_sentence(result))


def _changed(base: Preset, **options: Any) -> Preset:
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("generator_lr", "discriminator_lr"):
        if given.get(name, 0.0) > _HIGHEST_RATE:
            raise ConfigError(
                f"--{name.replace('_', '-')} (={given[name]}) must not exceed {_HIGHEST_RATE}: try 0.0004"
            )
    return dataclasses.replace(base, train=dataclasses.replace(base.train, **given))


def _summary(result: TrainResult) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(result).items()}


def _sentence(result: TrainResult) -> str:
    if not result.steps:
        return f"{result.checkpoint}: an untrained generator"
    speed = f", {result.images_per_second:.0f} images/s" if result.images_per_second else ""
    shown = f"; look at {result.samples}" if result.samples else ""
    return f"{result.checkpoint}: {result.steps} steps in {result.seconds:.0f} s{speed}{shown}"
