"""How much faster a training step is than the usual one, and what each measure brings, in one interleaved run."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sagan_deploy.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.presets import Preset
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.batches import noise
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.measures import Measures
from sagan_deploy.training.trainer import Trainer
from sagan_deploy.training.usual import UsualStep

_IMAGES, _CLASSES = 256, 10


@dataclass(frozen=True)
class SpeedRow:
    """One way to take a step: median wall and processor time in ms, and images per second.

    `against_usual` is the usual step's wall time divided by this one's, `cpu_against_usual` the same of processor time,
    which neighbours on the machine disturb less. `brings` is, for a step without one measure, its time divided by that
    with all of them: what the measure is worth. All are medians of the ratios within each round.
    """

    name: str
    wall_ms: float
    cpu_ms: float
    images_per_second: float
    against_usual: float
    cpu_against_usual: float
    brings: float


@dataclass(frozen=True)
class SpeedReport:
    """All rows, what was measured, and the machine."""

    rows: tuple[SpeedRow, ...]
    rounds: int
    setting: dict[str, str]


def speed_preset(width: int = 64, batch_size: int = 32) -> Preset:
    """SAGAN for 32x32 with one width throughout, ten classes, attention at 16x16 in both networks."""
    if width < 8:
        raise ConfigError(f"width (={width}) must be at least 8: attention has width/8 key channels")
    return Preset(
        GeneratorConfig(num_classes=_CLASSES, widths=(width,) * 4, norm="class_table", attention_after=(2,)),
        DiscriminatorConfig(
            image_size=32,
            num_classes=_CLASSES,
            widths=(width,) * 4,
            downsample=(True, True, False, False),
            attention_after=(1,),
        ),
        TrainConfig(batch_size=batch_size),
    )


def measure_speed(
    preset: Preset | None = None,
    *,
    seconds: float = 60.0,
    threads: int | None = None,
    each: bool = True,
    compiled: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> SpeedReport:
    """Time training steps: the usual one, ours, and ours without each measure, in turns.

    Args:
        preset: what to train; None: `speed_preset()`.
        seconds: about how long, at least three rounds.
        threads: of PyTorch; None leaves them as they are.
        each: also without each single measure, which takes six times as long per round.
        compiled: also all measures with both networks through torch.compile, which takes minutes at the start.
        device: where to train: ``cpu``, ``cuda``, ``cuda:1`` …
        progress: told about every round.

    Raises:
        ConfigError: the preset is none of SAGAN's own networks.
        MissingError: there is no such device.
    """
    preset = preset or speed_preset()
    if not 0 < seconds <= 3600:
        raise ConfigError(f"seconds (={seconds}) must lie in (0, 3600]")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        steps = _contenders(preset, each, compiled, device)
        walls, cpus = _timed(steps, seconds, progress)
    finally:
        torch.set_num_threads(before)
    rows = tuple(_row(name, walls, cpus, i, preset.train.batch_size) for i, name in enumerate(steps))
    return SpeedReport(rows, len(walls), _setting(preset, threads or before, device))


def _contenders(preset: Preset, each: bool, compiled: bool, device: str) -> dict[str, Callable[[int], None]]:
    data, config = _random_images(preset), preset.train
    usual_trainer = Trainer(preset, device=device)
    usual, batches = (
        UsualStep(preset, usual_trainer.generator, usual_trainer.discriminator),
        usual_trainer.batches(data),
    )
    size, z_dim, classes = config.batch_size, preset.generator.z_dim, preset.generator.num_classes

    def usual_step(number: int) -> None:
        images, labels = _there(batches.batch(number), device)
        draws = [_there(noise(config.seed, 2 * number + i, size, z_dim, classes), device) for i in range(2)]
        usual.step(number, (images.float() / 127.5 - 1.0, labels), *draws)
        _finish(device)

    steps = {"the usual step": usual_step, "all measures": _our_step(preset, data, Measures(), device)}
    if compiled:
        with_compiler = dataclasses.replace(preset, train=dataclasses.replace(config, compile=True))
        steps["all measures, compiled"] = _our_step(with_compiler, data, Measures(), device)
    if each:
        for field in dataclasses.fields(Measures):
            name = f"without {field.name.replace('_', ' ')}"
            steps[name] = _our_step(preset, data, Measures(**{field.name: False}), device)
    return steps


def _our_step(preset: Preset, data: Dataset, measures: Measures, device: str) -> Callable[[int], None]:
    trainer = Trainer(preset, device=device, measures=measures)
    batches = trainer.batches(data)

    def step(number: int) -> None:
        trainer.step(number, batches)
        _finish(device)

    return step


def _there(tensors: tuple[Tensor, Tensor | None], device: str) -> tuple[Tensor, Tensor | None]:
    one, other = tensors
    return one.to(device), None if other is None else other.to(device)


def _finish(device: str) -> None:
    """Wait for what a GPU still computes, the last weights included."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def _timed(
    steps: dict[str, Callable[[int], None]], seconds: float, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Wall and processor seconds [rounds, contenders], after one round that is not counted."""
    walls: list[list[float]] = []
    cpus: list[list[float]] = []
    began, number = time.perf_counter(), 0
    while number < 4 or time.perf_counter() < began + seconds:
        wall, cpu = [], []
        for step in steps.values():
            start, start_cpu = time.perf_counter(), time.process_time()
            step(number)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        number += 1
        walls.append(wall)
        cpus.append(cpu)
        progress("time training steps", min(time.perf_counter() - began, seconds), seconds)
    progress("time training steps", seconds, seconds)
    return np.array(walls[1:]), np.array(cpus[1:])


def _row(name: str, walls: np.ndarray, cpus: np.ndarray, i: int, batch_size: int) -> SpeedRow:
    wall = float(np.median(walls[:, i]))
    return SpeedRow(
        name=name,
        wall_ms=wall * 1e3,
        cpu_ms=float(np.median(cpus[:, i])) * 1e3,
        images_per_second=batch_size / wall,
        against_usual=float(np.median(walls[:, 0] / walls[:, i])),
        cpu_against_usual=float(np.median(cpus[:, 0] / cpus[:, i])),
        brings=float(np.median(walls[:, i] / walls[:, 1])),
    )


def _random_images(preset: Preset) -> Dataset:
    random, size = np.random.default_rng(0), preset.generator.image_size
    images = random.integers(0, 256, (_IMAGES, 3, size, size), dtype=np.uint8)
    classes = preset.generator.num_classes
    if not classes:
        return Dataset("random", images)
    return Dataset("random", images, np.arange(_IMAGES, dtype=np.int64) % classes, tuple(map(str, range(classes))))


def _setting(preset: Preset, threads: int, device: str) -> dict[str, str]:
    size = preset.generator.image_size
    return {
        "generator": f"widths {preset.generator.widths}",
        "discriminator": f"widths {preset.discriminator.widths}",
        "images": f"{size}x{size}, batch {preset.train.batch_size}",
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "torch": torch.__version__,
    }
