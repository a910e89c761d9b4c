"""`sagan-deploy train`: images to a generator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sagan_deploy.cli import train_options as options
from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars, say
from sagan_deploy.config import TrainConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.presets import Preset
from sagan_deploy.presets import preset as named_preset

if TYPE_CHECKING:
    from sagan_deploy.checkpoints.native import Checkpoint
    from sagan_deploy.training.run import TrainResult
    from sagan_deploy.training.state import RunState
    from sagan_deploy.training.world import World

INIT_WARNING = (
    "--init: the discriminator begins from nothing, since checkpoints hold generators only. Until it has caught up the "
    "generator gets worse before it gets better; a lower --generator-lr keeps more of it."
)
_HIGHEST_RATE = 0.1


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(train)


def train(
    out: options.Out,
    data: options.Data = None,
    preset: options.Preset = None,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    batch_size: options.BatchSize = None,
    accumulation: options.Accumulation = None,
    generator_lr: options.GeneratorLr = None,
    discriminator_lr: options.DiscriminatorLr = None,
    discriminator_steps: options.DiscriminatorSteps = None,
    lr_decay_from: options.LrDecayFrom = None,
    ema_decay: options.EmaDecay = None,
    r1: options.R1 = None,
    augment: options.Augment = None,
    flip: options.Flip = None,
    balanced: options.Balanced = None,
    unconditional: options.Unconditional = False,
    generator_spectral_norm: options.GeneratorSpectralNorm = None,
    discriminator_spectral_norm: options.DiscriminatorSpectralNorm = None,
    standing_batches: options.StandingBatches = None,
    evaluate_every: options.EvaluateEvery = None,
    keep: options.Keep = None,
    checkpoint_every: options.CheckpointEvery = None,
    watch: options.Watch = None,
    corrupt_limit: options.CorruptLimit = 0,
    init: options.Init = None,
    seed: options.Seed = None,
    device: options.Device = "cpu",
    precision: options.Precision = None,
    compile: options.Compile = None,  # noqa: A002 - the option is called so
    deterministic: options.Deterministic = None,
    resume: options.Resume = False,
    auto_resume: options.AutoResume = False,
    from_step: options.FromStep = None,
    tensorboard: options.TensorBoard = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a generator. Ctrl-C writes a checkpoint first; --resume goes on as if nothing had happened.

    Several processes: torchrun --nproc-per-node 2 -m sagan_deploy train ... --auto-resume

    Example: sagan-deploy train --preset sagan32 --data robots --minutes 3 --out run
    """
    given = dict(locals())  # every option by its name
    from sagan_deploy.optional import require

    require("torch", "train")
    require("safetensors", "train")
    from sagan_deploy.training.world import joined_world

    with joined_world(device) as world:
        result = _train(_Request(given), world, quiet=quiet or not world.first)
        if not world.first:
            return
    print_json(_summary(result)) if json else print_result(_sentence(result))


class _Request:
    """What the run shall be, as the options say it; None where the preset or the earlier run decides."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.out: Path = given["out"]
        self.data: str | None = given["data"]
        self.preset: str | None = given["preset"]
        self.init: Path | None = given["init"]
        self.steps: int | None = given["steps"]
        self.minutes: float | None = given["minutes"]
        self.auto_resume: bool = given["auto_resume"]
        self.unconditional: bool = given["unconditional"]
        self.corrupt_limit: int = given["corrupt_limit"]
        self.session = {name: given[name] for name in ("resume", "force", "from_step", "tensorboard")}
        self.spectral = {name: given[f"{name}_spectral_norm"] for name in ("generator", "discriminator")}
        settings = {field.name for field in dataclasses.fields(TrainConfig)} - {"steps"}
        self.changes = {name: value for name, value in given.items() if name in settings}
        self.changes["augment"] = _names(given["augment"])


def _train(asked: _Request, world: World, *, quiet: bool) -> TrainResult:
    from sagan_deploy.training.compiled import check_compiler
    from sagan_deploy.training.data import open_dataset
    from sagan_deploy.training.data.dataset import without_classes
    from sagan_deploy.training.folder import check_out, has_state
    from sagan_deploy.training.precision import check_precision
    from sagan_deploy.training.run import saved_run
    from sagan_deploy.training.run import train as run

    session = asked.session
    if asked.auto_resume:
        session["resume"] = bool(world.from_first(int(has_state(asked.out))))
        # A folder of a run that was killed before its first state may be used again; any other one is refused.
        session["force"] = not session["resume"]
    if not session["resume"]:
        world.on_first(lambda: check_out(asked.out, force=session["force"]))
    before = saved_run(asked.out, world) if session["resume"] else None
    chosen, initial = _chosen(asked, before)
    check_precision(chosen.train.precision, world.device)
    if chosen.train.compile:
        check_compiler(world.device)
        say("compiling both networks: the first step takes minutes", quiet=quiet)
    source = asked.data or (before.source if before is not None else None)
    if source is None and asked.steps != 0:
        raise ConfigError(f"--data is missing: {options.DATA_HELP}")
    with progress_bars(quiet=quiet) as progress:
        images = None
        if source:
            size, limit = chosen.generator.image_size, asked.corrupt_limit
            images = open_dataset(source, size, corrupt_limit=limit, progress=progress)
            for name in images.preparation.get("left_out", ()):
                say(f"left out, since it cannot be read: {name}", quiet=quiet)
            if images.attribution:
                say(images.attribution, quiet=quiet)
            if asked.unconditional or (before is not None and not before.preset.generator.num_classes):
                images = without_classes(images)
        if initial is not None:
            say(INIT_WARNING, quiet=quiet)
        try:
            return run(
                chosen, images, asked.out, steps=asked.steps, minutes=asked.minutes, initial=initial, world=world,
                progress=progress, **session,
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
