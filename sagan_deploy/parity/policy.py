"""How much an exported file may differ, derived from the arithmetic; policy files change a limit, with a reason.

With unit roundoff u and L rounding layers between latents and pixels, independent rounding errors of zero mean give a
relative error of about u·√L (Higham & Mary 2019, SIAM J. Sci. Comput. 41, theorem 2.4). Half precision accumulates in
float32, so that is all; float32 accumulates in its own type, which multiplies it by √K for sums of K products.

That is the floor. Where the network amplifies its own roundings, the limit is a multiple of what PyTorch's training
form loses in the same precision on the same latents (`yardstick`): no other implementation can be asked to do better.
The ceiling is absolute: beyond it nobody would call the pictures the same, whoever drew them.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sagan_deploy.errors import ConfigError
from sagan_deploy.files import read_bytes
from sagan_deploy.parity.depth import Depth

Precision = Literal["fp32", "fp16", "bf16", "mixed", "int8", "fp8"]

# Mixed precision exists to keep the budget of fp16 where fp16 alone does not, so it gets no yardstick.
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "mixed": 2.0**-11, "bf16": 2.0**-8}
_CODES = {"fp32": 1, "fp16": 1, "mixed": 1, "bf16": 6}
_SSIM = {"fp32": 0.99999, "fp16": 0.999, "mixed": 0.999, "bf16": 0.99}
ALGEBRA = 1e-12
_MULTIPLE = 3  # of the yardstick: two computations of one function, each with its own roundings, over many images
_CEILING = {"tensor.rel_l2": 0.1, "tensor.max_abs": 0.5}  # beyond it nobody would call the pictures the same
_BIAS = 0.4  # a head that truncates shifts codes by 0.5; in bfloat16 right images are shifted by up to 0.25 as well


@dataclass(frozen=True)
class Limit:
    """A number and where it comes from."""

    value: float
    derivation: str


@dataclass(frozen=True)
class Change:
    """What a policy file says of a rule: the new limit and why."""

    limit: float
    reason: str


@dataclass(frozen=True)
class Policy:
    """The derived limits, except where `changes` (by ``precision.rule``) says otherwise."""

    changes: dict[str, Change] = field(default_factory=dict)

    def algebra(self) -> Limit:
        """Of the inference form in float64: the identities are exact, so only float64's own rounding is left."""
        return self._changed("fp64", "tensor.rel_l2", Limit(ALGEBRA, "float64 rounding of exact identities"))

    def class_rows(self, precision: Precision, layers: int, terms: int) -> Limit:
        """Of the numbers that a file holds for every class, after `layers` products of `terms` terms each.

        They are stored, so they are rounded once, whatever the network does with them; a factor of 4 covers how
        least squares and a product of rounded weights add to that.
        """
        u = ROUNDOFF.get(precision, ROUNDOFF["fp16"])
        spread = 4 * u * math.sqrt(1 + layers) * (math.sqrt(max(1, terms)) if precision == "fp32" else 1.0)
        derivation = f"4·u·√(1+L), u = 2^{int(math.log2(u))}, L = {layers}: numbers of a class are rounded once"
        return self._changed(precision, "tensor.class_rows", Limit(spread, derivation))

    def distribution(self, precision: Precision, rule: str, limit: Limit) -> Limit:
        """Of a distance between distributions, derived from how far apart two seeds are."""
        return self._changed(precision, rule, limit)

    def limits(
        self, precision: Precision, depth: Depth, yardstick: Mapping[str, float] | None = None
    ) -> dict[str, Limit]:
        """All limits of a file by rule.

        Args:
            precision: what the file declares.
            depth: its rounding layers and longest reduction, counted from the graph.
            yardstick: by rule, what PyTorch's training form loses in this precision; None when it was not measured.
        """
        if precision in ("int8", "fp8"):
            found = _quantised_limits(precision, yardstick or {})
            return {rule: self._changed(precision, rule, limit) for rule, limit in found.items()}
        u, layers, terms = ROUNDOFF[precision], depth.layers, depth.longest_reduction
        spread = u * math.sqrt(layers)
        formula = f"u·√L, u = 2^{int(math.log2(u))}, L = {layers}"
        if precision == "fp32":
            relative = Limit(spread * math.sqrt(terms), f"{formula}, times √K, K = {terms}: float32 accumulators")
            largest = Limit(10 * relative.value, "10 × tensor.rel_l2: ten standard deviations at rms 1")
        else:
            relative = Limit(3 * spread, f"3·{formula}: float32 accumulators")
            largest = Limit(_CODES[precision] * 2 / 255, f"{_CODES[precision]} step(s) of 8-bit codes, 2/255 each")
        measured = {rule: value for rule, value in (yardstick or {}).items() if math.isfinite(value)}
        relative = _at_least(relative, measured.get("tensor.rel_l2"), precision, ceiling=_CEILING["tensor.rel_l2"])
        largest = _at_least(largest, measured.get("tensor.max_abs"), precision, ceiling=_CEILING["tensor.max_abs"])
        codes = max(_CODES[precision], math.ceil(127.5 * largest.value)) if precision != "fp32" else _CODES["fp32"]
        share = min(0.25, max(127.5 * relative.value / 3, 5e-3))
        ssim = max(0.95, 1 - _MULTIPLE**2 * (1 - measured.get("image.ssim", 1.0)))
        found = {
            "tensor.rel_l2": relative,
            "tensor.max_abs": largest,
            "tensor.between_batches": _between_batches(relative),
            "image.code_difference": Limit(codes, f"{precision} moves an 8-bit code by at most {codes}"),
            "image.code_share": Limit(
                max(share, _MULTIPLE * measured.get("image.code_share", 0.0)),
                "127.5·rel_l2/3, at least 1 in 200, or 3 × PyTorch's: codes close to a boundary, in the typical image",
            ),
            "image.code_bias": Limit(
                max(share, min(_BIAS, _MULTIPLE * measured.get("image.code_bias", 0.0))),
                "rounding has no direction: a shifted typical image is a wrong head",
            ),
            "image.psnr": Limit(20 * math.log10(2 / relative.value), "tensor.rel_l2 in dB at rms 1, range 2"),
            "image.ssim": Limit(
                min(_SSIM[precision], ssim), "of the worst image, or nine times as far from 1 as PyTorch's"
            ),
        }
        if precision == "bf16":
            # Codes wander by several steps there: how many do is no evidence of anything, and whole images lean to
            # one side. Of 60 right files one had a typical image 0.253 off; a truncating head adds 0.5 to that.
            del found["image.code_share"]
            found["image.code_bias"] = Limit(_BIAS, "0.4 of a code: a head that truncates shifts images by 0.5")
        return {rule: self._changed(precision, rule, limit) for rule, limit in found.items()}

    def loosened(self) -> dict[str, str]:
        """Every changed rule with its limit and reason, for the reports."""
        return {name: f"{change.limit:g}: {change.reason}" for name, change in self.changes.items()}

    def _changed(self, precision: str, rule: str, limit: Limit) -> Limit:
        change = self.changes.get(f"{precision}.{rule}")
        return limit if change is None else Limit(change.limit, f"policy file: {change.reason}")


