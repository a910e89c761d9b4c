"""`judge`: every candidate against the float64 reference, through gates that each can say no."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.environment import machine, tool_versions
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.parity.batches import between_batches
from sagan_deploy.parity.candidates import Candidate, Draw, open_candidates, opened
from sagan_deploy.parity.cases import Case, Pool, default_count, make_cases
from sagan_deploy.parity.classes import class_rows
from sagan_deploy.parity.depth import Depth, rounding_layers, stage_depths
from sagan_deploy.parity.emulation import emulated
from sagan_deploy.parity.gates import Drawn, distances, gates_of, hard_gates
from sagan_deploy.parity.localise import first_faulty_stage
from sagan_deploy.parity.metrics import relative_l2
from sagan_deploy.parity.pictures import worst_pictures
from sagan_deploy.parity.policy import Limit, Policy
from sagan_deploy.parity.quantised_yardstick import draw_quantised
from sagan_deploy.parity.reference import REFERENCE, draw_float64
from sagan_deploy.parity.report import Gate, Leg, ParityReport, StageFault
from sagan_deploy.parity.yardstick import draw_in
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_ALGEBRA_ROWS = 16


def judge(
    checkpoint: Checkpoint,
    files: Sequence[Path],
    policy: Policy | None = None,
    *,
    seed: int = 0,
    count: int | None = None,
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
    for done, candidate in enumerate(candidates):
        progress("parity", done, len(candidates))
        legs.append(_leg_or_refusal(candidate, candidates, trial))
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
    # Identities hold for every latent or for none, and all classes of a file are looked at by their numbers.
    rows = trial.pool.spread(_ALGEBRA_ROWS)
    some = Pool(*trial.pool.batch(Case("some", tuple(rows))))
    drawn = draw_float64(form, some, task=f"inference form, {layout}", progress=progress)
    errors, limit = relative_l2(drawn, trial.reference[rows]), trial.policy.algebra()
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    gate = Gate(
        "tensor.rel_l2", float(errors[worst]), limit.value, limit.derivation, case="all", image=int(rows[worst])
    )
    return Leg(
        name=f"inference form, {layout} attention",
        how="PyTorch, float64",
        status="passed" if gate.passed else "failed",
        reason="" if gate.passed else _first_failure((gate,)),
        gates=(gate,),
        seconds=time.perf_counter() - start,
    )


def _leg_or_refusal(candidate: Candidate, candidates: Sequence[Candidate], trial: _Trial) -> Leg:
    """A file of ours whose graph makes no sense has failed, and says nothing about the others."""
    try:
        return _file_leg(candidate, _depth(candidate, candidates, trial.checkpoint), trial)
    except CorruptError:
        raise
    except InputError as error:
        path, sha256 = str(candidate.path), candidate.sha256
        return Leg(candidate.path.name, candidate.how, "failed", str(error), path=path, sha256=sha256)


def _file_leg(candidate: Candidate, depth: Depth, trial: _Trial) -> Leg:
    start = time.perf_counter()
    leg = Leg(candidate.path.name, candidate.how, "not_run", path=str(candidate.path), sha256=candidate.sha256)
    try:
        with opened(candidate) as draw:
            drawn = _draw(draw, _cases(candidate, trial), trial.pool)
    except MissingError as error:
        return dataclasses.replace(leg, reason=str(error))
    if isinstance(drawn, InputError):
        return dataclasses.replace(leg, status="failed", reason=str(drawn), seconds=time.perf_counter() - start)
    limits = trial.limits(candidate, depth)
    gates = hard_gates(candidate, drawn, trial.checkpoint)
    comparable = all(gate.passed for gate in gates)
    if comparable:
        gates += gates_of(drawn, trial.reference, limits)
        gates += (between_batches(drawn, _batch_limit(candidate, limits)), *_class_gates(candidate, trial))
    passed = all(gate.passed for gate in gates)
    return dataclasses.replace(
        leg,
        status="passed" if passed else "failed",
        reason="" if passed else _first_failure(gates),
        gates=gates,
        fault=None if passed else _fault(candidate, trial, gates, drawn),
        pictures=worst_pictures(drawn, trial.reference) if comparable else (),
        seconds=time.perf_counter() - start,
    )


def _batch_limit(candidate: Candidate, limits: Mapping[str, Limit]) -> Limit:
    """A plan may run other kernels for other batches, which round in other places: as far apart as two files."""
    if candidate.kind == "onnx":
        return limits["tensor.between_batches"]
    return Limit(limits["tensor.rel_l2"].value, "tensor.rel_l2: kernels of other batches may round in other places")


def _class_gates(candidate: Candidate, trial: _Trial) -> tuple[Gate, ...]:
    """Every class of an ONNX file, by its numbers; a plan's are those of the file that it was built from."""
    if candidate.kind != "onnx":
        return ()
    rows = class_rows(_runnable(candidate), trial.generator)
    if rows is None:
        return ()
    limit = trial.policy.class_rows(candidate.precision, rows.layers, rows.terms)
    return (Gate("tensor.class_rows", rows.error, limit.value, limit.derivation, case=rows.where),)


def _runnable(candidate: Candidate) -> bytes:
    return candidate.payload if candidate.precision == "fp32" else emulated(candidate.payload)


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


def _worst_row(gates: Sequence[Gate], drawn: Sequence[Drawn]) -> int:
    """The row of the pool that the first failed gate names."""
    named = [gate for gate in gates if not gate.passed and gate.image is not None]
    if not named:
        return 0
    case = next(d.case for d in drawn if d.case.name == named[0].case)
    return case.rows[named[0].image or 0]


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


def _fault(candidate: Candidate, trial: _Trial, gates: Sequence[Gate], drawn: Sequence[Drawn]) -> StageFault | None:
    """Where an ONNX file leaves the reference, looked for on the image that failed."""
    if candidate.kind != "onnx" or not candidate.stages:
        return None
    depths = stage_depths(candidate.payload, candidate.stages)
    z, labels = trial.pool.batch(Case("worst", (_worst_row(gates, drawn),)))
    fault = first_faulty_stage(
        _runnable(candidate),
        trial.generator,
        candidate.stages,
        z,
        labels,
        budget=lambda path: trial.limits(candidate, depths[path])["tensor.rel_l2"].value,
    )
    images = next((gate for gate in gates if gate.rule == "tensor.rel_l2" and not gate.passed), None)
    if fault is not None or images is None:
        return fault
    # Every stage that can be compared is right and the images are not: it is one of those behind them.
    paths = ["stem", *(f"stages.{i}" for i in range(trial.checkpoint.config.num_stages)), "tail"]
    last = max((index for index, path in enumerate(paths) if path in candidate.stages), default=-1)
    behind = paths[last + 1 :]
    return StageFault(" or ".join(behind), images.value, images.limit)


def _first_failure(gates: Sequence[Gate]) -> str:
    gate = next(gate for gate in gates if not gate.passed)
    sign = "at least" if gate.at_least else "at most"
    return f"{gate.rule} is {gate.value:.3g}, allowed is {sign} {gate.limit:.3g} ({gate.derivation})"
