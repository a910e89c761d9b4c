"""The gates: what is measured on a candidate's images, and the worst image of each measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import image_shape
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.parity.candidates import Candidate, share_in_declared_precision
from sagan_deploy.parity.cases import Case
from sagan_deploy.parity.metrics import (
    code_differences,
    comparable,
    not_finite,
    psnr,
    relative_l2,
    ssim,
    worst_pixels,
)
from sagan_deploy.parity.policy import RULES, Limit
from sagan_deploy.parity.report import Gate

# tanh is bounded by 1, but ONNX Runtime's is a quotient of polynomials that reaches two float32 steps above
# (measured over ±30: 1.0000002384).
_LARGEST = 1.0 + 2.0**-22
_NO_LIMIT = Limit(float("inf"), "")


@dataclass(frozen=True)
class Drawn:
    """What a candidate made of one case."""

    case: Case
    images: NDArray[Any]


_Measure = Callable[[Drawn], NDArray[Any]]


def hard_gates(candidate: Candidate, drawn: Sequence[Drawn], checkpoint: Checkpoint) -> tuple[Gate, ...]:
    """What must hold before images can be compared at all: origin, types, shapes, finite values, the range."""
    stranger = candidate.checkpoint_sha256 != (checkpoint.sha256 or "")
    precision = share_in_declared_precision(candidate)
    expected_shape = image_shape(checkpoint.config, candidate.output)
    expected_type = "uint8" if candidate.output == "uint8" else "float32"
    misshapen = sum(d.images.shape != (len(d.case.rows), *expected_shape) for d in drawn)
    mistyped = sum(str(d.images.dtype) != expected_type for d in drawn)
    mistyped += candidate.images_type not in ("", expected_type)
    gates = [
        Gate("hard.checkpoint", float(stranger), 0.0, "the file says that it comes from this checkpoint, by hash"),
        Gate("hard.precision", precision, 1.0, f"all weights are stored as {candidate.precision}", at_least=True),
        Gate("hard.shape", float(misshapen), 0.0, f"every batch has the shape (n, {expected_shape})"),
        Gate("hard.dtype", float(mistyped), 0.0, f"images are {expected_type}"),
    ]
    if all(gate.passed for gate in gates[2:]):
        gates.append(_worst(drawn, "hard.finite", Limit(0, "no NaN and no infinity"), lambda d: not_finite(d.images)))
        if candidate.output == "float":
            peaks = Limit(_LARGEST, "inside [-1, 1], two float32 steps allowed")
            gates.append(_worst(drawn, "hard.range", peaks, lambda d: np.abs(d.images).max(axis=(1, 2, 3))))
    return tuple(gates)


def gates_of(drawn: Sequence[Drawn], reference: NDArray[np.float64], limits: Mapping[str, Limit]) -> tuple[Gate, ...]:
    """The measured gates, each with its worst image over all cases, or its typical one where that says more.

    8-bit images are judged as the nearest images that round to them, so that their limits are those of float images.
    """

    def of(d: Drawn) -> NDArray[np.float64]:
        return reference[list(d.case.rows)]

    def numbers(d: Drawn) -> NDArray[np.float64]:
        return comparable(d.images, of(d))

    def codes(d: Drawn) -> NDArray[np.int64]:
        return code_differences(d.images, of(d)).reshape(len(d.images), -1)

    worst: dict[str, _Measure] = {
        "tensor.rel_l2": lambda d: relative_l2(numbers(d), of(d)),
        "tensor.max_abs": lambda d: np.array([worst.value for worst in worst_pixels(numbers(d), of(d))]),
        "image.code_difference": lambda d: np.abs(codes(d)).max(axis=1),
        "image.ssim": lambda d: ssim(numbers(d), of(d)),
        "image.psnr": lambda d: psnr(numbers(d), of(d)),
    }
    typical: dict[str, _Measure] = {
        "image.code_share": lambda d: (codes(d) != 0).mean(axis=1),
        "image.code_bias": lambda d: np.abs(codes(d).mean(axis=1)),
    }
    gates = [_worst(drawn, rule, limits[rule], measure) for rule, measure in worst.items() if rule in limits]
    gates += [_typical(drawn, rule, limits[rule], measure) for rule, measure in typical.items() if rule in limits]
    return tuple(_with_pixel(gate, drawn, numbers, of) for gate in gates)


def distances(images: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    """The same measures of images without any limit, by rule."""
    everything = Drawn(Case("all", tuple(range(len(images)))), images)
    return {gate.rule: gate.value for gate in gates_of([everything], reference, dict.fromkeys(RULES, _NO_LIMIT))}


def _worst(drawn: Sequence[Drawn], rule: str, limit: Limit, measure: _Measure) -> Gate:
    at_least = rule in ("image.psnr", "image.ssim")
    ranked = _ranked(drawn, measure, at_least=at_least)
    value, case, index = ranked[0]
    return Gate(rule, value, limit.value, limit.derivation, at_least=at_least, case=case, image=index)


def _typical(drawn: Sequence[Drawn], rule: str, limit: Limit, measure: _Measure) -> Gate:
    """The median image: how a head rounds shows in all of them, while a flat area on a boundary flips as a whole."""
    ranked = _ranked(drawn, measure)
    value, case, index = ranked[len(ranked) // 2]
    return Gate(rule, value, limit.value, limit.derivation, case=case, image=index)


def _ranked(drawn: Sequence[Drawn], measure: _Measure, *, at_least: bool = False) -> list[tuple[float, str, int]]:
    """Value, case and number of every image, the worst first; NaN is worse than anything."""
    found = [
        (float(value), d.case.name, index)
        for d in drawn
        for index, value in enumerate(np.asarray(measure(d), np.float64))
    ]
    return sorted(found, key=lambda entry: -np.inf if np.isnan(entry[0]) else entry[0] if at_least else -entry[0])


def _with_pixel(
    gate: Gate,
    drawn: Sequence[Drawn],
    numbers: Callable[[Drawn], NDArray[np.float64]],
    of: Callable[[Drawn], NDArray[np.float64]],
) -> Gate:
    if gate.rule != "tensor.max_abs" or gate.image is None:
        return gate
    d = next(d for d in drawn if d.case.name == gate.case)
    worst = worst_pixels(numbers(d)[[gate.image]], of(d)[[gate.image]])[0]
    return dataclasses.replace(gate, pixel=worst.pixel)
