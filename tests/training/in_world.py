"""What every process of `test_distributed` runs, under torchrun: ``python -m tests.training.in_world TASK FOLDER``."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from sagan_deploy.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from sagan_deploy.presets import Preset
from sagan_deploy.training.data import Dataset
from sagan_deploy.training.run import train
from sagan_deploy.training.state import _tensors, digest
from sagan_deploy.training.trainer import Trainer
from sagan_deploy.training.world import World, joined_world

STEPS = 20
PRESET = Preset(
    GeneratorConfig(
        z_dim=6, num_classes=3, bottom_width=4, widths=(8, 8), norm="class_table", embedding_dim=4,
        stem_input="condition", attention_after=(1,),
    ),
    DiscriminatorConfig(image_size=8, num_classes=3, widths=(8, 8), downsample=(True, False), attention_after=(1,)),
    TrainConfig(
        steps=STEPS, batch_size=8, generator_lr=1e-3, discriminator_lr=2e-3, ema_decay=0.9, lr_decay_from=0.5,
        flip=True, log_every=5, sample_every=20, checkpoint_every=6,
    ),
)  # fmt: skip


def squares() -> Dataset:
    random = np.random.default_rng(5)
    labels = np.arange(22, dtype=np.int64) % 3
    images = random.integers(0, 80, (22, 3, 8, 8), dtype=np.uint8)
    images[np.arange(22), labels] += 150
    return Dataset("squares", images, labels, ("red", "green", "blue"), source="squares.npz")


TECHNIQUES = dataclasses.replace(
    PRESET, train=dataclasses.replace(PRESET.train, r1=1.0, augment=("color", "cutout"), balanced=True)
)


COMPILED = dataclasses.replace(PRESET, train=dataclasses.replace(PRESET.train, compile=True))


def steps_in(dtype: torch.dtype, world: World, preset: Preset = PRESET) -> Trainer:
    """STEPS steps of a trainer whose networks compute in `dtype`, with attention switched on."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    trainer = Trainer(preset, world=world)
    torch.set_default_dtype(before)
    start = Trainer(preset)  # the same weights in both types
    trainer.generator.load_state_dict(start.generator.state_dict())
    trainer.discriminator.load_state_dict(start.discriminator.state_dict())
    for network in (trainer.generator, trainer.discriminator):
        network.register_forward_pre_hook(lambda module, args: (args[0].to(dtype), args[1]))
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                torch.nn.init.constant_(parameter, 0.7)
    trainer.ema = type(trainer.ema)(trainer.generator, preset.train.ema_decay)
    batches = trainer.batches(squares())
    for step in range(STEPS):
        trainer.step(step, batches)
    return trainer


def tensors_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in _tensors(trainer).items()}


def equal_runs(out: Path, world: World) -> None:
    for dtype in (torch.float32, torch.float64):
        trainer = steps_in(dtype, world)
        (out / f"{dtype}_{world.rank}.digest").write_text(digest(trainer))
        if world.first:
            save_file(tensors_of(trainer), out / f"{dtype}.safetensors")
    trainer = steps_in(torch.float64, world, TECHNIQUES)
    if world.first:
        save_file(tensors_of(trainer), out / "techniques.safetensors")
    result = train(PRESET, squares(), out / "whole", world=world)
    (out / f"result_{world.rank}.json").write_text(json.dumps([result.discriminator_loss, result.steps]))


def compiled_run(out: Path, world: World) -> None:
    trainer = steps_in(torch.float64, world, COMPILED)
    if world.first:
        save_file(tensors_of(trainer), out / "compiled.safetensors")


def dies_once(out: Path, world: World) -> None:
    """The second process is killed in the middle of a step in its first life; torchrun starts both again."""
    lives = int(os.environ["TORCHELASTIC_RESTART_COUNT"])

    def progress(task: str, completed: float, total: float | None) -> None:
        if lives == 0 and world.rank == 1 and completed == 14:
            os.kill(os.getpid(), signal.SIGKILL)

    resume = (out / "killed/training.safetensors").exists()
    assert resume == (lives > 0)
    train(PRESET, squares(), out / "killed", world=world, resume=resume, progress=progress)
    (out / f"lives_{world.rank}").write_text(str(lives))


def refusals(out: Path, world: World) -> None:
    """Errors of the first process alone, and of all, end every process instead of leaving some to wait."""
    said = []
    odd = dataclasses.replace(PRESET, train=dataclasses.replace(PRESET.train, batch_size=9))
    (out / "taken").mkdir(exist_ok=True)
    (out / "taken/thesis.doc").touch()
    for preset, place, resume in ((odd, "odd", False), (PRESET, "taken", False), (PRESET, "nothing", True)):
        try:
            train(preset, squares(), out / place, world=world, resume=resume)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    (out / f"said_{world.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined_world() as joined:
        {"equal": equal_runs, "compiled": compiled_run, "dies": dies_once, "refusals": refusals}[sys.argv[1]](
            Path(sys.argv[2]), joined
        )
