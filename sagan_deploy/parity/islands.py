"""Which parts of a generator need float32: what each one costs, and the smallest set that meets the budget.

Every trial is the float16 file, emulated, with the roundings of some parts undone and their weights put back: no export
is needed for it. What the search finds is then exported for real and measured once more.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.kernels import part_of
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.errors import CheckFailed, ConfigError
from sagan_deploy.export import ExportedGenerator, export_generator
from sagan_deploy.model.inference import InferenceOptions, to_inference
from sagan_deploy.optional import require
from sagan_deploy.parity.cases import Pool, default_count, make_cases
from sagan_deploy.parity.depth import rounding_layers
from sagan_deploy.parity.emulation import emulated, session_options
from sagan_deploy.parity.evidence import Gain
from sagan_deploy.parity.metrics import relative_l2, worst_pixels
from sagan_deploy.parity.policy import Limit, Policy
from sagan_deploy.parity.ranges import audit_ranges
from sagan_deploy.parity.reference import draw_float64
from sagan_deploy.parity.widened import parts_of, widened
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_BATCH = 8
_RULES = ("tensor.rel_l2", "tensor.max_abs")


@dataclass(frozen=True)
class Recipe:
    """The float32 parts that were found, none where float16 keeps the budget by itself.

    Losses are those of the worst image by rule, `limits` what they must keep. `gains` ranks the parts by what each
    mends alone.
    """

    parts: tuple[str, ...]
    fp16: dict[str, float]
    found: dict[str, float]
    limits: dict[str, float]
    gains: tuple[Gain, ...]
    latents: int
    seed: int


def export_mixed(
    checkpoint: Checkpoint,
    options: InferenceOptions | None = None,
    *,
    opset: int | None = None,
    policy: Policy | None = None,
    seed: int = 0,
    count: int | None = None,
    progress: Progress = silent,
) -> tuple[ExportedGenerator, Recipe]:
    """Export in float16 with the fewest parts in float32 that keep float16's derived budget, u·√L and one 8-bit code.

    The set is minimal: without any one of its parts the budget is not met. Parts are a stage's block or attention, the
    stem and the tail. The recipe is written into the file's provenance.

    Args:
        checkpoint: the generator.
        options: form of the operations; its precision and float32 parts are not looked at.
        opset: as in `export_generator`.
        policy: the limits; None derives them.
        seed: of the latents.
        count: how many normal latents the search draws; None chooses by image size.
        progress: told about every trial.

    Returns:
        The file, which is plain fp16 when nothing needs float32, and the recipe.

    Raises:
        CheckFailed: the budget is not met, or only with all parts in float32.
    """
    options = dataclasses.replace(options or InferenceOptions(), precision="fp16", float32=())
    half, trials = _trials(checkpoint, options, opset, policy or Policy(), seed, count, progress)
    parts, gains = _search(trials, progress)
    _check_some_half(parts, trials)

    def real(chosen: tuple[str, ...], output: Literal["float", "uint8"]) -> ExportedGenerator:
        if (chosen, output) == ((), "float"):
            return half
        precision: Literal["fp16", "mixed"] = "mixed" if chosen else "fp16"
        wanted = dataclasses.replace(options, precision=precision, float32=chosen, output=output)
        return export_generator(checkpoint, wanted, opset=opset, progress=progress)

    found, loss = real(parts, "float"), trials.loss(())
    if parts:
        loss = trials.loss_of(emulated(found.payload))
        left = [gain.path for gain in gains if gain.path not in parts]
        # The trial rounds a little less than the file at the borders of its parts.
        while trials.share(loss) > 1 and left:
            parts = _in_order((*parts, left.pop(0)), trials.parts)
            _check_some_half(parts, trials)
            found = real(parts, "float")
            loss = trials.loss_of(emulated(found.payload))
    if options.output == "uint8":
        found = real(parts, "uint8")  # the same network, measured before its codes are rounded
    values = {rule: trials.limits[rule].value for rule in _RULES}
    recipe = Recipe(parts, trials.loss(()), loss, values, gains, len(trials.pool), seed)
    return _with_recipe(found, recipe), recipe


def _trials(
    checkpoint: Checkpoint,
    half: InferenceOptions,
    opset: int | None,
    policy: Policy,
    seed: int,
    count: int | None,
    progress: Progress,
) -> tuple[ExportedGenerator, Trials]:
    exported = export_generator(checkpoint, dataclasses.replace(half, output="float"), opset=opset, progress=progress)
    config, generator = checkpoint.config, checkpoint.generator()
    pool, _ = make_cases(config, seed=seed, count=default_count(config) if count is None else count)
    if exported.z_type == "float16":
        pool = pool.rounded_to_half()
    reference = draw_float64(generator, pool, progress=progress)
    limits = policy.limits("mixed", rounding_layers(exported.payload))
    return exported, Trials(exported.payload, float32_weights(generator, half), pool, reference, limits)


def _check_some_half(parts: Collection[str], trials: Trials) -> None:
    if len(parts) == len(trials.parts):
        raise CheckFailed(
            f"every part would have to be float32 to meet the budget (in fp16 tensor.rel_l2 is "
            f"{trials.loss(())['tensor.rel_l2']:.3g}, the limit is {trials.limits['tensor.rel_l2'].value:.3g}): "
            "export it with --precision fp32."
        )


def in_words(recipe: Recipe) -> str:
    """The recipe in one line."""
    before, limit = recipe.fp16["tensor.rel_l2"], recipe.limits["tensor.rel_l2"]
    if not recipe.parts:
        return (
            f"float16 keeps its budget on {recipe.latents} latents (tensor.rel_l2 {before:.3g}, limit {limit:.3g}): no "
            "part needs float32, and the file is fp16"
        )
    return (
        f"float32: {', '.join(recipe.parts)}. Without them tensor.rel_l2 is {before:.3g}, with them "
        f"{recipe.found['tensor.rel_l2']:.3g}, the limit is {limit:.3g} ({recipe.latents} latents)"
    )


def float32_weights(generator: Generator, options: InferenceOptions) -> dict[str, NDArray[Any]]:
    """The weights of the inference form by name, unrounded."""
    return {name: tensor.numpy() for name, tensor in to_inference(generator, options).state_dict().items()}


@dataclass
class Trials:
    """Losses of one float16 file with any of its parts in float32; each set is measured once.

    `payload` is the file with float images, `weights` its weights before they were rounded, `reference` the float64
    images of the pool.
    """

    payload: bytes
    weights: Mapping[str, NDArray[Any]]
    pool: Pool
    reference: NDArray[np.float64]
    limits: Mapping[str, Limit]
    known: dict[frozenset[str], dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = parts_of(self.payload)
        self.rounded = emulated(self.payload)

    def loss(self, parts: Collection[str]) -> dict[str, float]:
        """By rule the loss of the worst image with these parts in float32; infinite where a value is not finite."""
        key = frozenset(parts)
        if key not in self.known:
            self.known[key] = self.loss_of(widened(self.rounded, key, self.weights) if key else self.rounded)
        return self.known[key]

    def loss_of(self, onnx: bytes) -> dict[str, float]:
        """The same of any emulated file of this generator."""
        images = _draw(onnx, self.pool)
        with np.errstate(invalid="ignore"):
            relative = relative_l2(images, self.reference)
        largest = np.array([worst.value for worst in worst_pixels(images, self.reference)])
        return {rule: _worst(values) for rule, values in zip(_RULES, (relative, largest), strict=True)}

    def share(self, loss: Mapping[str, float]) -> float:
        """How much of the budget a loss uses up; above 1 it is not kept."""
        return max(loss[rule] / self.limits[rule].value for rule in _RULES)


def part_gains(trials: Trials, base: Sequence[str] = (), progress: Progress = silent) -> tuple[Gain, ...]:
    """For every part what the relative L2 error becomes when it alone joins the `base` in float32, the best first."""
    before, others = trials.loss(base)["tensor.rel_l2"], [part for part in trials.parts if part not in base]
    gains = []
    for done, part in enumerate(others):
        progress("float32 parts", done, len(others))
        gains.append(Gain(part, before, trials.loss((*base, part))["tensor.rel_l2"]))
    progress("float32 parts", len(others), len(others))
    return tuple(sorted(gains, key=lambda gain: gain.after))


def _search(trials: Trials, progress: Progress) -> tuple[tuple[str, ...], tuple[Gain, ...]]:
    """The smallest set found, in the generator's order, and the gains that led to it."""
    if trials.share(trials.loss(())) <= 1:
        return (), ()
    if trials.share(everywhere := trials.loss(trials.parts)) > 1:
        raise CheckFailed(
            f"no choice of float32 parts meets the budget: with all of them tensor.rel_l2 is "
            f"{everywhere['tensor.rel_l2']:.3g}, the limit is {trials.limits['tensor.rel_l2'].value:.3g}. "
            "Softmax inputs or images may be out of range in float32 already; try --precision fp32."
        )
    # What overflows hides every other loss behind NaN, so those parts come first.
    base = _overflowing(trials, progress)
    gains = part_gains(trials, base, progress)
    ranked = [*base, *(gain.path for gain in gains)]
    low, high = 0, len(ranked)  # with `high` parts the budget is met, with `low` it is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trials.share(trials.loss(ranked[:middle])) <= 1 else (middle, high)
    chosen = ranked[:high]
    for part in reversed(chosen[:]):
        rest = [other for other in chosen if other != part]
        if trials.share(trials.loss(rest)) <= 1:
            chosen = rest
    return _in_order(chosen, trials.parts), gains


