"""`sagan-deploy parity`: what it says and how it exits, with a made-up judge; tests/parity tries the real one."""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET

import pytest

import sagan_deploy.checkpoints.native
import sagan_deploy.parity.compare
from sagan_deploy.errors import InputError
from sagan_deploy.parity.policy import Policy
from sagan_deploy.parity.report import Gate
from tests.reports.made_up import CLOSE, leg, mixed, report
from tests.reports.made_up_evidence import bad_leg, full, ranges

GOOD, PARTLY = report(leg("passed")), report(leg("passed"), leg("not_run"))
STRANGER = Gate("hard.checkpoint", 1.0, 0.0, "the file says that it comes from this checkpoint, by hash")
WRONG = dataclasses.replace(bad_leg(), ranges=ranges())  # in a format that is wide enough
NOTHING = report(leg("not_run"))


@pytest.fixture(autouse=True)
def outside_of_github(monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def judged(monkeypatch):
    """Let the judge find a report; what it was asked is returned."""
    asked = {}

    def decide(found):
        def judge(checkpoint, paths, policy, *, progress, **options):
            asked.update(checkpoint=checkpoint, paths=list(paths), policy=policy, **options)
            return found

        monkeypatch.setattr(sagan_deploy.checkpoints.native, "load_checkpoint", lambda path: f"read {path}")
        monkeypatch.setattr(sagan_deploy.parity.compare, "judge", judge)
        return asked

    return decide


def test_a_pass(program, judged):
    asked = judged(GOOD)
    outcome = program("parity", "g.safetensors", "a.onnx", "b.plan", "--seed", 7, "--count", 9)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Parity passed: 1 passed" in outcome.out
    assert asked["checkpoint"] == "read g.safetensors"
    assert [path.name for path in asked["paths"]] == ["a.onnx", "b.plan"]
    assert (asked["seed"], asked["count"], asked["policy"]) == (7, 9, Policy())


def test_a_failure_exits_with_1_and_one_line(program, judged):
    judged(mixed())
    outcome = program("parity", "g.safetensors", "a.onnx")
    assert outcome.code == 1
    assert outcome.err == "sagan-deploy: parity failed for generator.fp32.onnx\n"
    assert "stages.1.attention" in outcome.out


@pytest.mark.parametrize(
    ("found", "flags", "line"),
    [
        (GOOD, (), "next: sagan-deploy deploy g.safetensors --out bundle"),
        (PARTLY, (), "next: the same command where the rest can run; --require-all exits with 3 until it does"),
        (mixed(), (), "next: sagan-deploy parity g.safetensors a.onnx --report parity"),
        (mixed(), ("--report", "out here"), "next: open 'out here/report.html'"),
        (
            full(),
            (),
            "next: sagan-deploy export g.safetensors --out mixed.onnx --precision mixed",
        ),
        (full(WRONG), (), "next: sagan-deploy parity g.safetensors a.onnx --report parity"),
        (
            full(WRONG, yardstick={"fp16": {"tensor.rel_l2": math.nan}}),
            (),
            "next: sagan-deploy export g.safetensors --out mixed.onnx --precision mixed",
        ),
        (report(leg("failed", gates=(STRANGER,))), (), "next: export generator.fp32.onnx from this checkpoint, or"),
    ],
)
def test_it_says_what_to_do_next(program, judged, tmp_path, monkeypatch, found, flags, line):
    monkeypatch.chdir(tmp_path)
    judged(found)
    assert [text for text in program("parity", "g.safetensors", "a.onnx", *flags).out.splitlines() if line in text]


def test_the_next_command_is_never_folded(program, judged):
    judged(GOOD)
    name = "x" * 300 + ".safetensors"
    assert f"next: sagan-deploy deploy {name} --out bundle\n" in program("parity", name, "a.onnx").out


def test_the_command_that_makes_it_again_is_written_down(program, judged, tmp_path):
    judged(GOOD)
    out = tmp_path / "r 1"
    program("parity", "g.safetensors", "a.onnx", "--report", out, "--count", 9, "--seed", 7, "--quiet")
    command = json.loads((out / "report.json").read_text())["command"]
    assert command == f"sagan-deploy parity g.safetensors a.onnx --seed 7 --count 9 --report '{out}'"
    read = json.loads(program("parity", "g.safetensors", "a.onnx", "--json").out)
    assert read["command"] == "sagan-deploy parity g.safetensors a.onnx --seed 0"


def test_failing_fast_and_keeping_images_are_handed_on(program, judged, tmp_path):
    asked = judged(GOOD)
    program("parity", "g.safetensors", "a.onnx")
    assert (asked["fail_fast"], asked["keep_images"]) == (False, False)
    program("parity", "g.safetensors", "a.onnx", "--fail-fast", "--report", tmp_path / "r")
    assert (asked["fail_fast"], asked["keep_images"]) == (True, True)


def used(value):
    """A report whose one file uses so much of its limit."""
    return report(leg("passed", gates=(dataclasses.replace(CLOSE, value=value * CLOSE.limit),)))


@pytest.mark.parametrize(("now", "allowed", "code"), [(0.5, 0.1, 0), (0.62, 0.1, 1), (0.62, 0.2, 0), (0.1, 0.0, 0)])
def test_a_value_that_came_closer_to_its_limit(program, judged, tmp_path, monkeypatch, now, allowed, code):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    saved = tmp_path / "baseline.json"
    judged(used(0.5))
    assert program("parity", "g.safetensors", "a.onnx", "--save-baseline", saved, "--quiet").code == 0
    judged(used(now))
    outcome = program(
        "parity", "g.safetensors", "a.onnx", "--against-baseline", saved, "--max-regression", allowed, "--quiet"
    )
    assert outcome.code == code
    words = f"generator.fp16.onnx got worse since {saved}: tensor.rel_l2 was 0.00475 and is"
    assert (words in outcome.err, f"::error title=Parity%3A generator.fp16.onnx::{words}" in outcome.out) == (
        code,
        code,
    )
    summary = (tmp_path / "summary.md").read_text()
    assert ("Nothing got worse since" in summary) == (code == 0)
    assert ("WORSE" in outcome.out, "as good" in outcome.out) == (bool(code), not code)


def test_a_baseline_that_is_not_there_is_said_before_any_work(program, judged, tmp_path):
    asked = judged(GOOD)
    outcome = program("parity", "g.safetensors", "a.onnx", "--against-baseline", tmp_path / "none.json")
    assert (outcome.code, asked) == (4, {})
    assert "none.json" in outcome.err


def test_rules_can_be_listed_without_any_file(program):
    outcome = program("parity", "--list-rules")
    assert outcome.code == 0
    assert "tensor.rel_l2" in outcome.out
    assert "hard.checkpoint" in outcome.out


@pytest.mark.parametrize(
    ("found", "flags", "code"), [(PARTLY, (), 0), (PARTLY, ("--require-all",), 3), (NOTHING, (), 3)]
)
def test_what_was_not_run(program, judged, found, flags, code):
    judged(found)
    outcome = program("parity", "g.safetensors", "a.plan", *flags)
    assert outcome.code == code
    assert "not run" in outcome.out
    assert outcome.err.count("\n") == (code != 0)


def test_a_failure_outweighs_what_was_not_run(program, judged):
    judged(mixed())
    assert program("parity", "g.safetensors", "a.onnx", "--require-all").code == 1


def test_json_stands_alone_on_stdout(program, judged, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    judged(mixed())
    outcome = program("parity", "g.safetensors", "a.onnx", "--json")
    read = json.loads(outcome.out)
    assert read["legs"][1]["gates"][2]["value"] == "NaN"
    assert "::error title=" in outcome.err
    assert outcome.code == 1


def test_the_report_folder(program, judged, tmp_path):
    judged(mixed())
    out = tmp_path / "report"
    outcome = program("parity", "g.safetensors", "a.onnx", "--report", out)
    assert outcome.code == 1
    assert sorted(path.name for path in out.iterdir()) == ["junit.xml", "report.html", "report.json"]
    assert ET.parse(out / "junit.xml").getroot().get("failures") == "2"
    assert str(out) in outcome.err


def test_an_existing_folder_is_refused_before_any_work(program, judged, tmp_path):
    asked = judged(GOOD)
    out = tmp_path / "report"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert program("parity", "g.safetensors", "a.onnx", "--report", out).code == 4
    assert program("parity", "g.safetensors", "a.onnx", "--report", out, "--force").code == 4
    assert asked == {}
    (out / "report.json").write_text("{}")
    assert program("parity", "g.safetensors", "a.onnx", "--report", out, "--force").code == 0
    assert not (out / "mine.txt").exists()


def test_on_github(program, judged, tmp_path, monkeypatch):
    target = tmp_path / "summary.md"
    target.write_text("# an earlier step\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    judged(mixed())
    outcome = program("parity", "g.safetensors", "a.onnx")
    assert [line[:9] for line in outcome.out.splitlines() if line.startswith("::")] == [
        "::error t",
        "::error t",
        "::warning",
        "::notice ",
    ]
    assert target.read_text().startswith("# an earlier step\n## Parity FAILED")


def test_a_summary_that_cannot_be_written_changes_no_verdict(program, judged, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    judged(GOOD)
    outcome = program("parity", "g.safetensors", "a.onnx")
    assert outcome.code == 0
    assert "the summary could not be added" in outcome.err


def test_quiet(program, judged, tmp_path):
    judged(GOOD)
    assert program("parity", "g.safetensors", "a.onnx", "--quiet", "--report", tmp_path / "r").err == ""


def test_a_bad_checkpoint(program, judged, monkeypatch):
    judged(GOOD)

    def load(path):
        raise InputError(f"{path} is no checkpoint.")

    monkeypatch.setattr(sagan_deploy.checkpoints.native, "load_checkpoint", load)
    outcome = program("parity", "g.txt", "a.onnx")
    assert (outcome.code, outcome.out) == (4, "")
    assert outcome.err == "sagan-deploy: g.txt is no checkpoint.\n"


def test_help_shows_a_command(program):
    assert "Example: sagan-deploy parity generator.safetensors" in " ".join(program("parity", "--help").out.split())
