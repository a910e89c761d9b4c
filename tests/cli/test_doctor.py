"""`sagan-deploy doctor`."""

import json

import pytest

from sagan_deploy import doctor
from sagan_deploy.doctor import Ability, Diagnosis, Finding

GOOD = Finding("torch", "ok", "2.13")
MISSING = Finding("tensorrt", "missing", "not installed", "pip install 'sagan-deploy[tensorrt]'")
BROKEN = Finding("onnxruntime", "problem", "two over each other", "pip uninstall")
ABLE = (Ability("export", True, ()), Ability("build --flavour tensorrt", False, ("tensorrt", "GPU")))


@pytest.mark.parametrize(("findings", "code"), [((GOOD, MISSING), 0), ((GOOD, BROKEN), 1)])
def test_exit_code(program, monkeypatch, findings, code):
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis(findings, ABLE))
    outcome = program("doctor", "--json")
    assert outcome.code == code
    found = json.loads(outcome.out)
    assert found["healthy"] == (code == 0)
    assert found["findings"][0] == {"name": "torch", "status": "ok", "detail": "2.13", "fix": ""}
    assert found["abilities"][1]["lacks"] == ["tensorrt", "GPU"]


def test_tables(program, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis((GOOD, MISSING), ABLE))
    outcome = program("doctor")
    assert "pip install 'sagan-deploy[tensorrt]'" in outcome.out
    assert "tensorrt, GPU" in outcome.out