def _overflowing(trials: Trials, progress: Progress) -> list[str]:
    audit = audit_ranges(trials.payload, trials.pool.z, trials.pool.labels, progress=progress)
    found = {part_of(row.path) for row in audit.overflows}
    return [part for part in trials.parts if part in found]


def _in_order(parts: Collection[str], order: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in order if part in parts)


def _draw(onnx: bytes, pool: Pool) -> NDArray[np.float64]:
    ort = require("onnxruntime", "onnxruntime")
    session = ort.InferenceSession(onnx, session_options(), providers=["CPUExecutionProvider"])
    drawn = []
    for start in range(0, len(pool), _BATCH):
        rows = slice(start, start + _BATCH)
        feeds: dict[str, Any] = {"z": pool.z[rows]} | ({} if pool.labels is None else {"labels": pool.labels[rows]})
        drawn.append(session.run(["images"], feeds)[0].astype(np.float64))
    return np.concatenate(drawn)


def _worst(values: NDArray[np.float64]) -> float:
    return float(np.where(np.isnan(values), math.inf, values).max())


def _with_recipe(exported: ExportedGenerator, recipe: Recipe) -> ExportedGenerator:
    from exporters.onnx import add_metadata

    key = "sagan_deploy.provenance"
    step = {"step": "float32 parts", **dataclasses.asdict(recipe)}
    steps = [*json.loads(exported.metadata[key]), _finite(step)]
    metadata = exported.metadata | {key: json.dumps(steps)}
    return dataclasses.replace(
        exported, payload=add_metadata(exported.payload, {key: metadata[key]}), metadata=metadata
    )


def _finite(value: Any) -> Any:
    """JSON has no infinities: an overflow is written as text."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def exported_options(steps: Sequence[Mapping[str, Any]]) -> InferenceOptions | None:
    """The options that a file was exported with, from its provenance; None where it does not tell."""
    step = next((step for step in reversed(steps) if step.get("step") == "export"), None)
    if step is None or step.get("form") != "inference":
        return None
    names = {f.name for f in dataclasses.fields(InferenceOptions)} & set(step)
    try:
        return InferenceOptions(**{name: _tupled(step[name]) for name in names})
    except (ConfigError, TypeError):
        return None


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
