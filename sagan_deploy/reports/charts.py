"""Charts as numbers: where every bar, tick and limit stands. A template draws them as SVG inside the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sagan_deploy.parity.evidence import ImageTable
from sagan_deploy.parity.report import Gate, Leg
from sagan_deploy.reports import words

WIDTH, HEIGHT = 320.0, 96.0  # of the area of the bars, in units of the SVG
_BINS = 24
_MOST_BARS = 41

#: The rule that judges a measure of `ImageTable`, where there is one.
RULE_OF = {
    "rel_l2": "tensor.rel_l2",
    "max_abs": "tensor.max_abs",
    "psnr": "image.psnr",
    "ssim": "image.ssim",
    "code_difference": "image.code_difference",
    "code_share": "image.code_share",
}
_TITLES = {
    "rel_l2": "relative L2 error",
    "max_abs": "largest error of a pixel",
    "cosine": "1 − cosine",
    "psnr": "PSNR, dB",
    "ssim": "1 − SSIM",
    "ulps": "largest error in ULPs",
    "code_difference": "largest difference of an 8-bit code",
    "code_share": "share of 8-bit codes that differ",
}
_FROM_ONE = ("ssim", "cosine")  # whose best is 1: their distance from there is what can be seen
_LOGARITHMIC = ("rel_l2", "max_abs", "ulps", *_FROM_ONE)
_MEDIAN = ("code_share",)  # judged by the median image, not by the worst


@dataclass(frozen=True)
class Bar:
    """A bar from the bottom up, in units of the SVG; `over` is on the wrong side of the limit."""

    x: float
    width: float
    height: float
    count: int
    label: str
    over: bool = False


@dataclass(frozen=True)
class Tick:
    """A mark under the axis."""

    x: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A histogram. `summary` says in words what it shows, for those who do not see it; `rule` is "" without a gate."""

    title: str
    rule: str
    summary: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    limit: float | None = None  # where its line stands
    note: str = ""


@dataclass(frozen=True)
class _Axis:
    """Equal bins from `low` in steps of `step`, in decades when `logarithmic`; a limit lies on the edge of a bin."""

    low: float
    step: float
    bins: int
    logarithmic: bool
    whole: bool = False  # only whole numbers are ticks

    def place(self, value: float) -> float:
        """Where a value stands, in units of the SVG."""
        at = math.log10(value) if self.logarithmic else value
        return (at - self.low) / (self.step * self.bins) * WIDTH

    def edge(self, index: int) -> float:
        """The value at the left of a bin."""
        at = self.low + index * self.step
        return float(10.0**at) if self.logarithmic else at

    def ticks(self) -> tuple[Tick, ...]:
        """Round numbers in view, six at most."""
        high = self.low + self.step * self.bins
        if self.logarithmic and high - self.low >= 1.5:
            every = max(1, math.ceil((high - self.low) / 5))
            decades = range(math.ceil(self.low), math.floor(high) + 1)
            return tuple(Tick(self.place(10.0**d), _power(d)) for d in decades if d % every == 0)
        values = _round_numbers(self.edge(0), self.edge(self.bins))
        if self.whole:
            values = sorted({float(math.ceil(value)) for value in values if math.ceil(value) <= self.edge(self.bins)})
        return tuple(Tick(self.place(value), words.number(value)) for value in values)


def leg_charts(leg: Leg) -> tuple[Chart, ...]:
    """A histogram of every measure of a leg's images, then of the differences of its 8-bit codes."""
    if leg.images is None:
        return ()
    gates = {gate.rule: gate for gate in leg.gates}
    charts = [histogram(measure, leg.images, gates.get(RULE_OF.get(measure, ""))) for measure in _TITLES]
    return (*(chart for chart in charts if chart is not None), *_codes(leg.images))


def histogram(measure: str, table: ImageTable, gate: Gate | None) -> Chart | None:
    """How many images have which value of a measure; None when the table has no such column or no number to draw."""
    values = table.measures.get(measure, ())
    seen = [1 - value for value in values] if measure in _FROM_ONE else list(values)
    shown = [value for value in seen if math.isfinite(value) and (value > 0 or measure not in _LOGARITHMIC)]
    if not shown:
        return None
    limit = None if gate is None else 1 - gate.limit if measure in _FROM_ONE else gate.limit
    if limit is not None and not (math.isfinite(limit) and (limit > 0 or measure not in _LOGARITHMIC)):
        limit = None
    if limit is not None and measure == "code_difference":
        limit = math.floor(limit) + 0.5  # between the last code that keeps it and the first that does not
    axis = _axis(shown, limit, measure)
    highest_is_best = measure == "psnr"
    counts = [0] * axis.bins
    for value in shown:
        counts[_bin(axis, value, limit, highest_is_best=highest_is_best)] += 1
    line = None if limit is None else axis.place(limit)
    bars = []
    for index, count in enumerate(counts):
        if not count:
            continue
        x, width = index * WIDTH / axis.bins, WIDTH / axis.bins
        middle = x + width / 2
        over = line is not None and (middle < line if highest_is_best else middle > line)
        label = f"{words.number(axis.edge(index))} to {words.number(axis.edge(index + 1))}: {_images(count)}"
        bars.append(Bar(x, width, HEIGHT * count / max(counts), count, label, over))
    summary = _summary(measure, values, table, gate)
    note = _left_out(measure, seen)
    return Chart(_TITLES[measure], "" if gate is None else gate.rule, summary, tuple(bars), axis.ticks(), line, note)


