"""`judge`: every candidate against the float64 reference, through gates that each can say no."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.environment import machine, tool_versions
from sagan_deploy.parity.candidates import Candidate, open_candidates
from sagan_deploy.parity.cases import Case, Pool, default_count, make_cases
from sagan_deploy.parity.distribution import open_lane
from sagan_deploy.parity.gates import distances
from sagan_deploy.parity.legs import Trial, algebra_leg, file_leg, forms_of, unrun_leg
from sagan_deploy.parity.policy import Policy
from sagan_deploy.parity.quantised_yardstick import draw_quantised
from sagan_deploy.parity.reference import REFERENCE, draw_float64
from sagan_deploy.parity.report import Leg, ParityReport
from sagan_deploy.parity.yardstick import draw_in
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime.loading import gpu_of

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator


def judge(
    checkpoint: Checkpoint,
    files: Sequence[Path],
    policy: Policy | None = None,
    *,
    seed: int = 0,
    count: int | None = None,
    fail_fast: bool = False,
    keep_images: bool = False,
    distribution: int = 0,
    features: Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Hold exported files against the checkpoint that they came from.

    Legs: the inference form in float64 (algebra only), every ONNX fp32 file in ONNX Runtime (export only), every half
    file with true rounding (precision only), every plan on the GPU (everything).

    Args:
        checkpoint: the generator; its training form in float64 is the reference.
        files: ``.onnx``, ``.plan`` or bundles.
        policy: the limits; None derives all of them.
        seed: of the latents.
        count: how many normal latents; None chooses by image size.
        fail_fast: stop at the first leg that fails; the others are reported as not run.
        keep_images: leave latents, reference and all images in the report's `arrays`.
        distribution: over how many latents distributions are compared as well; 0 leaves it out.
        features: an ONNX feature extractor for that, as in `distribution.open_lane`.
        device: ``cuda`` or ``cuda:1`` has ONNX files run there as they are, not on the CPU with emulated rounding.
        progress: told about every leg.

    Raises:
        InputError: a file is corrupt or of another kind.
        ConfigError: there is no such kind of device.
        MissingError: PyTorch is not installed.
    """
    start, config = time.perf_counter(), checkpoint.config
    candidates = _candidates(files, device)
    pool, cases = _cases(config, candidates, seed, count)
    generator = checkpoint.generator()
    reference = draw_float64(generator, pool, progress=progress)
    yardsticks = _yardsticks(candidates, generator, pool, reference, progress)
    lane = open_lane(generator, distribution, seed=seed, features=features, progress=progress) if distribution else None
    trial = Trial(checkpoint, generator, pool, cases, reference, policy or Policy(), yardsticks, lane)
    legs = [algebra_leg(name, form, trial, progress) for name, form in sorted(forms_of(candidates).items())]
    images = _judge_files(candidates, trial, legs, progress, fail_fast=fail_fast)
    return ParityReport(
        reference=REFERENCE,
        checkpoint_sha256=checkpoint.sha256,
        legs=tuple(legs),
        cases={case.name: len(case.rows) for case in cases},
        loosened=trial.policy.loosened(),
        environment=tool_versions() | machine(),
        seed=seed,
        seconds=time.perf_counter() - start,
        provenance=checkpoint.provenance,
        yardstick={key.partition(" ")[0]: dict(values) for key, values in yardsticks.items() if values},
        arrays=images | _inputs(pool, reference) if keep_images else {},
    )


def _candidates(files: Sequence[Path], device: str | None) -> list[Candidate]:
    gpu = gpu_of(device)
    on = None if gpu is None else f"cuda:{gpu}"
    return [dataclasses.replace(candidate, device=on) for path in files for candidate in open_candidates(path)]


def _cases(
    config: GeneratorConfig, candidates: Sequence[Candidate], seed: int, count: int | None
) -> tuple[Pool, tuple[Case, ...]]:
    pool, cases = make_cases(config, seed=seed, count=default_count(config) if count is None else count)
    # A file that takes float16 latents is asked for nothing that it cannot be told.
    half = any(candidate.z_type == "float16" for candidate in candidates)
    return (pool.rounded_to_half() if half else pool), cases


def _yardsticks(
    candidates: Sequence[Candidate],
    generator: Generator,
    pool: Pool,
    reference: NDArray[np.float64],
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """By arithmetic, what PyTorch's training form loses in it; mixed precision exists to lose less."""
    return {
        key: {} if one.precision == "mixed" else distances(_draw_like(one, generator, pool, progress), reference)
        for key, one in {candidate.arithmetic: candidate for candidate in candidates}.items()
    }


def _judge_files(
    candidates: Sequence[Candidate], trial: Trial, legs: list[Leg], progress: Progress, *, fail_fast: bool
) -> dict[str, NDArray[Any]]:
    """Append a leg per file; returns the images that were drawn, by the number of the leg."""
    images = {}
    for done, candidate in enumerate(candidates):
        progress("parity", done, len(candidates))
        if fail_fast and any(leg.status == "failed" for leg in legs):
            legs.append(unrun_leg(candidate, "a leg before it failed, and --fail-fast stops there"))
            continue
        leg, drawn = file_leg(candidate, candidates, trial)
        if leg.images is not None:
            images[f"images.{len(legs)}"] = np.concatenate([d.images for d in drawn])
        legs.append(leg)
    progress("parity", len(candidates), len(candidates))
    return images


def _inputs(pool: Pool, reference: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    labels = {} if pool.labels is None else {"labels": pool.labels}
    return {"z": pool.z, "reference": reference, **labels}


def _draw_like(candidate: Candidate, generator: Generator, pool: Pool, progress: Progress) -> NDArray[np.float64]:
    """What PyTorch's training form makes of the pool in the arithmetic of a file."""
    if candidate.quantisation:
        return draw_quantised(generator, pool, candidate.quantisation)
    return draw_in(candidate.precision, generator, pool, progress=progress)
