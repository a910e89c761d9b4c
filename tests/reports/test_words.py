"""Numbers and verdicts in words."""

import dataclasses
import math

import pytest

from sagan_deploy.parity.report import Gate
from sagan_deploy.reports import words
from tests.reports.made_up import CLOSE, EXACT, NAN, SSIM, WRONG, leg, report


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (19.0, "19"),
        (0.00012345, "0.000123"),
        (0.99995, "1 − 5e-05"),
        (1.0000001, "1 + 1e-07"),
        (-2.0001, "-2 − 0.0001"),
        (0.001, "0.001"),
        (7.25, "7.25"),
        (1234.56, "1.23e+03"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (-math.inf, "−infinite"),
    ],
)
def test_number(value, text):
    assert words.number(value) == text


def test_sizes_and_times():
    assert [words.megabytes(n) for n in (3_456_789, 123_456_789)] == ["3.46 MB", "123.5 MB"]
    assert [words.seconds(s) for s in (0.421, 9.999, 12.34, 119.99, 185)] == [
        "0.42 s",
        "10.0 s",
        "12.3 s",
        "2 min 00 s",
        "3 min 05 s",
    ]
    assert words.percent(0.9641) == "96.4 %"
    assert words.percent(math.nan) == "NaN"
    assert words.timings({"train": 3.0, "parity": 1.5}) == "train 3.00 s, parity 1.50 s, together 4.50 s"


def test_the_tightest_gate_is_a_failed_one_even_beside_a_smaller_margin():
    assert words.worst_gate(leg("passed", gates=(CLOSE, WRONG))) is WRONG
    assert words.worst_gate(leg("passed", gates=(WRONG, NAN, CLOSE))) is NAN
    assert words.worst_gate(leg("not_run")) is None


@pytest.mark.parametrize("kept", [EXACT, Gate("hard.range", 1.0, 1.0000001, "inside [-1, 1]"), Gate("x", 1.0, 1.0, "")])
def test_a_gate_that_can_only_be_kept_or_not_is_not_called_tight(kept):
    assert kept.margin < CLOSE.margin
    assert words.worst_gate(leg("passed", gates=(kept, CLOSE))) is CLOSE
    assert words.margin(kept) == "kept"


def test_such_a_gate_comes_first_when_it_is_broken():
    broken = Gate("hard.range", 1.1, 1.0, "inside [-1, 1]")
    assert words.worst_gate(leg("failed", gates=(CLOSE, broken))) is broken
    assert words.margin(broken) == "−10 %"


def test_equal_images_have_an_infinite_psnr_and_all_the_margin():
    psnr = Gate("image.psnr", math.inf, 40.0, "at range 2", at_least=True)
    assert psnr.passed
    assert words.margin(psnr) == "all"
    assert words.used(psnr) == 0.0
    assert words.worst_gate(leg("passed", gates=(psnr, SSIM))) is SSIM


def test_how_much_of_a_limit_is_used():
    assert words.used(CLOSE) == pytest.approx(2.1 / 9.5)
    assert words.used(SSIM) == pytest.approx(0.05)
    assert SSIM.margin == pytest.approx(0.95)
    assert words.used(Gate("image.psnr", 60.0, 40.0, "", at_least=True)) == pytest.approx(0.1)  # 20 dB: a tenth
    assert words.used(EXACT) == 0.0
    assert words.used(WRONG) == words.used(NAN) == 1.0


def test_margins():
    assert words.margin(CLOSE) == "+78 %"
    assert words.margin(WRONG) == "−1800 %"
    assert words.margin(NAN) == "none"
    assert words.margin(Gate("image.psnr", 57.5, 40.0, "", at_least=True)) == "+17.5 dB"
    assert words.margin(Gate("image.psnr", 37.5, 40.0, "", at_least=True)) == "−2.5 dB"


def test_a_problem_names_value_place_and_limit():
    assert (
        words.problem(WRONG) == "image.codes is 19 at batch 1, image 0, channel 2, row 11, column 30, the limit is ≤ 1"
    )
    assert words.problem(dataclasses.replace(SSIM, value=0.5, case="", image=None)) == (
        "image.ssim is 0.5, the limit is ≥ 0.99"
    )


def test_headlines():
    assert words.headline(report()) == "Parity passed: 1 passed, 1 not run"
    assert words.headline(report(leg("passed"), leg("failed"))) == "Parity FAILED: 1 passed, 1 FAILED"
    assert words.headline(report(leg("not_run"))) == "Parity was not judged, as nothing ran: 1 not run"


def test_paths_become_relative_to_the_bundle():
    inside, outside = leg("passed", path="/tmp/.b.x/onnx/a.onnx"), leg("passed", path="/tmp/.b.xy/a.onnx")
    paths = [found.path for found in words.without_folder(report(inside, outside), "/tmp/.b.x").legs]
    assert paths == ["onnx/a.onnx", "/tmp/.b.xy/a.onnx"]
