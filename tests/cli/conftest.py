"""The program in this process: its exit code and what it printed."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from sagan_deploy.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What one command came to."""

    code: int
    out: str
    err: str


class Program:
    """Called with a command's arguments, runs it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["sagan-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = self._capfd.readouterr()
        return Outcome(int(stop.value.code or 0), out, err)


@pytest.fixture
def program(monkeypatch, capfd):
    return Program(monkeypatch, capfd)
