"""The legs: the inference form by itself, and each file drawn, measured, decided and explained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.parity import examine
from sagan_deploy.parity.batches import between_batches
from sagan_deploy.parity.candidates import Candidate, Draw, opened
from sagan_deploy.parity.cases import Case, Pool
from sagan_deploy.parity.classes import class_rows
from sagan_deploy.parity.depth import Depth, rounding_layers
from sagan_deploy.parity.distribution import Lane
from sagan_deploy.parity.gates import Drawn, gates_of, hard_gates
from sagan_deploy.parity.islands import exported_options
from sagan_deploy.parity.metrics import relative_l2
from sagan_deploy.parity.pictures import worst_pictures
from sagan_deploy.parity.policy import ROUNDOFF, Limit, Policy
from sagan_deploy.parity.reference import draw_float64
from sagan_deploy.parity.report import Gate, Leg
from sagan_deploy.parity.table import image_table
from sagan_deploy.progress import Progress

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_ALGEBRA_ROWS = 16
_QUANTISED_ROUNDOFF = {"int8": 2.0**-8, "fp8": 2.0**-4}


@dataclass(frozen=True)
class Trial:
    """What all legs of one call share."""

    checkpoint: Checkpoint
    generator: Generator
    pool: Pool
    cases: Sequence[Case]
    reference: NDArray[np.float64]
    policy: Policy
    yardsticks: Mapping[str, Mapping[str, float]]
    lane: Lane | None = None

    def limits(self, candidate: Candidate, depth: Depth) -> dict[str, Limit]:
        """The limits of a file, or of a stage of it with its own depth."""
        return self.policy.limits(candidate.precision, depth, self.yardsticks[candidate.arithmetic])


def forms_of(candidates: Sequence[Candidate]) -> dict[str, InferenceOptions]:
    """The different inference forms that some files hold, by name; the one for plans where no ONNX file is judged.

    What ``auto`` means depends on the precision, so files of two precisions may hold two forms.
    """
    found: dict[tuple[object, ...], InferenceOptions] = {}
    for candidate in candidates:
        if candidate.kind == "onnx":
            plain = InferenceOptions(attention=candidate.attention)
            options = exported_options(candidate.provenance) or plain
            wide = options.precision == "fp32"  # only there are layers written as differences and Winograd products
            key = (options.attention_layout, options.deconv, options.upsample_conv, options.conv, wide)
            found.setdefault(key, dataclasses.replace(options, output="float"))
    forms = tuple(found.values()) or (InferenceOptions("fp16"),)
    layouts = [form.attention_layout for form in forms]
    names = [f"inference form, {form.attention_layout} attention" for form in forms]
    for i, form in enumerate(forms):
        if layouts.count(form.attention_layout) > 1:
            names[i] += f", {form.precision}: {form.upsample_conv} and {form.conv}"
    return dict(zip(names, forms, strict=True))


def algebra_leg(name: str, options: InferenceOptions, trial: Trial, progress: Progress) -> Leg:
    """One inference form in float64."""
    start = time.perf_counter()
    form = to_inference(trial.generator, options)
    # Identities hold for every latent or for none, and all classes of a file are looked at by their numbers.
    rows = trial.pool.spread(_ALGEBRA_ROWS)
    some = Pool(*trial.pool.batch(Case("some", tuple(rows))))
    drawn = draw_float64(form, some, task=name, progress=progress)
    errors, limit = relative_l2(drawn, trial.reference[rows]), trial.policy.algebra()
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    gate = Gate(
        "tensor.rel_l2", float(errors[worst]), limit.value, limit.derivation, case="all", image=int(rows[worst])
    )
    return Leg(
        name=name,
        how="PyTorch, float64",
        status="passed" if gate.passed else "failed",
        reason="" if gate.passed else _first_failure((gate,)),
        gates=(gate,),
        seconds=time.perf_counter() - start,
    )


def unrun_leg(candidate: Candidate, reason: str = "") -> Leg:
    """The leg of a file before it has run."""
    path, sha256 = str(candidate.path), candidate.sha256
    return Leg(
        candidate.path.name, candidate.how, "not_run", reason, path=path, sha256=sha256, artifact=candidate.artifact
    )


def file_leg(candidate: Candidate, candidates: Sequence[Candidate], trial: Trial) -> tuple[Leg, Sequence[Drawn]]:
    """The leg of a file, and the images that it drew, none where it did not.

    A file of ours whose graph makes no sense has failed, and says nothing about the others.
    """
    start, leg = time.perf_counter(), unrun_leg(candidate)
    drawn: Sequence[Drawn] = ()
    try:
        depth = _depth(candidate, candidates, trial.checkpoint)
        with opened(candidate) as draw:
            drawn = _draw(draw, _cases(candidate, trial), trial.pool)
            leg = _decided(leg, candidate, depth, trial, drawn)
            if trial.lane is not None and leg.images is not None:
                leg = _with_gates(leg, trial.lane.gates(draw, candidate.precision, trial.policy))
        # Images of another shape have no stages to look for: the gate on the shape has said it all.
        if candidate.kind == "onnx" and leg.images is not None:
            leg = _explained(leg, candidate, trial, drawn)
    except CorruptError:
        raise
    except MissingError as error:
        return dataclasses.replace(leg, reason=str(error)), ()
    except InputError as error:
        leg = dataclasses.replace(leg, status="failed", reason=leg.reason or str(error))
    return dataclasses.replace(leg, seconds=time.perf_counter() - start), drawn


def _decided(leg: Leg, candidate: Candidate, depth: Depth, trial: Trial, drawn: Sequence[Drawn]) -> Leg:
    """The leg with its gates, and every image's errors where images can be compared at all."""
    gates = hard_gates(candidate, drawn, trial.checkpoint)
    # Images of another shape or type cannot be compared; those with NaN can, and their table says where it is.
    measurable = all(gate.passed for gate in gates if gate.rule in ("hard.shape", "hard.dtype"))
    if all(gate.passed for gate in gates):
        limits = trial.limits(candidate, depth)
        gates += gates_of(drawn, trial.reference, limits)
        gates += (between_batches(drawn, _batch_limit(candidate, limits)), *_class_gates(candidate, trial))
    passed = all(gate.passed for gate in gates)
    u = {**ROUNDOFF, **_QUANTISED_ROUNDOFF}[candidate.precision]
    return dataclasses.replace(
        leg,
        status="passed" if passed else "failed",
        reason="" if passed else _first_failure(gates),
        gates=gates,
        images=image_table(drawn, trial.reference, u) if measurable else None,
        pictures=worst_pictures(drawn, trial.reference) if measurable else (),
    )


