"""JSON, JUnit, GitHub: read back by other programs than the ones that wrote them."""

import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from sagan_deploy.reports.folder import write_reports
from sagan_deploy.reports.github import annotation_lines, summary
from sagan_deploy.reports.json_report import to_json
from sagan_deploy.reports.junit import to_junit
from tests.reports.made_up import CLOSE, HOSTILE, NAN, SSIM, WRONG, hostile, leg, mixed, report
from tests.reports.made_up_evidence import full


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_round_trip():
    read = strict(to_json(mixed()))
    assert read["passed"] is False
    assert [found["status"] for found in read["legs"]] == ["passed", "failed", "not_run"]
    gate = read["legs"][1]["gates"][1]
    assert (gate["rule"], gate["value"], gate["limit"], gate["pixel"]) == ("image.codes", 19.0, 1.0, [2, 11, 30])
    assert gate["passed"] is False
    assert read["legs"][1]["fault"] == {"path": "stages.1.attention", "value": 0.031, "limit": 0.0042}
    assert "pictures" not in read["legs"][0]
    assert read["loosened"] == {"image.ssim": "the head dithers; agreed in review 12"}


def test_json_writes_what_is_no_number_as_a_string():
    infinite = dataclasses.replace(SSIM, value=math.inf)
    gates = strict(to_json(report(leg("failed", gates=(NAN, infinite)))))["legs"][0]["gates"]
    assert [gate["value"] for gate in gates] == ["NaN", "Infinity"]
    assert gates[0]["margin"] == "-Infinity"


def test_json_takes_numpy_numbers():
    gate = dataclasses.replace(CLOSE, value=np.float32(0.5), image=np.int64(3), limit=np.float64("nan"))
    read = strict(to_json(report(leg("failed", gates=(gate,)))))["legs"][0]["gates"][0]
    assert (read["value"], read["image"], read["limit"]) == (0.5, 3, "NaN")


def test_json_of_hostile_strings_round_trips():
    assert strict(to_json(hostile()))["legs"][0]["name"] == HOSTILE


def test_junit_has_a_suite_per_leg_and_a_test_per_gate():
    root = ET.fromstring(to_junit(mixed()))
    counts = [{key: suite.get(key) for key in ("name", "tests", "failures", "skipped")} for suite in root]
    assert counts == [
        {"name": "generator.fp16.onnx", "tests": "3", "failures": "0", "skipped": "0"},
        {"name": "generator.fp32.onnx", "tests": "3", "failures": "2", "skipped": "0"},
        {"name": "generator.fp16.plan", "tests": "1", "failures": "0", "skipped": "1"},
    ]
    assert {key: root.get(key) for key in ("tests", "failures", "skipped")} == {
        "tests": "7",
        "failures": "2",
        "skipped": "1",
    }
    names = [case.get("name") for case in root[0].iter("testcase")]
    assert names == ["hard.finite", "tensor.rel_l2", "image.ssim"]
    assert root[2].find("testcase/skipped").get("message") == "this machine has no NVIDIA GPU"


def test_junit_failures_say_value_limit_and_derivation():
    failure = ET.fromstring(to_junit(mixed())).find("testsuite/testcase[@name='image.codes']/failure")
    assert "19" in failure.get("message")
    for text in ("value: 19.0", "limit: ≤ 1", "derivation: one 8-bit code", "row 11", "stages.1.attention"):
        assert text in failure.text


def test_junit_tells_gates_of_one_rule_apart():
    twice = leg("failed", gates=(WRONG, dataclasses.replace(WRONG, case="batch 5")))
    names = [case.get("name") for case in ET.fromstring(to_junit(report(twice))).iter("testcase")]
    assert names == ["image.codes[batch 1]", "image.codes[batch 5]"]


def test_junit_counts_a_leg_that_failed_before_its_gates():
    root = ET.fromstring(to_junit(report(leg("failed", gates=(), reason="the file holds another generator"))))
    assert root.get("failures") == "1"
    assert root.find("testsuite/testcase/failure").get("message") == "the file holds another generator"


def test_junit_stays_well_formed():
    root = ET.fromstring(to_junit(hostile()))
    assert root[0].get("name").startswith("<script>alert('1')</script> & \"2\"")
    assert root[0].get("name").endswith("�")


def test_annotations_by_kind():
    lines = annotation_lines(mixed())
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::warning", "::notice"]
    assert lines[0].startswith("::error title=Parity%3A generator.fp32.onnx::image.codes is 19 at batch 1")
    assert lines[2] == "::warning title=Parity%3A generator.fp16.plan::not run: this machine has no NVIDIA GPU"
    assert annotation_lines(report(leg("passed"))) == []


def test_annotations_cannot_be_broken_out_of():
    for line in annotation_lines(hostile()):
        assert "\n" not in line
        assert "\r" not in line
        assert not re.search(r"%(?!25|0D|0A|3A|2C)", line)
        kind, properties, message = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", line, re.DOTALL).groups()
        decoded = message.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
        assert HOSTILE in decoded
        assert kind in ("error", "warning", "notice")
        assert properties.startswith("Parity%3A")


def cells(line):
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def test_summary_is_a_table_of_legs():
    text = summary(mixed())
    rows = [cells(line) for line in text.splitlines() if line.startswith("| generator")]
    assert text.startswith("## Parity FAILED: 1 passed, 1 FAILED, 1 not run")
    assert [row[2].strip() for row in rows] == ["passed", "FAILED", "not run"]
    assert rows[2][7].strip() == "this machine has no NVIDIA GPU"
    assert "agreed in review 12" in text
    assert "stages.1.attention" in text


def test_summary_says_where_it_begins_and_how_to_make_it_again():
    text = summary(full())
    assert "The worst: image.ssim is 0.981 at permuted, image 33" in text.replace("\\_", "_")
    assert "| stages.1.attention | 0.06 | 0.002 |" in text
    assert "stages.0.block" not in text  # keeps its budget
    assert "\n    sagan-deploy parity run/generator.safetensors bundle --seed 7" in text


def test_summary_cannot_be_broken_out_of():
    text = summary(dataclasses.replace(hostile(), command=HOSTILE))
    outside = [line for line in text.splitlines() if not line.startswith("    ")]  # of indented code
    assert not [line for line in outside if "<script>" in line]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(cells(line)) for line in tables} <= {2, 5, 8}
    assert not [line for line in text.splitlines() if line.startswith("::")]


def test_a_folder_holds_all_three(tmp_path):
    inside = leg("passed", path=str(tmp_path / "onnx" / "a.onnx"))
    paths = write_reports(tmp_path / "parity", report(inside))
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "parity/report.json",
        "parity/report.html",
        "parity/junit.xml",
    ]
    assert strict(paths[0].read_text())["legs"][0]["path"] == "onnx/a.onnx"
    ET.parse(paths[2])
    for path in paths:
        assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize("format_", [to_json, to_junit, summary])
def test_equal_reports_give_equal_text(format_):
    assert format_(mixed()) == format_(mixed())
