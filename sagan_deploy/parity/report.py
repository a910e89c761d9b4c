"""What parity found, as frozen values: a report of legs, each with the gates that it went through."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import Artifact
from sagan_deploy.parity.evidence import AttentionMap, Gain, ImageTable, RangeAudit, StageError

#: Of ``report.json``; it grows when a reader of the old one would misread the new one.
SCHEMA_VERSION = 1
#: Beside each leg's fields, what has no place in JSON: pictures, and what the manifest says already.
_NOT_IN_JSON = ("gates", "pictures", "maps", "artifact")

Status = Literal["passed", "failed", "not_run"]


@dataclass(frozen=True)
class Gate:
    """One measured number against one limit.

    `rule` is a stable id such as ``tensor.rel_l2``; `at_least` turns the comparison round (PSNR, SSIM). `case` and
    `image` name the worst image, `pixel` its worst (channel, row, column) where that means something.
    """

    rule: str
    value: float
    limit: float
    derivation: str
    at_least: bool = False
    case: str = ""
    image: int | None = None
    pixel: tuple[int, int, int] | None = None

    @property
    def passed(self) -> bool:
        """Whether the value keeps the limit; NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def margin(self) -> float:
        """How far inside the limit the value lies, as a share of the limit; negative when it fails.

        A similarity whose best is 1 (SSIM) is seen as its distance from there: 0.999 keeps 0.99 by 90 %, not by 1 %.
        """
        if not np.isfinite(self.value):
            return float("inf") if self.passed else -float("inf")  # two equal images have an infinite PSNR
        if self.limit == 0:
            return 0.0 if self.passed else -float("inf")
        if self.at_least and 0 < self.limit < 1:
            return 1 - (1 - self.value) / (1 - self.limit)
        share = self.value / self.limit
        return share - 1 if self.at_least else 1 - share


@dataclass(frozen=True)
class StageFault:
    """The first stage, by module path, whose own error exceeds its budget."""

    path: str
    value: float
    limit: float


@dataclass(frozen=True)
class Picture:
    """One image of both sides for people to look at, uint8 (h, w, 3)."""

    case: str
    image: int
    reference: NDArray[np.uint8] = field(repr=False)
    candidate: NDArray[np.uint8] = field(repr=False)
    difference: NDArray[np.uint8] = field(repr=False)  # amplified, see `amplification`
    amplification: float = 1.0


@dataclass(frozen=True)
class Leg:
    """One candidate held against the reference. `path` is None for the inference form, which is no file.

    `images` has every image's errors, `stages` those of the stages on the worst image of a failed file, `gains` what
    each part in float32 would mend there, `ranges` the magnitudes that a half-precision file must hold, `maps` its
    attention beside the reference's. `artifact` is the manifest's entry of a plan, which names its kernels.
    """

    name: str
    how: str  # what ran it, in words
    status: Status
    reason: str = ""
    path: str | None = None
    sha256: str | None = None
    gates: tuple[Gate, ...] = ()
    fault: StageFault | None = None
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    seconds: float = 0.0
    images: ImageTable | None = field(default=None, repr=False)
    stages: tuple[StageError, ...] = ()
    gains: tuple[Gain, ...] = ()
    ranges: RangeAudit | None = field(default=None, repr=False)
    maps: tuple[AttentionMap, ...] = field(default=(), repr=False)
    artifact: Artifact | None = field(default=None, repr=False)

    @property
    def failed_gates(self) -> tuple[Gate, ...]:
        """The gates that did not hold."""
        return tuple(gate for gate in self.gates if not gate.passed)


@dataclass(frozen=True)
class ParityReport:
    """All legs. `environment` names versions and the machine, `cases` each case with its number of images, and
    `loosened` the limits that a policy file changed, each with its reason. `provenance` is the checkpoint's,
    `yardstick` what PyTorch's training form loses in each precision, by rule, from which limits are derived,
    `command` makes this report again, and `arrays` holds the very images, for those who recompute its numbers: latents
    ``z``, ``labels``, the ``reference`` of every row, and for leg i ``images.i`` in the order of its image table.
    """

    reference: str
    checkpoint_sha256: str | None
    legs: tuple[Leg, ...]
    cases: dict[str, int]
    loosened: dict[str, str]
    environment: dict[str, str]
    seed: int
    seconds: float
    provenance: tuple[dict[str, Any], ...] = ()
    yardstick: dict[str, dict[str, float]] = field(default_factory=dict)
    command: str = ""
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    @property
    def passed(self) -> bool:
        """No leg failed, and at least one ran."""
        return all(leg.status != "failed" for leg in self.legs) and any(leg.status == "passed" for leg in self.legs)

    @property
    def not_run(self) -> tuple[Leg, ...]:
        """The legs that could not run here."""
        return tuple(leg for leg in self.legs if leg.status == "not_run")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the pictures and the arrays."""
        legs = []
        for leg in self.legs:
            values = {
                f.name: _plain(getattr(leg, f.name)) for f in dataclasses.fields(leg) if f.name not in _NOT_IN_JSON
            }
            values["gates"] = [dataclasses.asdict(g) | {"passed": g.passed, "margin": g.margin} for g in leg.gates]
            legs.append(values)
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("legs", "arrays")}
        return {"schema": SCHEMA_VERSION, "passed": self.passed, **rest, "legs": legs}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def file_name(leg: Leg) -> str:
    """The file of a leg without its folders, or the leg's name."""
    return Path(leg.path).name if leg.path is not None else leg.name