def _between_batches(relative: Limit) -> Limit:
    """Two runs of one file share its rounded weights and every place where it rounds.

    They differ by the order of float32 sums, which seldom turns a rounding the other way. ONNX Runtime gave the same
    bits in every run seen; a third leaves room for kernels that are chosen by the size of the batch.
    """
    return Limit(relative.value / 3, "a third of tensor.rel_l2: the same file, only sums in another order")


def _quantised_limits(precision: Precision, yardstick: Mapping[str, float]) -> dict[str, Limit]:
    """No arithmetic predicts what codes lose, so all limits are multiples of what PyTorch's fake quantisation loses.

    The multiples cover what was seen between the two, on a trained and on random networks: 0.9 to 1.1 in relative L2,
    1.5 in the worst pixel, 1.9 in structure.
    """

    def multiple(rule: str, factor: float, ceiling: float) -> Limit:
        lost = yardstick.get(rule, math.inf)
        value = min(factor * lost, ceiling) if math.isfinite(lost) else ceiling
        words = f"{factor} × {lost:.2g}, what PyTorch's fake {precision} quantisation of the training form loses"
        return Limit(value, f"{words}, never more than {ceiling}")

    relative, largest = (
        multiple("tensor.rel_l2", 1.5, _CEILING["tensor.rel_l2"]),
        multiple("tensor.max_abs", 2.0, _CEILING["tensor.max_abs"]),
    )
    codes = math.ceil(127.5 * largest.value)
    ssim = max(0.9, 1 - 3 * (1 - yardstick.get("image.ssim", 0.0)))
    return {
        "tensor.rel_l2": relative,
        "tensor.max_abs": largest,
        "tensor.between_batches": _between_batches(relative),
        "image.code_difference": Limit(codes, f"tensor.max_abs in 8-bit codes: {codes}"),
        "image.code_bias": multiple("image.code_bias", 3.0, _BIAS),
        "image.psnr": Limit(20 * math.log10(2 / relative.value), "tensor.rel_l2 in dB at rms 1, range 2"),
        "image.ssim": Limit(ssim, "of the worst image: three times as far from 1 as PyTorch's, at least 0.9"),
    }


