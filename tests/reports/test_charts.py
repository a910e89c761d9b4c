"""Histograms: every image stands where its number says, on the right side of the limit. NumPy counts along."""

import dataclasses
import math

import numpy as np
import pytest

from sagan_deploy.parity.evidence import MEASURES, ImageTable
from sagan_deploy.parity.report import Gate
from sagan_deploy.reports.charts import HEIGHT, RULE_OF, WIDTH, histogram, leg_charts
from sagan_deploy.reports.scales import headroom, markers, ranked, stage_meters
from tests.reports.made_up import leg, pictures
from tests.reports.made_up_evidence import gains, good_leg, image_table, ranges, stages


def table(measure, values):
    count = len(values)
    return ImageTable(("normal",) * count, tuple(range(count)), tuple(range(count)), {measure: tuple(values)}, {})


def gate(measure, limit):
    return Gate(RULE_OF[measure], 0.0, limit, "", at_least=measure in ("psnr", "ssim"))


RNG = np.random.default_rng(0)
SPREADS = {
    "rel_l2": (RNG.lognormal(-6, 1, 200), 3e-3),
    "max_abs": (RNG.lognormal(-5, 0.1, 50), 1.0),
    "psnr": (RNG.normal(50, 5, 100), 46.0),
    "ssim": (1 - RNG.lognormal(-8, 1, 100), 0.999),
    "code_difference": (RNG.integers(0, 6, 100).astype(float), 2.0),
    "code_share": (RNG.random(100) / 10, 0.04),
}


@pytest.mark.parametrize("measure", SPREADS)
@pytest.mark.parametrize("many_codes", [1, 17])
def test_bars_count_images_and_colour_those_over_the_limit(measure, many_codes):
    values, limit = SPREADS[measure]
    if measure == "code_difference":
        values, limit = values * many_codes, limit * many_codes
    chart = histogram(measure, table(measure, values.tolist()), gate(measure, limit))
    over = values < limit if measure in ("psnr", "ssim") else values > limit
    assert sum(bar.count for bar in chart.bars) == len(values)
    assert sum(bar.count for bar in chart.bars if bar.over) == np.count_nonzero(over)
    assert max(bar.height for bar in chart.bars) == pytest.approx(HEIGHT)
    assert min(bar.x for bar in chart.bars) >= 0
    assert max(bar.x + bar.width for bar in chart.bars) <= WIDTH + 1e-6
    assert 0 <= chart.limit <= WIDTH
    assert 2 <= len(chart.ticks) <= 8
    assert measure != "code_difference" or all(float(tick.text).is_integer() for tick in chart.ticks)
    assert all(-1e-6 <= tick.x <= WIDTH + 1e-6 for tick in chart.ticks)


def test_the_axis_is_logarithmic_and_ticks_name_it():
    chart = histogram("rel_l2", table("rel_l2", [1e-6, 1e-4, 1e-2]), gate("rel_l2", 1e-3))
    places = {tick.text: tick.x for tick in chart.ticks}
    assert {"10⁻⁵", "10⁻³"} <= set(places)
    assert chart.limit == pytest.approx(places["10⁻³"])
    assert places["10⁻³"] - places["10⁻⁴"] == pytest.approx(places["10⁻⁴"] - places["10⁻⁵"])


@pytest.mark.parametrize("measure", SPREADS)
def test_an_image_on_the_limit_keeps_it(measure):
    limit = SPREADS[measure][1]
    values = [limit, limit * 1.5 if measure != "ssim" else 0.9985]
    chart = histogram(measure, table(measure, values), gate(measure, limit))
    expected = 0 if measure == "psnr" else 1
    assert sum(bar.count for bar in chart.bars if bar.over) == expected


@pytest.mark.parametrize("measure", sorted(set(MEASURES) - {"not_finite"}))
@pytest.mark.parametrize("value", [0.25, 1.0])
def test_one_value_for_all_is_a_picture_too(measure, value):
    chart = histogram(measure, table(measure, [value] * 3), None)
    assert chart is None or sum(bar.count for bar in chart.bars) == 3
    assert (chart is None) == (value == 1.0 and measure in ("cosine", "ssim"))


