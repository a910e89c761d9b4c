"""`sagan-deploy train`: images to a generator."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars, say
from sagan_deploy.errors import ConfigError
from sagan_deploy.presets import PRESETS, Preset
from sagan_deploy.presets import preset as named_preset

if TYPE_CHECKING:
    from sagan_deploy.checkpoints.native import Checkpoint
    from sagan_deploy.training.run import TrainResult
    from sagan_deploy.training.state import RunState
    from sagan_deploy.training.world import World

DATA_HELP = (
    "robots, digits, a folder of images (a sub-folder per class), a .zip of one, an .npz file "
    "or WebDataset shards (NAME-{000..009}.tar)."
)
INIT_WARNING = (
    "--init: the discriminator begins from nothing, since checkpoints hold generators only. Until it has caught up the "
    "generator gets worse before it gets better; a lower --generator-lr keeps more of it."
)
_HIGHEST_RATE = 0.1


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(train)


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")],
    data: Annotated[
        str | None,
        typer.Option(help=DATA_HELP),
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}. Default: sagan32.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="How many steps; 0 writes an untrained generator and needs no data.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Instead of --steps: as many as fit into this time.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, max=65536, help="Images per step, of all processes.")] = None,
    accumulation: Annotated[
        int | None, typer.Option(min=1, help="Compute a batch in so many parts, where memory is short.")
    ] = None,
    generator_lr: Annotated[float | None, typer.Option(help="Learning rate of the generator.")] = None,
    discriminator_lr: Annotated[float | None, typer.Option(help="Learning rate of the discriminator.")] = None,
    discriminator_steps: Annotated[
        int | None, typer.Option(min=1, help="Discriminator steps per generator step.")
    ] = None,
    lr_decay_from: Annotated[
        float | None, typer.Option(help="Share of the steps after which both rates fall to zero; 1: never.")
    ] = None,
    ema_decay: Annotated[float | None, typer.Option(help="Of the averaged generator, once warmed up.")] = None,
    r1: Annotated[float | None, typer.Option(help="Weight γ of the R1 penalty (Mescheder et al. 2018).")] = None,
    augment: Annotated[
        str | None, typer.Option(help="DiffAugment (Zhao et al. 2020): color,translation,cutout or some of them.")
    ] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror half of the images.")] = None,
    balanced: Annotated[bool | None, typer.Option(help="Show every class equally often.")] = None,
    unconditional: Annotated[bool, typer.Option("--unconditional", help="Ignore the classes.")] = False,
    generator_spectral_norm: Annotated[bool | None, typer.Option(help="Spectral norm in the generator.")] = None,
    discriminator_spectral_norm: Annotated[
        bool | None, typer.Option(help="Spectral norm in the discriminator.")
    ] = None,
    standing_batches: Annotated[
        int | None, typer.Option(min=0, help="Batches that give the exported generator its batch statistics.")
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=0, help="Steps between measurements, which choose best.safetensors.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="States of so many checkpoints stay on disk.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between two checkpoints.")] = None,
    watch: Annotated[
        bool | None, typer.Option(help="Stop when the discriminator is dead or the images collapse.")
    ] = None,
    corrupt_limit: Annotated[
        int, typer.Option(min=0, help="So many images that cannot be read are named and left out.")
    ] = 0,
    init: Annotated[
        Path | None, typer.Option(help="Begin with this generator's weights and a fresh discriminator.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, batches and noise. Default: 0.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; under torchrun cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32; bf16 is refused where it is slower.")] = "fp32",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Continue the run in --out if there is one, else begin it.")
    ] = False,
    from_step: Annotated[int | None, typer.Option(min=0, help="With --resume: go back to this kept state.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a generator. Ctrl-C writes a checkpoint first; --resume goes on as if nothing had happened.

    Several processes: torchrun --nproc-per-node 2 -m sagan_deploy train ... --auto-resume

    Example: sagan-deploy train --preset sagan32 --data robots --minutes 3 --out run
    """
    from sagan_deploy.optional import require

    require("torch", "train")
    require("safetensors", "train")
    from sagan_deploy.training.precision import check_precision
    from sagan_deploy.training.world import joined_world

    check_precision(precision, device)
    changes = {
        "batch_size": batch_size, "accumulation": accumulation, "generator_lr": generator_lr,
        "discriminator_lr": discriminator_lr, "discriminator_steps": discriminator_steps,
        "lr_decay_from": lr_decay_from, "ema_decay": ema_decay, "r1": r1, "augment": _names(augment), "flip": flip,
        "balanced": balanced, "standing_batches": standing_batches, "evaluate_every": evaluate_every, "keep": keep,
        "checkpoint_every": checkpoint_every, "watch": watch, "seed": seed,
    }  # fmt: skip
    spectral = {"generator": generator_spectral_norm, "discriminator": discriminator_spectral_norm}
    with joined_world(device) as world:
        asked = _Request(out, data, preset, changes, spectral, steps, minutes, init)
        options = {"resume": resume, "auto_resume": auto_resume, "force": force, "from_step": from_step}
        reading = {"unconditional": unconditional, "corrupt_limit": corrupt_limit}
        result = _train(asked, world, options, reading, quiet=quiet or not world.first)
        if not world.first:
            return
    if json:
        print_json(_summary(result))
    else:
        print_result(_sentence(result))


