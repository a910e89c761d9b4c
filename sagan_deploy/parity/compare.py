"""`judge`: every candidate against the float64 reference, through gates that each can say no."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.environment import machine, tool_versions
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.parity import examine
from sagan_deploy.parity.batches import batch_limit, between_batches
from sagan_deploy.parity.candidates import Candidate, Draw, open_candidates, opened
from sagan_deploy.parity.cases import Case, Pool, default_count, make_cases
from sagan_deploy.parity.classes import class_gates
from sagan_deploy.parity.depth import Depth, rounding_layers
from sagan_deploy.parity.gates import Drawn, distances, gates_of, hard_gates
from sagan_deploy.parity.islands import exported_options
from sagan_deploy.parity.metrics import relative_l2
from sagan_deploy.parity.pictures import worst_pictures
from sagan_deploy.parity.policy import ROUNDOFF, Limit, Policy
from sagan_deploy.parity.quantised_yardstick import draw_quantised
from sagan_deploy.parity.reference import REFERENCE, draw_float64
from sagan_deploy.parity.report import Gate, Leg, ParityReport
from sagan_deploy.parity.table import image_table
from sagan_deploy.parity.yardstick import draw_in
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

# An identity that is wrong is wrong for any latents; that every class has its own row is seen in the files.
_ALGEBRA_ROWS = 16
_QUANTISED_ROUNDOFF = {"int8": 2.0**-8, "fp8": 2.0**-4}


def judge(
    checkpoint: Checkpoint,
    files: Sequence[Path],
    policy: Policy | None = None,
    *,
    seed: int = 0,
    count: int | None = None,
    fail_fast: bool = False,
    keep_images: bool = False,
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
        keep_images: leave all images in the report's `arrays`: latents ``z``, ``labels``, the ``reference`` of every
            row, and for leg i ``images.i`` in the order of its image table.
        progress: told about every leg.

    Raises:
        InputError: a file is corrupt or of another kind.
        MissingError: PyTorch is not installed.
    """
    start = time.perf_counter()
    candidates = [candidate for path in files for candidate in open_candidates(path)]
    config = checkpoint.config
    pool, cases = make_cases(config, seed=seed, count=default_count(config) if count is None else count)
    if any(candidate.z_type == "float16" for candidate in candidates):
        pool = pool.rounded_to_half()
    generator = checkpoint.generator()
    reference = draw_float64(generator, pool, progress=progress)
    yardsticks = {
        key: {} if one.precision == "mixed" else distances(_draw_like(one, generator, pool, progress), reference)
        for key, one in {candidate.arithmetic: candidate for candidate in candidates}.items()
    }
    trial = _Trial(checkpoint, generator, pool, cases, reference, policy or Policy(), yardsticks)
    layouts = sorted({c.attention for c in candidates if c.kind == "onnx"}) or ["fused"]
    legs = [_algebra_leg(layout, trial, progress) for layout in layouts]
    arrays: dict[str, NDArray[Any]] = {}
    if keep_images:
        arrays |= {"z": pool.z, "reference": reference}
        if pool.labels is not None:
            arrays["labels"] = pool.labels
    for done, candidate in enumerate(candidates):
        progress("parity", done, len(candidates))
        if fail_fast and any(leg.status == "failed" for leg in legs):
            legs.append(_unrun(candidate, "a leg before it failed, and --fail-fast stops there"))
            continue
        leg, drawn = _leg_or_refusal(candidate, candidates, trial)
        if keep_images and leg.images is not None:
            arrays[f"images.{len(legs)}"] = np.concatenate([d.images for d in drawn])
        legs.append(leg)
    progress("parity", len(candidates), len(candidates))
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
        arrays=arrays,
    )


@dataclass(frozen=True)
class _Trial:
    """What all legs of one call share."""

    checkpoint: Checkpoint
    generator: Generator
    pool: Pool
    cases: Sequence[Case]
    reference: NDArray[np.float64]
    policy: Policy
    yardsticks: Mapping[str, Mapping[str, float]]

    def limits(self, candidate: Candidate, depth: Depth) -> dict[str, Limit]:
        """The limits of a file, or of a stage of it with its own depth."""
        return self.policy.limits(candidate.precision, depth, self.yardsticks[candidate.arithmetic])


def _draw_like(candidate: Candidate, generator: Generator, pool: Pool, progress: Progress) -> NDArray[np.float64]:
    """What PyTorch's training form makes of the pool in the arithmetic of a file."""
    if candidate.quantisation:
        return draw_quantised(generator, pool, candidate.quantisation)
    return draw_in(candidate.precision, generator, pool, progress=progress)


def _algebra_leg(layout: str, trial: _Trial, progress: Progress) -> Leg:
    start = time.perf_counter()
    form = to_inference(trial.generator, InferenceOptions(attention=layout))  # type: ignore[arg-type]
    size = len(trial.pool)
    rows = np.unique(np.linspace(0, size - 1, min(_ALGEBRA_ROWS, size)).round().astype(int))
    few = Pool(trial.pool.z[rows], None if trial.pool.labels is None else trial.pool.labels[rows])
    drawn = draw_float64(form, few, task=f"inference form, {layout}", progress=progress)
    errors, limit = relative_l2(drawn, trial.reference[rows]), trial.policy.algebra()
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    gate = Gate(
        "tensor.rel_l2", float(errors[worst]), limit.value, limit.derivation, case=f"{len(rows)} latents", image=worst
    )
    return Leg(
        name=f"inference form, {layout} attention",
        how="PyTorch, float64",
        status="passed" if gate.passed else "failed",
        reason="" if gate.passed else _first_failure((gate,)),
        gates=(gate,),
        seconds=time.perf_counter() - start,
    )


