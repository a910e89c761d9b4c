"""What explains a leg's verdict: every image's errors, stages, ranges, attention, and what float32 parts would mend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.attention import attention_maps
from sagan_deploy.parity.candidates import Candidate
from sagan_deploy.parity.cases import Case, Pool
from sagan_deploy.parity.depth import Depth, stage_depths
from sagan_deploy.parity.evidence import AttentionMap, Gain, RangeAudit, StageError
from sagan_deploy.parity.gates import Drawn
from sagan_deploy.parity.islands import Trials, float32_weights, part_gains
from sagan_deploy.parity.localise import stage_errors
from sagan_deploy.parity.policy import Limit
from sagan_deploy.parity.ranges import audit_ranges
from sagan_deploy.parity.report import Gate, StageFault

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_AUDITED = 16  # latents of the range audit: every value of every one of them is looked at
_HALVES = ("fp16", "mixed", "bf16")


@dataclass(frozen=True)
class Scene:
    """One ONNX file and the images that it drew. `limits` gives its limits for a depth, as of one of its stages."""

    candidate: Candidate
    generator: Generator
    pool: Pool
    reference: NDArray[np.float64]
    limits: Callable[[Depth], Mapping[str, Limit]]
    drawn: Sequence[Drawn]
    gates: Sequence[Gate]

    @property
    def worst(self) -> tuple[str, int, int]:
        """Case, number and row in the pool of the image that the first failed gate names, or the largest error."""
        cases = {d.case.name: d.case for d in self.drawn}
        named = [gate for gate in self.gates if gate.image is not None and gate.case in cases]
        gate = next((gate for gate in named if not gate.passed), None)
        gate = gate or next((gate for gate in named if gate.rule == "tensor.rel_l2"), None)
        if gate is None:
            return self.drawn[0].case.name, 0, self.drawn[0].case.rows[0]
        return gate.case, gate.image or 0, cases[gate.case].rows[gate.image or 0]


def stages(scene: Scene) -> tuple[StageError, ...]:
    """The error of every stage on the worst image, against a budget of the stage's own depth."""
    candidate = scene.candidate
    if not candidate.stages:
        return ()
    depths = stage_depths(candidate.payload, candidate.stages)
    z, labels = scene.pool.batch(Case("worst", (scene.worst[2],)))
    errors = stage_errors(scene.candidate.executable, scene.generator, candidate.stages, z, labels)
    return tuple(
        StageError(path, error, scene.limits(depths[path])["tensor.rel_l2"].value) for path, error in errors.items()
    )


def fault(scene: Scene, found: Sequence[StageError]) -> StageFault | None:
    """The first stage over its budget; where only the images are wrong, the parts behind the last one compared."""
    first = next((stage for stage in found if not stage.passed), None)
    if first is not None:
        return StageFault(first.path, first.value, first.limit)
    images = next((gate for gate in scene.gates if gate.rule == "tensor.rel_l2" and not gate.passed), None)
    if images is None or not found:
        return None
    paths = ["stem", *(f"stages.{i}" for i in range(scene.generator.config.num_stages)), "tail"]
    last = max(index for index, path in enumerate(paths) if path == found[-1].path)
    return StageFault(" or ".join(paths[last + 1 :]), images.value, images.limit)


def ranges(scene: Scene) -> RangeAudit | None:
    """The room that a half file's values have left; None for other files."""
    candidate = scene.candidate
    if candidate.precision not in _HALVES:
        return None
    kind: Literal["fp16", "bf16"] = "bf16" if candidate.precision == "bf16" else "fp16"
    rows = np.linspace(0, len(scene.pool) - 1, min(_AUDITED, len(scene.pool))).round().astype(int)
    labels = None if scene.pool.labels is None else scene.pool.labels[rows]
    return audit_ranges(candidate.payload, scene.pool.z[rows], labels, kind)


def maps(scene: Scene) -> tuple[AttentionMap, ...]:
    """Attention on the worst image."""
    case, image, row = scene.worst
    z, labels = scene.pool.batch(Case("worst", (row,)))
    return attention_maps(scene.candidate.executable, scene.generator, z, labels, case=case, image=image)


def gains(scene: Scene, options: InferenceOptions | None) -> tuple[Gain, ...]:
    """What each part in float32, weights included, would make of the worst image of a failed half file."""
    if scene.candidate.precision not in ("fp16", "bf16") or scene.candidate.output != "float" or options is None:
        return ()
    row = scene.worst[2]
    z, labels = scene.pool.batch(Case("worst", (row,)))
    trials = Trials(
        scene.candidate.payload,
        float32_weights(scene.generator, options),
        Pool(z, labels),
        scene.reference[[row]],
        {},
    )
    return part_gains(trials)
