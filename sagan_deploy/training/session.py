"""The steps of one session and what is written between them: log, pictures, states, the generator, the best one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sagan_deploy.checkpoints.native import Checkpoint, checkpoint_of, save_checkpoint
from sagan_deploy.errors import CheckFailed, ConfigError
from sagan_deploy.files import write_bytes
from sagan_deploy.images import encode_png
from sagan_deploy.presets import Preset
from sagan_deploy.progress import Progress
from sagan_deploy.training.best import Judge
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.folder import BEST_NAME, CHECKPOINT_NAME, SAMPLES_NAME, write_state
from sagan_deploy.training.interrupt import deferred_interrupt
from sagan_deploy.training.log import LogRow
from sagan_deploy.training.run_log import RunLog
from sagan_deploy.training.samples import sample_grid, sample_images
from sagan_deploy.training.schedule import Plan
from sagan_deploy.training.standing import with_standing_statistics
from sagan_deploy.training.state import STATE_NAME, RunState, check_same_run, digest, is_finite, state_bytes
from sagan_deploy.training.trainer import StepLosses, Trainer
from sagan_deploy.training.watch import Watchdog
from sagan_deploy.training.world import World


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


class Session:
    """One session of a run, between a start or a resume and its end, by whatever cause."""

    def __init__(
        self,
        preset: Preset,
        data: Dataset | None,
        out: Path,
        state: RunState | None,
        minutes: float | None,
        world: World,
        *,
        tensorboard: bool = False,
    ) -> None:
        self.preset = preset
        self.data = data
        self.out = out
        self.world = world
        self.tensorboard = tensorboard
        self.fingerprint = data.fingerprint() if data is not None else ""
        if state is not None:
            check_same_run(state, preset, self.fingerprint, path=out / STATE_NAME)
        self.step = self.first = state.step if state is not None else 0
        self.saved = state.step if state is not None else None  # of the state on disk
        before, started = state.elapsed if state is not None else 0.0, time.monotonic()
        self.clock: Callable[[], float] = lambda: before + time.monotonic() - started
        self.plan = Plan(preset.train, minutes, self.clock, state.total if state is not None else None)
        self.trainer = Trainer(preset, world=world)
        self.watchdog = Watchdog(data) if data is not None and preset.train.watch else None
        self.judge: Judge | None = None
        if data is not None and preset.train.evaluate_every:
            self.judge = Judge(data, seed=preset.train.seed)
        self.history = tuple(state.history) if state is not None else ()
        self.best = state.best if state is not None else None
        self.losses: StepLosses | None = None
        self.samples: Path | None = None

    def begin_with(self, initial: Checkpoint) -> None:
        """Take over the weights of a generator, and its history."""
        ours, theirs = self.preset.generator, initial.config
        if ours != theirs:
            differ = [f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)]
            said = "; ".join(f"{name} is {getattr(theirs, name)} and would be {getattr(ours, name)}" for name in differ)
            raise ConfigError(
                f"the generator to begin with is another one than data and options ask for: {said}. Use images with as "
                "many classes, and no option that changes the generator"
            )
        for generator in (self.trainer.generator, self.trainer.ema.generator):
            generator.load_state_dict(initial.state)
        self.history = initial.provenance

    def finish(self, progress: Progress) -> TrainResult:
        """Take the steps that are left."""
        log = self.world.on_first(lambda: RunLog(self.out, resume_at=self.step, tensorboard=self.tensorboard))
        began = time.monotonic()
        if self.data is not None and not self.plan.done(self.step):
            if self.saved is None:
                self._save()  # from here on a kill leaves something to resume
            with deferred_interrupt(patient=self.world.size > 1) as interrupt:
                stopped = self._steps(self.data, log, lambda: interrupt.asked, progress)
            if stopped:
                interrupt.raise_for()
        else:
            self._save_generator()  # of no steps, or of a run that was killed just before it wrote this last file
        taken, seconds = self.step - self.first, time.monotonic() - began
        d_loss, g_loss = float("nan"), float("nan")
        if self.losses is not None:
            d_loss, g_loss = self.world.mean((self.losses.discriminator, self.losses.generator))
        return TrainResult(
            checkpoint=self.out / CHECKPOINT_NAME,
            steps=self.step,
            seconds=self.clock(),
            images_per_second=taken * self.preset.train.batch_size / seconds if taken else 0.0,
            discriminator_loss=d_loss,
            generator_loss=g_loss,
            samples=self.samples,
        )

    def _steps(self, data: Dataset, log: RunLog | None, interrupted: Callable[[], bool], progress: Progress) -> bool:
        """Until the plan is done (False) or any process was asked to stop (True)."""
        config, batches = self.preset.train, self.trainer.batches(data)
        noted, noted_at, stopped = self.step, time.monotonic(), False
        while not self.plan.done(self.step) and not (stopped := self.world.any(interrupted())):
            factor = self.plan.factor(self.step)
            losses = self.losses = self.trainer.step(self.step, batches, rate_factor=factor)
            self.step += 1
            self._observe()
            done = self.plan.done(self.step)
            if self.step % config.log_every == 0 or done:
                now = time.monotonic()
                speed = (self.step - noted) * config.batch_size / max(now - noted_at, 1e-9)
                noted, noted_at = self.step, now
                self._log(log, _log_row(self.step, losses, factor, speed, self.world))
            if self.step % config.sample_every == 0 or done:
                self._save_samples(log)
            if self.judge is not None and (self.step % config.evaluate_every == 0 or done):
                self._evaluate(self.judge, log)
            if self.step % config.checkpoint_every == 0 or done:
                self._save()
            progress("train", self.step, self.plan.total)
        if self.saved != self.step:
            self._save()
        return stopped

    def _observe(self) -> None:
        self.plan.observe(self.step)
        if self.plan.minutes is not None:  # every process has a clock of its own; the first one's counts
            self.plan.total = self.world.from_first(self.plan.total)

    def _log(self, log: RunLog | None, row: LogRow) -> None:
        def write() -> None:
            assert log is not None
            log.write(row, self.trainer, self.plan.total)

        # NaN and infinity spread through both networks within a step or two, so the losses show them soon enough.
        if not abs(row.discriminator_loss + row.generator_loss) < float("inf"):
            raise self._diverged(f"losses {row.discriminator_loss:g} and {row.generator_loss:g}")
        self.world.on_first(write)
        wrong = self.watchdog.scores(row) if self.watchdog is not None else None
        if wrong is not None:
            raise self._stopped(wrong)

    def _kept(self) -> str:
        good = f"The checkpoint of step {self.saved} in {self.out} is good"
        return good if self.saved else "No checkpoint was written"

    def _diverged(self, what: str) -> CheckFailed:
        return CheckFailed(
            f"the training diverged at step {self.step} ({what}). {self._kept()}. "
            "Start again with lower --generator-lr and --discriminator-lr, or another --seed."
        )

    def _stopped(self, what: str) -> CheckFailed:
        return CheckFailed(
            f"stopped at step {self.step}: {what}. {self._kept()}. To go on all the same: --resume --no-watch."
        )

    def _save(self) -> None:
        if not is_finite(self.trainer):
            raise self._diverged("weights that are not finite")
        if self.world.size > 1 and not self.world.agree(digest(self.trainer)):
            raise CheckFailed(
                f"at step {self.step} the processes no longer have the same weights, which should be impossible: look "
                f"for a machine with failing memory or another PyTorch. {self._kept()}."
            )
        self.world.on_first(self._write_state)
        if self.step:
            self._save_generator()
        self.saved = self.step

    def _write_state(self) -> None:
        source = self.data.source if self.data is not None else ""
        state = RunState(
            self.preset,
            self.step,
            self.plan.total,
            self.plan.minutes,
            self.clock(),
            source,
            self.fingerprint,
            self.best,
            self.history,
        )
        payload = state_bytes(state, self.trainer)
        write_state(self.out, payload, replaces=self.saved, keep=self.preset.train.keep)

    def _save_generator(self) -> None:
        checkpoint = self._checkpoint()
        self.world.on_first(lambda: save_checkpoint(self.out / CHECKPOINT_NAME, checkpoint))

    def _checkpoint(self, **measured: Any) -> Checkpoint:
        """The averaged generator as it would be exported, with what it is made of."""
        data, config = self.data, self.preset.train
        made: dict[str, Any] = {"step": "train", "version": version("sagan-deploy")}
        if data is not None:
            made |= {"data": data.name, "images": len(data), "attribution": data.attribution, **data.preparation}
        made |= {"steps": self.step, "batch_size": config.batch_size, "seed": config.seed} | measured
        names, generator = data.class_names if data is not None else (), self.trainer.ema.generator
        if config.standing_batches and self.step:
            made |= {"standing_batches": config.standing_batches}
            generator = with_standing_statistics(
                generator, batches=config.standing_batches, batch_size=config.batch_size, seed=config.seed
            )
        return checkpoint_of(generator, class_names=names, provenance=(*self.history, made))

    def _evaluate(self, judge: Judge, log: RunLog | None) -> None:
        def measure() -> None:
            assert log is not None
            report = judge.measure(self.trainer.ema.generator)
            numbers = {
                "classifier_frechet": report.frechet, "classifier_frechet_real": report.frechet_real,
                "label_share": report.label_share, "spread": report.spread, "least_spread": report.least_spread,
            }  # fmt: skip
            log.event("evaluate", self.step, **numbers)
            if self.best is None or report.frechet < self.best:
                self.best = report.frechet
                save_checkpoint(self.out / BEST_NAME, self._checkpoint(**numbers))

        self.world.on_first(measure)

    def _save_samples(self, log: RunLog | None) -> None:
        def write() -> Path:
            assert log is not None
            pixels = sample_grid(images)
            log.picture(self.step, pixels)
            return write_bytes(self.out / SAMPLES_NAME / f"step_{self.step:06d}.png", encode_png(pixels))

        images, labels = sample_images(self.trainer.ema.generator, seed=self.preset.train.seed)
        self.samples = self.world.on_first(write)
        wrong = self.watchdog.diversity(images, labels) if self.watchdog is not None else None
        if wrong is not None:
            raise self._stopped(wrong)


def _log_row(step: int, losses: StepLosses, factor: float, speed: float, world: World) -> LogRow:
    told = (losses.discriminator, losses.generator, losses.real_score, losses.fake_score)
    d_loss, g_loss, real, fake = world.mean(told)
    return LogRow(step, d_loss, g_loss, real, fake, factor, speed)
