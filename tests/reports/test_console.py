"""Tables for the terminal, as plain text."""

import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from sagan_deploy.bench import BenchReport, Row
from sagan_deploy.parity.policy import RULES as ADJUSTABLE
from sagan_deploy.reports.console import artifact_table, bench_table, parity_table, quality_table, rules_table
from sagan_deploy.reports.rules import RULES
from tests.reports.made_up import hostile, leg, manifest, mixed, quality, report
from tests.reports.made_up_evidence import full

ROOT = Path(__file__).parents[2]


def text(renderable, width=200):
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True).print(renderable)
    return stream.getvalue()


def row(shown, start):
    return next(re_split(line) for line in shown.splitlines() if line.replace("│", "").strip().startswith(start))


def re_split(line):
    return [cell.strip() for cell in line.strip()[1:-1].split("│")]


def test_parity_rows():
    shown = text(parity_table(mixed()))
    assert "Parity FAILED: 1 passed, 1 FAILED, 1 not run" in shown
    assert row(shown, "generator.fp16.onnx")[:3] == ["generator.fp16.onnx", "ONNX Runtime, CPU", "passed"]
    assert row(shown, "generator.fp32.onnx")[2:] == ["FAILED", "tensor.max_abs", "NaN", "≤ 0.0078", "none", "see below"]
    assert row(shown, "generator.fp16.plan")[2:] == ["not run", "", "", "", "", "this machine has no NVIDIA GPU"]


def test_failures_are_explained_below():
    shown = text(parity_table(mixed()))
    assert "image.codes is 19 at batch 1, image 0, channel 2, row 11, column 30, the limit is ≤ 1" in shown
    assert "the limit: one 8-bit code" in shown
    assert "first stage over its own budget: stages.1.attention (0.031, limit 0.0042)" in shown
    assert "changed limit image.ssim: the head dithers" in shown
    assert "first stage" not in text(parity_table(report(leg("passed"))))


def test_a_leg_with_many_failed_gates_stays_short():
    shown = text(parity_table(full()))
    assert shown.count("    the limit:") == 2
    assert "generator.mixed.onnx: 4 more failed: tensor.max_abs, tensor.rel_l2, image.code_share, image.psnr" in shown
    assert "stages.1.attention in float32, with the checkpoint's weights, takes 93 % of the error away" in shown
    assert "more failed" not in text(parity_table(mixed()))


def test_rules_are_those_of_the_judge_and_no_others():
    sources = " ".join(path.read_text() for path in (ROOT / "sagan_deploy/parity").glob("*.py"))
    used = set(re.findall(r'"((?:hard|tensor|image|distribution)\.[a-z0-9_]+)"', sources))
    listed = {rule.id for rule in RULES}
    assert listed - used == {"leg.run"}
    assert used <= listed
    assert {rule.id for rule in RULES if rule.adjustable} == set(ADJUSTABLE)
    shown = text(rules_table())
    assert all(rule.id in shown and rule.measures in shown for rule in RULES)


def test_square_brackets_are_no_markup():
    assert "[bold]a[/nonsense]" in text(parity_table(report(leg("passed", name="[bold]a[/nonsense]"))))
    text(parity_table(hostile()))


def test_artifacts():
    shown = text(artifact_table(manifest(), {"export fp32": 3.0, "parity": 61.0}))
    assert row(shown, "onnx/generator.fp32.onnx") == [
        "onnx/generator.fp32.onnx",
        "fp32",
        "float",
        "ONNX Runtime",
        "3.46 MB",
        "passed",
        "",
    ]
    assert row(shown, "engines/generator.fp16.plan")[3:] == [
        "TensorRT-RTX 1.7.1 on sm_89, sm_120",
        "3.46 MB",
        "not run",
        "this machine has no NVIDIA GPU",
    ]
    assert "export fp32 3.00 s, parity 61.0 s, together 64.0 s" in shown
    assert "together" not in text(artifact_table(manifest(), {}))


def test_bench():
    rows = tuple(
        Row(name, batch, 100, 4.0 * batch, 5.0, 6.0, 7.0, 250.0, speed)
        for batch in (1, 8)
        for name, speed in (("eager", 1.0), ("[onnx]", 2.5))
    )
    shown = text(bench_table(BenchReport(rows, {"g.plan": "no GPU"}, {"cores": "2"}, "eager")))
    assert row(shown, "8")[:4] == ["8", "eager", "250.0", "32.00"]
    assert "[onnx]" in shown
    assert "2.50×" in shown
    assert "not run: g.plan: no GPU" in shown
    assert "speed-up is against eager" in shown
    assert "cores: 2" in shown


@pytest.mark.parametrize(("share", "word"), [(0.9, "reached"), (0.8999, "MISSED"), (math.nan, "MISSED")])
def test_quality(share, word):
    shown = text(quality_table(quality(share)))
    assert row(shown, "recognised as their class")[2:] == ["goal ≥ 90 %", word]
    assert row(shown, "classifier Fréchet distance")[1:3] == ["3.21", "real against real 0.45"]
    assert row(shown, "classifier accuracy, body")[1] == "98.1 %"
    assert row(shown, "kinds of body per class")[1:3] == ["8.1", "real 9.7"]
    assert row(shown, "spread within a class")[1:3] == ["93 %", "of the real; least 81 %"]
