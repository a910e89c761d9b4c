"""Is a bundle whole, and does it draw the right images on this machine? Answered without PyTorch.

The golden images are what the float64 generator drew where the bundle was made. Every artifact that this machine can
run draws them again; each image alone is held to two limits, the relative L2 error and the largest pixel error:

    precision     rel. L2          max. abs    why
    fp32          24 u √L          1e-4        as below, and 8 for the sums: a float32 sum of thousands of products
                                               rounds too, and every machine adds in an order of its own
    fp16, mixed   3 u √L           2/255       one 8-bit code; sums are float32, so only stored values round
    bf16          3 u √L           16/255      three bits less than fp16
    int8, fp8     3 u √L           16, 32/255  steps of 2⁻⁸ of a range, of 2⁻⁴ of a value; the manifest's limits, by
                                               which such a file was judged, are what usually counts

with u the unit roundoff (2⁻²⁴, 2⁻¹¹, 2⁻⁸, and those steps) and L the number of rounding layers on the longest path:
L independent errors of relative size u add up to u √L, and 3 is for three standard deviations. A manifest may bring
limits of its own per artifact, from the policy that judged it when it was made.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.bundle import CorruptError, open_bundle, unlisted_files
from sagan_deploy.bundle.golden import Golden
from sagan_deploy.bundle.manifest import Artifact, Limits
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime.generator import RuntimeGenerator
from sagan_deploy.runtime.loading import Candidate, candidates

_HALF = 2.0**-11
_UNIT_ROUNDOFF = {"fp32": 2.0**-24, "fp16": _HALF, "mixed": _HALF, "bf16": 2.0**-8, "int8": 2.0**-8, "fp8": 2.0**-4}
_MAX_ABS = {"fp32": 1e-4, "fp16": 2 / 255, "mixed": 2 / 255, "bf16": 16 / 255, "int8": 16 / 255, "fp8": 32 / 255}
_FP32_SUMS = 8
_CODE = 2 / 255  # one step of an 8-bit image in units of [-1, 1]


@dataclass(frozen=True)
class Replay:
    """The golden images drawn by one artifact with one backend. Numbers are those of the worst image."""

    file: str
    backend: str
    precision: str
    status: Literal["passed", "failed", "not_run"]
    reason: str = ""
    rel_l2: float | None = None
    max_abs: float | None = None
    worst_image: int | None = None
    limits: Limits | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_bundle` found. Corrupt files never get this far: they raise."""

    path: str
    files: int
    images: int
    unlisted: tuple[str, ...]
    replays: tuple[Replay, ...]

    @property
    def passed(self) -> bool:
        """Whether something ran and nothing failed."""
        return not self.failed and any(replay.status == "passed" for replay in self.replays)

    @property
    def failed(self) -> tuple[Replay, ...]:
        """The replays that drew other images."""
        return tuple(replay for replay in self.replays if replay.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def verify_bundle(path: Path | str, *, device: str | None = None, progress: Progress = silent) -> VerifyResult:
    """Check every hash, then let every artifact that this machine can run draw the golden images.

    Args:
        path: the bundle.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None tries all.
        progress: told about files and replays.

    Raises:
        InputError: the manifest or a file is missing, damaged or contradicts the rest.
    """
    bundle = open_bundle(path)
    files = bundle.verify_hashes(progress)
    golden = bundle.golden()
    ways = candidates(path, device=device)
    replays = []
    for done, way in enumerate(ways):
        progress("replay", done, len(ways))
        replays.append(replay_golden(way, golden, bundle.manifest.generator))
    progress("replay", len(ways), len(ways))
    return VerifyResult(
        str(path), files, 0 if golden is None else len(golden.z), unlisted_files(bundle), tuple(replays)
    )


def default_limits(config: GeneratorConfig, precision: str) -> Limits:
    """The limits in the module's table, for a network of this shape."""
    sums = _FP32_SUMS if precision == "fp32" else 1
    return Limits(3 * sums * _UNIT_ROUNDOFF[precision] * math.sqrt(rounding_layers(config)), _MAX_ABS[precision])


def rounding_layers(config: GeneratorConfig) -> int:
    """How many results are rounded one after the other on the longest path through the generator.

    The stem's product and its conditioning; two norms, two convolutions, a nonlinearity and a sum in each stage;
    projections, logits, softmax, mix, output and sum in an attention block; norm, nonlinearity and convolution of
    the tail and the tanh.
    """
    return 2 + 6 * config.num_stages + 6 * len(config.attention_after) + 4


def replay_golden(way: Candidate, golden: Golden | None, config: GeneratorConfig) -> Replay:
    """Let one way to run a bundle draw the golden images; what cannot run here says so.

    Raises:
        InputError: the file is damaged, or no manifest describes it.
    """
    artifact = way.artifact
    if artifact is None:
        raise InputError(f"{way.file} does not come from a manifest.")
    replay = Replay(way.file, way.backend, artifact.precision, "not_run")
    if golden is None:
        return dataclasses.replace(replay, reason="the bundle has no golden images")
    try:
        with way.load() as generator:
            return _compare(replay, generator, golden, artifact, config)
    except CorruptError:
        raise
    except (MissingError, InputError) as error:
        return dataclasses.replace(replay, reason=str(error))


def _compare(
    replay: Replay, generator: RuntimeGenerator, golden: Golden, artifact: Artifact, config: GeneratorConfig
) -> Replay:
    begin = time.perf_counter()
    images = generator(golden.z, golden.labels)
    seconds = time.perf_counter() - begin
    limits = artifact.limits or default_limits(config, artifact.precision)
    rel_l2, max_abs = image_errors(images, golden.images)
    if artifact.output == "uint8":
        # Rounding to 8 bits is itself half a code away; every pixel is bounded, so the L2 error says nothing more.
        limits = Limits(rel_l2=limits.rel_l2, max_abs=limits.max_abs + _CODE / 2)
        margins = max_abs / limits.max_abs
    else:
        margins = np.maximum(rel_l2 / limits.rel_l2, max_abs / limits.max_abs)
    # NaN is no number below a limit: it must lose here, and `not (x <= 1)` lets it.
    bad = np.flatnonzero(~(margins <= 1))
    worst = int(bad[0]) if not np.isfinite(margins).all() else int(np.argmax(margins))
    return dataclasses.replace(
        replay,
        status="failed" if len(bad) else "passed",
        reason=f"{len(bad)} of {len(margins)} images are over the limit, the first is {bad[0]}" if len(bad) else "",
        rel_l2=None if artifact.output == "uint8" else float(rel_l2[worst]),
        max_abs=float(max_abs[worst]),
        worst_image=worst,
        limits=limits,
        seconds=seconds,
    )


def image_errors(images: NDArray[Any], reference: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative L2 and largest absolute error of every image.

    Args:
        images: [n, 3, h, w] float, or [n, h, w, 3] uint8, which is brought back to [−1, 1] first.
        reference: [n, 3, h, w] float.

    Returns:
        Two arrays of shape (n,); NaN or infinite where an image is.
    """
    if images.dtype == np.uint8:
        images = (images.transpose(0, 3, 1, 2).astype(np.float64) - 127.5) / 127.5
    reference = reference.astype(np.float64)
    difference = (images.astype(np.float64) - reference).reshape(len(reference), -1)
    scale = np.maximum(np.linalg.norm(reference.reshape(len(reference), -1), axis=1), np.finfo(np.float32).tiny)
    return np.linalg.norm(difference, axis=1) / scale, np.abs(difference).max(axis=1)
