"""Parity as JUnit XML, which every CI system shows as tests: a suite per leg, a test per gate."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from sagan_deploy.parity.report import Gate, Leg, ParityReport
from sagan_deploy.reports import words

# XML 1.0 has no way to write these characters, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: ParityReport) -> str:
    """XML text. The names of tests are the gates' rule ids, so that their history can be followed."""
    root = ET.Element("testsuites", name="sagan-deploy parity", time=f"{report.seconds:.3f}")
    for leg in report.legs:
        _add_suite(root, leg)
    for count in ("tests", "failures", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_suite(root: ET.Element, leg: Leg) -> None:
    suite = ET.SubElement(root, "testsuite", name=_clean(leg.name), time=f"{leg.seconds:.3f}")
    properties = ET.SubElement(suite, "properties")
    known = {"how": leg.how, "path": leg.path, "sha256": leg.sha256}
    for name, value in known.items():
        if value is not None:
            ET.SubElement(properties, "property", name=name, value=_clean(value))
    for gate in leg.gates:
        _add_gate(suite, leg, gate)
    if leg.status == "not_run":
        _add_case(suite, leg, "leg.run", ("skipped", leg.reason, ""))
    elif leg.status == "failed" and not leg.failed_gates:
        _add_case(suite, leg, "leg.run", ("failure", leg.reason or "the leg failed", ""))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))


def _add_gate(suite: ET.Element, leg: Leg, gate: Gate) -> None:
    several = sum(other.rule == gate.rule for other in leg.gates) > 1
    name = f"{gate.rule}[{gate.case}]" if several else gate.rule
    if gate.passed:
        _add_case(suite, leg, name, None)
        return
    lines = [f"value: {gate.value!r}", f"limit: {words.limit(gate)}", f"derivation: {gate.derivation}"]
    if words.place(gate):
        lines.append(f"worst: {words.place(gate)}")
    if leg.fault is not None:
        lines.append(words.stage(leg.fault))
    _add_case(suite, leg, name, ("failure", words.problem(gate), "\n".join(lines)))


def _add_case(suite: ET.Element, leg: Leg, name: str, outcome: tuple[str, str, str] | None) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(f"parity.{leg.name}"), name=_clean(name))
    if outcome is not None:
        tag, message, text = outcome
        ET.SubElement(case, tag, message=_clean(message)).text = _clean(text)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
