"""A training run from its first step to its last, over interruptions: plan, log, pictures, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sagan_deploy.checkpoints.native import checkpoint_of, save_checkpoint
from sagan_deploy.errors import CheckFailed, ConfigError, InputError
from sagan_deploy.files import refuse_existing, write_bytes
from sagan_deploy.presets import Preset
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.interrupt import deferred_interrupt
from sagan_deploy.training.log import LOG_NAME, CsvLog, LogRow
from sagan_deploy.training.samples import sample_grid
from sagan_deploy.training.schedule import Plan, decay_start
from sagan_deploy.training.state import STATE_NAME, RunState, check_same_run, is_finite, read_state, restore, save_state
from sagan_deploy.training.trainer import StepLosses, Trainer

CHECKPOINT_NAME = "generator.safetensors"
SAMPLES_NAME = "samples"


@dataclass(frozen=True)
class TrainResult:
    """What a run left: `seconds` counts all its sessions, the losses are the last step's (NaN without steps)."""

    checkpoint: Path
    steps: int
    seconds: float
    images_per_second: float
    discriminator_loss: float
    generator_loss: float
    samples: Path | None


def train(
    preset: Preset,
    data: Dataset | None,
    out: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> TrainResult:
    """Train a generator on images, into ``out/generator.safetensors``.

    Beside it come ``training.safetensors`` (all that `resume` needs), ``log.csv`` and ``samples/step_….png``. A run
    that is interrupted and resumed ends with the same weights, bit for bit, as one that is not (on the CPU, with the
    same number of threads). Ctrl-C finishes the step, writes a checkpoint and raises `KeyboardInterrupt`.

    Args:
        preset: networks and settings; the number of classes is taken from `data`.
        data: the images; None only with no steps.
        out: the folder to write to.
        steps: how many steps; None: the preset's, or what the resumed run planned. 0 writes the initial generator.
        minutes: instead of `steps`, as many as fit into this time, sessions before a resume included.
        seed: of weights, batches and noise; None: the preset's.
        resume: continue the run in `out`.
        force: replace the run in `out`.
        device: where to compute, ``cpu`` or ``cuda``.
        progress: told after every step.

    Raises:
        ConfigError: options contradict each other, or `resume` with other settings or data.
        InputError: `out` exists, cannot be written or holds no whole state to resume.
        CheckFailed: the training diverged; the last good checkpoint is kept.
    """
    if steps is not None and minutes is not None:
        raise ConfigError("give either steps or minutes, not both")
    if resume and force:
        raise ConfigError("resume continues the run in the folder and force replaces it: give one of them")
    settled = _settle(preset, data, steps, seed)
    state, tensors = _read_run(out) if resume else (None, {})
    run = _Run(settled, data, Path(out), state, steps, minutes, device)
    if state is not None:
        restore(run.trainer, tensors, path=Path(out) / STATE_NAME)
    else:
        _clear(Path(out), force=force)
    with _flush_denormals():
        return run.finish(progress)


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


class _Run:
    """One session of a run."""

    def __init__(
        self,
        preset: Preset,
        data: Dataset | None,
        out: Path,
        state: RunState | None,
        steps: int | None,
        minutes: float | None,
        device: str,
    ) -> None:
        self.out = out
        self.data = data
        self.fingerprint = data.fingerprint() if data is not None else ""
        self.step = 0
        before = 0.0
        total = None
        if state is not None:
            check_same_run(state, preset, self.fingerprint, path=out / STATE_NAME)
            self.step, before, total = state.step, state.elapsed, state.total
            if minutes is None and steps is None:
                minutes = state.minutes
                steps = state.total if minutes is None else None
            if steps is not None:
                _check_steps(state, steps)
                preset = dataclasses.replace(preset, train=dataclasses.replace(preset.train, steps=steps))
        started = time.monotonic()
        self.clock: Callable[[], float] = lambda: before + time.monotonic() - started
        self.preset = preset
        self.plan = Plan(preset.train, minutes, self.clock, total)
        self.trainer = Trainer(preset, device=device)
        self.first = self.step
        self.saved = self.step  # the step of the checkpoint on disk
        self.losses: StepLosses | None = None
        self.samples: Path | None = None

    def finish(self, progress: Progress) -> TrainResult:
        """Take the steps that are left."""
        log = CsvLog(self.out / LOG_NAME, resume_at=self.step)
        began = time.monotonic()
        if self.data is not None and not self.plan.done(self.step):
            with deferred_interrupt() as interrupt:
                self._steps(self.data, log, lambda: interrupt.asked, progress)
            if interrupt.asked:
                raise KeyboardInterrupt
        seconds = time.monotonic() - began
        if self.preset.train.steps == 0 and self.step == 0:
            # Only what was asked for: a state to resume would hold four times the generator and no training.
            self._save_generator()
        speed = (self.step - self.first) * self.preset.train.batch_size / seconds if self.step > self.first else 0.0
        d_loss, g_loss = (float("nan"),) * 2
        if self.losses is not None:
            d_loss, g_loss = float(self.losses.discriminator), float(self.losses.generator)
        return TrainResult(self.out / CHECKPOINT_NAME, self.step, self.clock(), speed, d_loss, g_loss, self.samples)

    def _steps(self, data: Dataset, log: CsvLog, interrupted: Callable[[], bool], progress: Progress) -> None:
        config, batches = self.preset.train, self.trainer.batches(data)
        noted, noted_at = self.step, time.monotonic()
        while not self.plan.done(self.step) and not interrupted():
            factor = self.plan.factor(self.step)
            losses = self.losses = self.trainer.step(self.step, batches, rate_factor=factor)
            self.step += 1
            self.plan.observe(self.step)
            done = self.plan.done(self.step)
            if self.step % config.log_every == 0 or done:
                now = time.monotonic()
                speed = (self.step - noted) * config.batch_size / max(now - noted_at, 1e-9)
                noted, noted_at = self.step, now
                log.write(self._checked(_log_row(self.step, losses, factor, speed)))
            if self.step % config.sample_every == 0 or done:
                self._save_samples()
            if self.step % config.checkpoint_every == 0 or done:
                self._save()
            progress("train", self.step, self.plan.total)
        if self.saved != self.step:
            self._save()

    def _checked(self, row: LogRow) -> LogRow:
        # NaN and infinity spread to everything in a step or two; a mean of both losses shows either.
        if not abs(row.discriminator_loss + row.generator_loss) < float("inf"):
            raise self._diverged(f"losses {row.discriminator_loss:g} and {row.generator_loss:g}")
        return row

    def _diverged(self, what: str) -> CheckFailed:
        kept = (
            f"The checkpoint of step {self.saved} in {self.out} is good" if self.saved else "No checkpoint was written"
        )
        return CheckFailed(
            f"the training diverged at step {self.step} ({what}). {kept}. "
            "Start again with lower --generator-lr and --discriminator-lr, or another --seed."
        )

    def _save(self) -> None:
        if not is_finite(self.trainer):
            raise self._diverged("weights that are not finite")
        assert self.data is not None
        state = RunState(
            self.preset, self.step, self.plan.total, self.plan.minutes, self.clock(), self.data.source, self.fingerprint
        )
        save_state(self.out / STATE_NAME, state, self.trainer)
        self._save_generator()
        self.saved = self.step

    def _save_generator(self) -> None:
        data, config = self.data, self.preset.train
        made: dict[str, Any] = {"step": "train", "version": version("sagan-deploy")}
        if data is not None:
            made |= {"data": data.name, "images": len(data), "attribution": data.attribution}
        made |= {"steps": self.step, "batch_size": config.batch_size, "seed": config.seed}
        names = data.class_names if data is not None else ()
        checkpoint = checkpoint_of(self.trainer.ema.generator, class_names=names, provenance=(made,))
        save_checkpoint(self.out / CHECKPOINT_NAME, checkpoint)

    def _save_samples(self) -> None:
        picture = sample_grid(self.trainer.ema.generator, seed=self.preset.train.seed)
        self.samples = write_bytes(self.out / SAMPLES_NAME / f"step_{self.step:06d}.png", picture)


def _log_row(step: int, losses: StepLosses, factor: float, speed: float) -> LogRow:
    values = (losses.discriminator, losses.generator, losses.real_score, losses.fake_score)
    return LogRow(step, *(float(value) for value in values), factor, speed)


def _check_steps(state: RunState, steps: int) -> None:
    """Another number of steps is fine as long as it leaves the rates of the steps already taken as they were."""
    if steps < state.step:
        raise ConfigError(f"steps (={steps}) is less than the {state.step} that the run has taken already")
    starts = [decay_start(total, state.preset.train.lr_decay_from) for total in (steps, state.total)]
    if steps != state.total and any(start is not None and start < state.step for start in starts):
        raise ConfigError(
            f"steps (={steps}) cannot replace the planned {state.total} at step {state.step}: the learning rate is "
            f"falling and depends on it. Resume without it, or train anew with --steps {steps}."
        )


def _read_run(out: Path) -> tuple[RunState, dict[str, Tensor]]:
    path = Path(out) / STATE_NAME
    if not path.exists():
        raise InputError(f"{path} does not exist, so there is no run to resume. Start one without --resume.")
    return read_state(path)


def _clear(out: Path, *, force: bool) -> None:
    """Make place for a new run: an empty folder will do, and only files of a run are ever removed."""
    if out.is_dir() and not any(out.iterdir()):
        return
    refuse_existing(out, marker=LOG_NAME, force=force)
    for name in (STATE_NAME, CHECKPOINT_NAME, LOG_NAME):
        (out / name).unlink(missing_ok=True)
    for picture in (out / SAMPLES_NAME).glob("step_*.png"):
        picture.unlink()


@contextlib.contextmanager
def _flush_denormals() -> Iterator[None]:
    # Numbers below 1e-38 change no picture, but make some CPUs a hundred times slower when they turn up.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
