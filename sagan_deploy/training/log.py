"""The numbers of a run, one line at a time, so that a run can be watched while it goes: CSV, and JSON lines for all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes, write_text

LOG_NAME = "log.csv"
JSON_LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class LogRow:
    """One line: state after `step` steps. `images` counts real images per second since the line before."""

    step: int
    discriminator_loss: float
    generator_loss: float
    real_score: float
    fake_score: float
    rate_factor: float
    images_per_second: float


class CsvLog:
    """Appends rows to a file; opened for a resumed run, it first drops the lines that the run will write again."""

    def __init__(self, path: Path, *, resume_at: int) -> None:
        self.path = path
        kept = _rows_until(path, resume_at) if resume_at and path.exists() else []
        write_text(path, _csv([list(LogRow.__dataclass_fields__), *kept]))

    def write(self, row: LogRow) -> None:
        """Append one row. A kill can cost the last line, never an older one."""
        values = [value if isinstance(value, int) else f"{value:.6g}" for value in vars(row).values()]
        _append(self.path, _csv([values]))


class JsonLog:
    """One JSON object per line: ``{"event": "step", "step": 50, …}``; numbers that are not finite are null."""

    def __init__(self, path: Path, *, resume_at: int) -> None:
        self.path = path
        kept = _events_until(path, resume_at) if resume_at and path.exists() else []
        write_text(path, "".join(line + "\n" for line in kept))

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one event."""
        finite = {name: _finite(value) for name, value in values.items()}
        _append(self.path, json.dumps({"event": event, "step": step, **finite}) + "\n")


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Make room and go on with --resume."
        ) from error


def _events_until(path: Path, step: int) -> list[str]:
    kept = []
    for line in read_bytes(path).decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a kill can leave half of the last line
            if json.loads(line)["step"] <= step:
                kept.append(line)
    return kept


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _rows_until(path: Path, step: int) -> list[list[str]]:
    rows = list(csv.reader(read_bytes(path).decode(errors="replace").splitlines()))[1:]
    width = len(LogRow.__dataclass_fields__)
    return [row for row in rows if len(row) == width and row[0].isdigit() and int(row[0]) <= step]


def _csv(rows: list[list[str]] | list[list[str | int]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