def _bin(axis: _Axis, value: float, limit: float | None, *, highest_is_best: bool) -> int:
    """The bin of a value: one that lies on the limit keeps it, so it falls on the good side of the line."""
    index = min(axis.bins - 1, max(0, int(axis.place(value) / WIDTH * axis.bins)))
    if limit is None:
        return index
    edge = round(axis.place(limit) / WIDTH * axis.bins)
    kept = value >= limit if highest_is_best else value <= limit
    good_above = highest_is_best == kept
    return max(index, min(edge, axis.bins - 1)) if good_above else min(index, max(edge - 1, 0))


def _axis(values: Sequence[float], limit: float | None, measure: str) -> _Axis:
    logarithmic = measure in _LOGARITHMIC
    both = [*values, *([] if limit is None else [limit])]
    low, high = (math.log10(min(both)), math.log10(max(both))) if logarithmic else (min(both), max(both))
    anchor = low if limit is None else math.log10(limit) if logarithmic else limit
    spare = 1
    if measure == "code_difference":  # whole numbers: every bar holds as many codes as the others
        low, high, spare = min(low, 0) - 0.5, high + 0.5, 0
        step = float(math.ceil((high - low) / _MOST_BARS))
        anchor = low if limit is None else limit
    else:
        step = (high - low) / (_BINS - 2) or (0.05 if logarithmic else abs(low) / 10 or 1.0)
    # Whole steps on both sides of the limit, so that no bar straddles it.
    below = math.ceil((anchor - low) / step - 1e-9) + spare
    above = max(math.ceil((high - anchor) / step - 1e-9), 1 - below) + spare
    return _Axis(anchor - below * step, step, below + above, logarithmic, measure == "code_difference")


def _codes(table: ImageTable) -> tuple[Chart, ...]:
    """The signed differences of 8-bit codes: a bar each, of logarithmic height, since nearly all are 0."""
    counts = {int(code): count for code, count in table.code_histogram.items() if count}
    if not counts:
        return ()
    bars, width = _code_bars(counts)
    total = sum(counts.values())
    furthest = max(counts, key=abs)
    equal = words.percent(counts.get(0, 0) / total, 2)
    summary = f"{total} codes: {equal} equal, the furthest is {_signed(furthest)} away"
    low, high = min(counts), max(counts)
    marks = sorted({low, 0, high}) if low <= 0 <= high else [low, high]
    ticks = tuple(Tick((mark - low) * width + width / 2, _signed(mark)) for mark in marks)
    title = "differences of 8-bit codes"
    return (Chart(title, "", summary, bars, ticks, note="The height is logarithmic"),)


def _code_bars(counts: Mapping[int, int]) -> tuple[tuple[Bar, ...], float]:
    low, high = min(counts), max(counts)
    width = WIDTH / (high - low + 1)
    top = math.log10(1 + max(counts.values()))
    bars = []
    for code in sorted(counts):
        height = HEIGHT * math.log10(1 + counts[code]) / top
        label = f"{_signed(code)}: {counts[code]} {'code' if counts[code] == 1 else 'codes'}"
        bars.append(Bar((code - low) * width, width, height, counts[code], label))
    return tuple(bars), width


def _summary(measure: str, values: Sequence[float], table: ImageTable, gate: Gate | None) -> str:
    """Median, worst and where, limit, and how many break it: what the chart shows, in words."""
    small_is_bad = measure in ("psnr", *_FROM_ONE)

    def badness(index: int) -> float:
        value = values[index]
        return math.inf if math.isnan(value) else -value if small_is_bad else value

    # Worst first, and of an even number the second in the middle, as the gates take it.
    ranked = sorted(range(len(values)), key=badness, reverse=True)
    worst, median = ranked[0], values[ranked[len(ranked) // 2]]
    place = f"{table.case[worst]}, image {table.image[worst]}"
    parts = [f"median {words.number(median)}", f"worst {words.number(values[worst])} ({place})"]
    if gate is not None:
        which = "limit of the median image" if measure in _MEDIAN else "limit"
        parts.append(f"{which} {words.limit(gate)}")
        bad = sum(not (value >= gate.limit if gate.at_least else value <= gate.limit) for value in values)
        if measure not in _MEDIAN:
            parts.append(f"{bad} of {len(values)} over it" if bad else "none over it")
    return f"{_images(len(values))}: {', '.join(parts)}"


def _left_out(measure: str, seen: Sequence[float]) -> str:
    """Which images have no place on the axis."""
    lost = sum(math.isnan(value) or (math.isinf(value) and measure != "psnr") for value in seen)
    equal = sum(value <= 0 if measure in _LOGARITHMIC else value == math.inf and measure == "psnr" for value in seen)
    parts = [f"{_images(lost)} with NaN or infinity not drawn"] if lost else []
    parts += [f"{_images(equal)} without any error not drawn"] if equal else []
    return "; ".join(parts)


def _images(count: int) -> str:
    return f"{count} {'image' if count == 1 else 'images'}"


def _signed(code: int) -> str:
    return f"{code:+d}".replace("-", "−") if code else "0"


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], two to six of them."""
    rough = (high - low) / 4
    if not rough > abs(high) * 1e-12:  # the numbers cannot be told apart on an axis
        return [(low + high) / 2]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