def _at_least(limit: Limit, measured: float | None, precision: Precision, *, ceiling: float) -> Limit:
    """The larger of a derived limit and a multiple of the yardstick, which the ceiling bounds."""
    wanted = min(_MULTIPLE * (measured or 0.0), ceiling)
    if wanted <= limit.value:
        return limit
    bound = f", never more than {ceiling}" if wanted == ceiling else ""
    words = f"{_MULTIPLE} × {measured:.2g}, what PyTorch's training form loses in {precision} on the same latents"
    return Limit(wanted, f"{words}{bound} (more than {limit.derivation} = {limit.value:.2g})")


RULES = (
    "tensor.rel_l2",
    "tensor.max_abs",
    "tensor.between_batches",
    "tensor.class_rows",
    "image.code_difference",
    "image.code_share",
    "image.code_bias",
    "image.psnr",
    "image.ssim",
    "distribution.frechet",
    "distribution.kernel",
)


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    It is TOML with one table per changed limit::

        [fp16."tensor.rel_l2"]
        limit = 0.01
        reason = "the client accepted this for the 2026 model, ticket 1234"

    Raises:
        ConfigError: no TOML, an unknown precision or rule, a limit that is no positive number, or no reason.
    """
    try:
        tables = tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    changes = {}
    for precision, rules in tables.items():
        if precision not in ("fp64", *ROUNDOFF, "int8", "fp8") or not isinstance(rules, dict):
            raise ConfigError(f"{path}: {precision!r} must be a table named fp64, fp32, fp16, bf16, mixed, int8 or fp8")
        for rule, entry in rules.items():
            if rule not in RULES:
                raise ConfigError(f"{path}: there is no rule {rule!r}. Rules: {', '.join(RULES)}")
            changes[f"{precision}.{rule}"] = _change(f"{path}: {precision}.{rule}", entry)
    return Policy(changes)


def _change(name: str, entry: object) -> Change:
    if not isinstance(entry, dict) or not {"limit", "reason"} >= set(entry):
        raise ConfigError(f"{name} must be a table with limit and reason")
    limit, reason = entry.get("limit"), entry.get("reason")
    if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not math.isfinite(limit) or limit <= 0:
        raise ConfigError(f"{name} limit (={limit!r}) must be a positive number")
    if not isinstance(reason, str) or len(reason.split()) < 3:
        raise ConfigError(
            f"{name} needs a reason in words; the reports print it. A limit is never changed without one."
        )
    return Change(float(limit), reason)