@dataclass(frozen=True)
class _Request:
    """What the run shall be, as the options say it; None where the preset or the earlier run decides."""

    out: Path
    data: str | None
    preset: str | None
    changes: dict[str, Any]
    spectral: dict[str, bool | None]
    steps: int | None
    minutes: float | None
    init: Path | None


def _train(
    asked: _Request, world: World, options: dict[str, Any], reading: dict[str, Any], *, quiet: bool
) -> TrainResult:
    from sagan_deploy.training.data import open_dataset
    from sagan_deploy.training.data.dataset import without_classes
    from sagan_deploy.training.folder import check_out, has_state
    from sagan_deploy.training.run import saved_run
    from sagan_deploy.training.run import train as run

    if options.pop("auto_resume"):
        options["resume"] = bool(world.from_first(int(has_state(asked.out))))
        # A folder of a run that was killed before its first state may be used again; any other one is refused.
        options["force"] = not options["resume"]
    if not options["resume"]:
        world.on_first(lambda: check_out(asked.out, force=options["force"]))
    before = saved_run(asked.out, world) if options["resume"] else None
    chosen, initial = _chosen(asked, before)
    source = asked.data or (before.source if before is not None else None)
    if source is None and asked.steps != 0:
        raise ConfigError(f"--data is missing: {DATA_HELP}")
    with progress_bars(quiet=quiet) as progress:
        images = None
        if source:
            size, limit = chosen.generator.image_size, reading["corrupt_limit"]
            images = open_dataset(source, size, corrupt_limit=limit, progress=progress)
            for name in images.preparation.get("left_out", ()):
                say(f"left out, since it cannot be read: {name}", quiet=quiet)
            if images.attribution:
                say(images.attribution, quiet=quiet)
            if reading["unconditional"] or (before is not None and not before.preset.generator.num_classes):
                images = without_classes(images)
        if initial is not None:
            say(INIT_WARNING, quiet=quiet)
        try:
            return run(
                chosen, images, asked.out, steps=asked.steps, minutes=asked.minutes, initial=initial, world=world,
                progress=progress, **options,
            )  # fmt: skip
        except (KeyboardInterrupt, SystemExit):
            say(f"interrupted; go on with: sagan-deploy train --out {asked.out} --resume", quiet=quiet)
            raise


def _chosen(asked: _Request, before: RunState | None) -> tuple[Preset, Checkpoint | None]:
    """The preset of the run and, where one is given, the generator it begins with."""
    base = before.preset if before is not None and asked.preset is None else named_preset(asked.preset or "sagan32")
    initial = None
    if asked.init is not None:
        from sagan_deploy.checkpoints.native import load_checkpoint

        if before is not None:
            raise ConfigError("--init begins a run and --resume continues one: give one of them")
        initial = load_checkpoint(asked.init)
        base = base.around(initial.config)
    return _changed(base, asked.spectral, **asked.changes), initial


def _names(listed: str | None) -> tuple[str, ...] | None:
    return None if listed is None else tuple(name.strip() for name in listed.split(",") if name.strip())


def _changed(base: Preset, spectral: dict[str, bool | None], **options: Any) -> Preset:
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("generator_lr", "discriminator_lr"):
        if given.get(name, 0.0) > _HIGHEST_RATE:
            raise ConfigError(
                f"--{name.replace('_', '-')} (={given[name]}) must not exceed {_HIGHEST_RATE}: try 0.0004"
            )
    for network, wanted in spectral.items():
        if wanted is not None:
            base = base.with_spectral_norm(network, wanted)
    return dataclasses.replace(base, train=dataclasses.replace(base.train, **given))


def _summary(result: TrainResult) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(result).items()}


def _sentence(result: TrainResult) -> str:
    if not result.steps:
        return f"{result.checkpoint}: an untrained generator"
    speed = f", {result.images_per_second:.0f} images/s" if result.images_per_second else ""
    shown = f"; look at {result.samples}" if result.samples else ""
    return f"{result.checkpoint}: {result.steps} steps in {result.seconds:.0f} s{speed}{shown}"
