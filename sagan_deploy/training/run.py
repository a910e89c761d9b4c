"""A training run from its first step to its last, over interruptions: plan, log, pictures, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.errors import ConfigError
from sagan_deploy.files import read_bytes, write_bytes
from sagan_deploy.optional import require
from sagan_deploy.presets import Preset
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.folder import CHECKPOINT_NAME, check_out, clear, forget_after, state_of_step, sweep
from sagan_deploy.training.schedule import decay_start
from sagan_deploy.training.session import Session, TrainResult
from sagan_deploy.training.state import STATE_NAME, RunState, parse_state, read_header, read_run, restore, run_of
from sagan_deploy.training.world import World

__all__ = ["CHECKPOINT_NAME", "TrainResult", "check_out", "saved_run", "train"]


def train(
    preset: Preset,
    data: Dataset | None,
    out: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    from_step: int | None = None,
    force: bool = False,
    initial: Checkpoint | None = None,
    device: str = "cpu",
    world: World | None = None,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> TrainResult:
    """Train a generator on images, into ``out/generator.safetensors``.

    Beside it: ``training.safetensors`` for `resume`, ``log.csv``, ``log.jsonl``, ``samples/step_….png``. A run that is
    interrupted or killed at any moment and resumed ends with the same weights, bit for bit, as one that is not (with as
    many processes and threads; on a GPU not with `compile` or without `deterministic`). Ctrl-C finishes the step,
    writes a checkpoint and raises `KeyboardInterrupt`; SIGTERM does the same and raises `SystemExit` with code 143.

    Args:
        preset: networks and settings; the number of classes is taken from `data`.
        data: the images; None only with no steps.
        out: the folder to write to.
        steps: how many steps; None: the preset's, or what the resumed run planned. 0 writes the initial generator.
        minutes: instead of `steps`, as many as fit into this time, sessions before a resume included.
        seed: of weights, batches and noise; None: the preset's.
        resume: continue the run in `out`.
        from_step: with `resume`, go on from this older state instead of the last one; later ones are removed.
        force: replace the run in `out`.
        initial: a generator to train on from, with the preset's config; the discriminator is a fresh one.
        device: where to compute: ``cpu``, ``cuda``, ``cuda:1`` …
        world: instead of `device`, the processes (see `joined_world`) that all call this; the first uses `out`.
        tensorboard: also write ``out/tensorboard``: the curves of ``log.jsonl`` and the sample pictures.
        progress: told after every step.

    Raises:
        ConfigError: options contradict each other, or `resume` with other settings or data.
        InputError: `out` exists, cannot be written or holds no whole state to resume.
        MissingError: there is no such device, or the package `tensorboard` is not installed.
        CheckFailed: the training diverged or a watchdog stopped it; the last good checkpoint is kept.
    """
    _check_together(steps, minutes, resume=resume, force=force, from_step=from_step, tensorboard=tensorboard)
    out, world = Path(out), world or World(device=device)
    state, tensors = _read(out, from_step, world) if resume else (None, {})
    if state is not None:
        steps, minutes = _continued_plan(state, steps, minutes)
    session = Session(_settle(preset, data, steps, seed), data, out, state, minutes, world, tensorboard=tensorboard)
    if state is not None:
        restore(session.trainer, tensors, path=out / STATE_NAME)
    else:
        if initial is not None:
            session.begin_with(initial)
        world.on_first(lambda: clear(out, force=force))
    with _arithmetic(session.trainer.preset.train.deterministic):
        return session.finish(progress)


def _check_together(
    steps: int | None,
    minutes: float | None,
    *,
    resume: bool,
    force: bool,
    from_step: int | None,
    tensorboard: bool,
) -> None:
    if steps is not None and minutes is not None:
        raise ConfigError("give either steps or minutes, not both")
    if resume and force:
        raise ConfigError("resume continues the run in the folder and force replaces it: give one of them")
    if from_step is not None and not resume:
        raise ConfigError("from_step goes back in a run that is resumed: give resume as well")
    if tensorboard:
        require("tensorboard", "tensorboard")  # before anything is replaced


def _read(out: Path, from_step: int | None, world: World) -> tuple[RunState, dict[str, torch.Tensor]]:
    def read() -> bytes:
        path = state_of_step(out, from_step)
        step = read_run(path).step
        payload = read_bytes(path)
        parse_state(payload, path=path)  # a damaged file is refused before anything is removed
        sweep(out)
        if path != out / STATE_NAME:
            write_bytes(out / STATE_NAME, payload)
            forget_after(out, step)
        return payload

    return parse_state(world.bytes_from_first(world.on_first(read)), path=out / STATE_NAME)


def _settle(preset: Preset, data: Dataset | None, steps: int | None, seed: int | None) -> Preset:
    """The preset with what the arguments say in place."""
    changes: dict[str, Any] = {"steps": steps, "seed": seed}
    config = dataclasses.replace(preset.train, **{name: value for name, value in changes.items() if value is not None})
    settled = dataclasses.replace(preset, train=config)
    if data is None:
        if config.steps:
            raise ConfigError(f"training for {config.steps} steps needs data; only steps=0 goes without")
        return settled
    size, channels = settled.generator.image_size, settled.generator.image_channels
    if (size, channels) != (data.image_size, 3) or settled.discriminator.image_size != size:
        raise ConfigError(
            f"the generator draws {channels} channels of {size}x{size} pixels, the discriminator sees "
            f"{settled.discriminator.image_size}x{settled.discriminator.image_size}, and the images of {data.name} "
            f"are 3 channels of {data.image_size}x{data.image_size}: they must agree"
        )
    return settled.with_classes(data.num_classes)


def _continued_plan(state: RunState, steps: int | None, minutes: float | None) -> tuple[int | None, float | None]:
    """Steps and minutes of a resumed run: what it planned, unless something else is asked for.

    Another number of steps is fine as long as it leaves the rates of the steps already taken as they were.
    """
    if minutes is not None:
        return None, minutes
    if steps is None:
        return (None, state.minutes) if state.minutes is not None else (state.total, None)
    if steps < state.step:
        raise ConfigError(f"steps (={steps}) is less than the {state.step} that the run has taken already")
    starts = [decay_start(total, state.preset.train.lr_decay_from) for total in (steps, state.total)]
    if steps != state.total and any(start is not None and start < state.step for start in starts):
        raise ConfigError(
            f"steps (={steps}) cannot replace the planned {state.total} at step {state.step}: the learning rate is "
            f"falling and depends on it. Resume without it, or train anew with --steps {steps}."
        )
    return steps, None


def saved_run(out: Path, world: World | None = None) -> RunState:
    """What the run in `out` is and where it stands; of several processes only the first one reads.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path, world = Path(out) / STATE_NAME, world or World()
    return run_of(world.bytes_from_first(world.on_first(lambda: read_header(path))), path=path)


@contextlib.contextmanager
def _arithmetic(deterministic: bool) -> Iterator[None]:
    """How numbers are computed while a run lasts; afterwards it is the caller's affair again."""
    before = torch.backends.cudnn.deterministic
    # Numbers below 1e-38 change no picture, but make some CPUs a hundred times slower when they turn up.
    torch.set_flush_denormal(True)
    # Otherwise cuDNN adds up the gradients of kernels in the order in which threads happen to finish.
    torch.backends.cudnn.deterministic = deterministic
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.backends.cudnn.deterministic = before