@pytest.mark.parametrize("measure", sorted(set(MEASURES) - {"not_finite"}))
def test_magnitudes_of_all_kinds_can_be_drawn(measure):
    rng = np.random.default_rng(5)
    for exponent in (-300, -18, -15, -12, -6, 0, 3, 30):
        for spread in (0, 1e-9, 0.01, 1, 8):
            values = 10.0 ** (exponent + spread * rng.random(20))
            if measure in ("cosine", "ssim"):
                values = 1 - values
            if measure == "code_difference":
                values = np.minimum(np.rint(values), 255)
            chart = histogram(measure, table(measure, values.tolist()), None)
            if chart is not None:
                assert all(math.isfinite(bar.x + bar.width + bar.height) for bar in chart.bars)
                assert all(math.isfinite(tick.x) for tick in chart.ticks)
                assert len(chart.ticks) <= 8


def test_words_say_what_the_picture_shows():
    values = [0.001, 0.002, math.nan, 0.02]
    chart = histogram("rel_l2", table("rel_l2", values), gate("rel_l2", 0.01))
    assert chart.summary == "4 images: median 0.002, worst NaN (normal, image 2), limit ≤ 0.01, 2 of 4 over it"
    assert chart.note == "1 image with NaN or infinity not drawn"
    clean = histogram("psnr", table("psnr", [60.0, 70.0, math.inf]), gate("psnr", 40.0))
    assert clean.summary == "3 images: median 70, worst 60 (normal, image 0), limit ≥ 40, none over it"
    assert clean.note == "1 image without any error not drawn"


def test_nothing_to_draw():
    assert histogram("rel_l2", table("rel_l2", [0.0, 0.0]), None) is None
    assert histogram("rel_l2", table("psnr", [1.0]), None) is None
    assert leg_charts(leg("passed")) == ()


def test_codes_are_whole_numbers():
    chart = histogram("code_difference", table("code_difference", [1.0] * 9), gate("code_difference", 1.0))
    assert [tick.text for tick in chart.ticks] == ["0", "1", "2"]
    (bar,) = chart.bars
    assert [bar.x, bar.width, chart.limit] == pytest.approx([WIDTH / 3, WIDTH / 3, 2 * WIDTH / 3])
    assert not bar.over


def test_codes_have_a_bar_each():
    found = dataclasses.replace(image_table(), code_histogram={-2: 1, 0: 9999, 1: 99})
    chart = leg_charts(leg("passed", images=found))[-1]
    assert [bar.count for bar in chart.bars] == [1, 9999, 99]
    assert [bar.height / HEIGHT for bar in chart.bars] == pytest.approx([math.log10(2) / 4, 1.0, 0.5])
    assert [round(bar.x / WIDTH, 2) for bar in chart.bars] == [0, 0.5, 0.75]
    assert [tick.text for tick in chart.ticks] == ["−2", "0", "+1"]
    assert chart.summary == "10099 codes: 99.01 % equal, the furthest is −2 away"


def test_every_measure_has_a_chart_and_its_rule():
    charts = leg_charts(good_leg())
    assert [chart.rule for chart in charts if chart.rule] == list(RULE_OF.values())
    assert len(charts) == len(MEASURES)  # not_finite has none, the codes have one more


def test_stages_share_a_scale():
    meters = stage_meters(stages(broken_from=3))
    values = np.array([(meter.value, meter.limit) for meter in meters])
    assert ((values >= 0) & (values <= 100)).all()
    assert [meter.value > meter.limit for meter in meters] == [False] * 3 + [True] * 3
    broken = dataclasses.replace(stages()[0], value=math.nan)
    assert stage_meters((broken, *stages()))[0].value == 100.0
    nothing = dataclasses.replace(broken, value=0.0, limit=0.0)
    assert stage_meters((nothing,))[0].value == 0.0


def test_gains_are_ranked_with_the_incomparable_last():
    odd = dataclasses.replace(gains()[0], path="odd", after=math.nan)
    assert [gain.path for gain in ranked((odd, *reversed(gains())))] == [
        "stages.1.attention", "stages.2.block", "tail", "stem", "odd",
    ]  # fmt: skip


def test_headroom_is_a_share_of_the_exponents():
    audit = ranges(overflow=True)
    assert [headroom(row, audit) for row in audit.rows[:1]] == [0.0]
    for row in audit.rows[1:]:
        assert headroom(row, audit) == pytest.approx(100 * np.log2(65504 / row.largest) / np.log2(65504))


def test_a_ring_stands_on_the_worst_pixel_of_its_own_picture():
    (picture, other) = pictures(size=32, count=2)
    worst = Gate("tensor.max_abs", 1.0, 0.5, "", case=picture.case, image=picture.image, pixel=(2, 8, 24))
    found = leg("failed", gates=(worst,))
    assert markers(found, picture) == ((worst, 100 * 24.5 / 32, 100 * 8.5 / 32),)
    assert markers(found, other) == ()