def _with_gates(leg: Leg, gates: Sequence[Gate]) -> Leg:
    every = (*leg.gates, *gates)
    if all(gate.passed for gate in every):
        return dataclasses.replace(leg, gates=every)
    return dataclasses.replace(leg, gates=every, status="failed", reason=_first_failure(every))


def _explained(leg: Leg, candidate: Candidate, trial: Trial, drawn: Sequence[Drawn]) -> Leg:
    """The leg of an ONNX file with its stages, ranges and attention, and where a fault lies."""
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


def _batch_limit(candidate: Candidate, limits: Mapping[str, Limit]) -> Limit:
    """A GPU may run other kernels for other batches, which round in other places: as far apart as two files."""
    if candidate.kind == "onnx" and candidate.device is None:
        return limits["tensor.between_batches"]
    return Limit(limits["tensor.rel_l2"].value, "tensor.rel_l2: kernels of other batches may round in other places")


def _class_gates(candidate: Candidate, trial: Trial) -> tuple[Gate, ...]:
    """Every class of an ONNX file, by its numbers; a plan's are those of the file that it was built from."""
    if candidate.kind != "onnx":
        return ()
    rows = class_rows(candidate.executable, trial.generator)
    if rows is None:
        return ()
    limit = trial.policy.class_rows(candidate.precision, rows.layers, rows.terms)
    return (Gate("tensor.class_rows", rows.error, limit.value, limit.derivation, case=rows.where),)


def _cases(candidate: Candidate, trial: Trial) -> tuple[Case, ...]:
    """All cases, and for a plan also the batches that it was built for: other sizes may run other kernels."""
    normal = trial.cases[0].rows
    sizes = set(candidate.batches) - {len(case.rows) for case in trial.cases}
    extra = [Case(f"batch of {n}", tuple(normal[i % len(normal)] for i in range(n))) for n in sorted(sizes)]
    return (*trial.cases, *extra)


def _draw(draw: Draw, cases: Sequence[Case], pool: Pool) -> list[Drawn]:
    return [Drawn(case, draw(*pool.batch(case))) for case in cases]


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
