"""Numbers as lengths on a common scale, in percent, for the bars inside tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sagan_deploy.parity.evidence import Gain, RangeAudit, StageError, TensorRange
from sagan_deploy.parity.report import Gate, Leg, Picture

_DECADES = 0.15  # of room beyond the ends


@dataclass(frozen=True)
class Meter:
    """A bar and the mark of its limit, both in percent of the scale."""

    value: float
    limit: float


def stage_meters(stages: Sequence[StageError]) -> tuple[Meter, ...]:
    """Errors and budgets of all stages on one logarithmic scale; what is not finite fills it."""
    logs = [
        math.log10(number)
        for stage in stages
        for number in (stage.value, stage.limit)
        if math.isfinite(number) and number > 0
    ]
    if not logs:
        return tuple(Meter(0.0 if stage.value == 0 else 100.0, 100.0) for stage in stages)
    low, high = min(logs) - _DECADES, max(logs) + _DECADES

    def place(number: float) -> float:
        if not math.isfinite(number):
            return 100.0
        return 0.0 if number <= 0 else 100 * (math.log10(number) - low) / (high - low)

    return tuple(Meter(place(stage.value), place(stage.limit)) for stage in stages)


def ranked(gains: Sequence[Gain]) -> tuple[Gain, ...]:
    """The parts by what they cost, the most expensive first; what cannot be compared comes last."""
    return tuple(sorted(gains, key=lambda gain: -gain.share if math.isfinite(gain.share) else math.inf))


def headroom(row: TensorRange, audit: RangeAudit) -> float:
    """How much of the exponents above 1 the value has left, in percent; 0 when it overflows."""
    most = math.log2(audit.largest_number)
    return 100 * min(max(row.headroom_bits / most, 0.0), 1.0)


def markers(leg: Leg, picture: Picture) -> tuple[tuple[Gate, float, float], ...]:
    """The gates whose worst pixel lies in a picture, with its place from the left and from the top in percent."""
    height, width = picture.reference.shape[:2]
    return tuple(
        (gate, 100 * (gate.pixel[2] + 0.5) / width, 100 * (gate.pixel[1] + 0.5) / height)
        for gate in leg.gates
        if gate.pixel is not None and (gate.case, gate.image) == (picture.case, picture.image)
    )