def _unrun(candidate: Candidate, reason: str = "") -> Leg:
    return Leg(
        candidate.path.name,
        candidate.how,
        "not_run",
        reason,
        path=str(candidate.path),
        sha256=candidate.sha256,
        artifact=candidate.artifact,
    )


def _leg_or_refusal(
    candidate: Candidate, candidates: Sequence[Candidate], trial: _Trial
) -> tuple[Leg, Sequence[Drawn]]:
    """A file of ours whose graph makes no sense has failed, and says nothing about the others."""
    try:
        return _file_leg(candidate, _depth(candidate, candidates, trial.checkpoint), trial)
    except CorruptError:
        raise
    except InputError as error:
        return dataclasses.replace(_unrun(candidate, str(error)), status="failed"), ()


def _file_leg(candidate: Candidate, depth: Depth, trial: _Trial) -> tuple[Leg, Sequence[Drawn]]:
    start = time.perf_counter()
    leg = _unrun(candidate)
    try:
        with opened(candidate) as draw:
            drawn = _draw(draw, _cases(candidate, trial), trial.pool)
    except MissingError as error:
        return dataclasses.replace(leg, reason=str(error)), ()
    if isinstance(drawn, InputError):
        return dataclasses.replace(leg, status="failed", reason=str(drawn), seconds=time.perf_counter() - start), ()
    gates = hard_gates(candidate, drawn, trial.checkpoint)
    # Images of another shape or type cannot be compared; those with NaN can, and their table says where it is.
    measurable = all(gate.passed for gate in gates if gate.rule in ("hard.shape", "hard.dtype"))
    if all(gate.passed for gate in gates):
        limits = trial.limits(candidate, depth)
        gates += gates_of(drawn, trial.reference, limits)
        gates += (between_batches(drawn, batch_limit(candidate, limits)),)
        gates += class_gates(candidate, trial.generator, trial.policy)
    passed = all(gate.passed for gate in gates)
    u = {**ROUNDOFF, **_QUANTISED_ROUNDOFF}[candidate.precision]
    leg = dataclasses.replace(
        leg,
        status="passed" if passed else "failed",
        reason="" if passed else _first_failure(gates),
        gates=gates,
        images=image_table(drawn, trial.reference, u) if measurable else None,
        pictures=worst_pictures(drawn, trial.reference) if measurable else (),
    )
    if candidate.kind == "onnx":
        leg = _examined(leg, candidate, trial, drawn)
    return dataclasses.replace(leg, seconds=time.perf_counter() - start), drawn


def _examined(leg: Leg, candidate: Candidate, trial: _Trial, drawn: Sequence[Drawn]) -> Leg:
    """The leg with what explains it."""
    scene = examine.Scene(
        candidate,
        trial.generator,
        trial.pool,
        trial.reference,
        lambda depth: trial.limits(candidate, depth),
        drawn,
        leg.gates,
    )
    stages = examine.stages(scene)
    failed = leg.status == "failed"
    return dataclasses.replace(
        leg,
        stages=stages,
        fault=examine.fault(scene, stages) if failed else None,
        gains=examine.gains(scene, exported_options(candidate.provenance)) if failed else (),
        ranges=examine.ranges(scene),
        maps=examine.maps(scene),
    )


def _cases(candidate: Candidate, trial: _Trial) -> tuple[Case, ...]:
    """All cases, and for a plan also the batches that it was built for: other sizes may run other kernels."""
    normal = trial.cases[0].rows
    sizes = set(candidate.batches) - {len(case.rows) for case in trial.cases}
    extra = [Case(f"batch of {n}", tuple(normal[i % len(normal)] for i in range(n))) for n in sorted(sizes)]
    return (*trial.cases, *extra)


def _draw(draw: Draw, cases: Sequence[Case], pool: Pool) -> list[Drawn] | InputError:
    """All cases, or what the engine refused one with: a file that opens and then does not run has failed."""
    try:
        return [Drawn(case, draw(*pool.batch(case))) for case in cases]
    except InputError as error:
        return error


def _depth(candidate: Candidate, candidates: Sequence[Candidate], checkpoint: Checkpoint) -> Depth:
    """Rounding layers of an ONNX file, or of the one that a plan was built from, or else as the config has them."""
    if candidate.kind == "onnx":
        return rounding_layers(candidate.payload)
    source = next((c for c in candidates if c.sha256 == candidate.onnx_sha256), None)
    if source is not None:
        return rounding_layers(source.payload)
    config = checkpoint.config
    per_stage = 4 if config.block == "bottleneck" else 2 if config.block == "residual" else 1
    layers = 2 + per_stage * config.num_stages + 4 * len(config.attention_after)
    return Depth(layers, 9 * max(config.widths))


def _first_failure(gates: Sequence[Gate]) -> str:
    gate = next(gate for gate in gates if not gate.passed)
    sign = "at least" if gate.at_least else "at most"
    return f"{gate.rule} is {gate.value:.3g}, allowed is {sign} {gate.limit:.3g} ({gate.derivation})"
