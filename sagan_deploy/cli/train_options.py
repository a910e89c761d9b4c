"""The options of `sagan-deploy train`, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagan_deploy.presets import PRESETS

DATA_HELP = (
    "robots, digits, a folder of images (a sub-folder per class), a .zip of one, an .npz file, "
    "WebDataset shards (NAME-{000..009}.tar), huggingface:NAME@SPLIT or a folder that prepare wrote."
)

Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")]
Data = Annotated[
    str | None,
    typer.Option(help=DATA_HELP),
]
Preset = Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}. Default: sagan32.")]
Steps = Annotated[
    int | None, typer.Option(min=0, help="How many steps; 0 writes an untrained generator and needs no data.")
]
Minutes = Annotated[float | None, typer.Option(help="Instead of --steps: as many as fit into this time.")]
BatchSize = Annotated[int | None, typer.Option(min=2, max=65536, help="Images per step, of all processes.")]
Accumulation = Annotated[
    int | None, typer.Option(min=1, help="Compute a batch in so many parts, where memory is short.")
]
GeneratorLr = Annotated[float | None, typer.Option(help="Learning rate of the generator.")]
DiscriminatorLr = Annotated[float | None, typer.Option(help="Learning rate of the discriminator.")]
DiscriminatorSteps = Annotated[int | None, typer.Option(min=1, help="Discriminator steps per generator step.")]
LrDecayFrom = Annotated[
    float | None, typer.Option(help="Share of the steps after which both rates fall to zero; 1: never.")
]
EmaDecay = Annotated[float | None, typer.Option(help="Of the averaged generator, once warmed up.")]
R1 = Annotated[float | None, typer.Option(help="Weight γ of the R1 penalty (Mescheder et al. 2018).")]
Augment = Annotated[
    str | None, typer.Option(help="DiffAugment (Zhao et al. 2020): color,translation,cutout or some of them.")
]
Flip = Annotated[bool | None, typer.Option(help="Mirror half of the images.")]
Balanced = Annotated[bool | None, typer.Option(help="Show every class equally often.")]
Unconditional = Annotated[bool, typer.Option("--unconditional", help="Ignore the classes.")]
GeneratorSpectralNorm = Annotated[bool | None, typer.Option(help="Spectral norm in the generator.")]
DiscriminatorSpectralNorm = Annotated[bool | None, typer.Option(help="Spectral norm in the discriminator.")]
StandingBatches = Annotated[
    int | None, typer.Option(min=0, help="Batches that give the exported generator its batch statistics.")
]
EvaluateEvery = Annotated[
    int | None, typer.Option(min=0, help="Steps between measurements, which choose best.safetensors.")
]
Keep = Annotated[int | None, typer.Option(min=1, help="States of so many checkpoints stay on disk.")]
CheckpointEvery = Annotated[int | None, typer.Option(min=1, help="Steps between two checkpoints.")]
Watch = Annotated[bool | None, typer.Option(help="Stop when the discriminator is dead or the images collapse.")]
CorruptLimit = Annotated[int, typer.Option(min=0, help="So many images that cannot be read are named and left out.")]
Init = Annotated[Path | None, typer.Option(help="Begin with this generator's weights and a fresh discriminator.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of weights, batches and noise. Default: 0.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; under torchrun cpu or cuda.")]
Precision = Annotated[
    str | None,
    typer.Option(help="fp32, or bf16 or fp16 where the hardware gains by it. Default: fp32.", show_default=False),
]
Compile = Annotated[
    bool | None,
    typer.Option(help="Compile both networks (torch.compile): starts minutes later, steps are faster. For long runs."),
]
Deterministic = Annotated[
    bool | None,
    typer.Option(help="On GPUs: sums in one order, so that a resumed run ends bit for bit as another. Default: yes."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")]
AutoResume = Annotated[
    bool, typer.Option("--auto-resume", help="Continue the run in --out if there is one, else begin it.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write OUT/tensorboard, too: curves and sample pictures.")
]
FromStep = Annotated[int | None, typer.Option(min=0, help="With --resume: go back to this kept state.")]
