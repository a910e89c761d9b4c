"""The numbers of a run as CSV, one line at a time, so that a run can be watched while it goes."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes, write_text

LOG_NAME = "log.csv"


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
        try:
            with self.path.open("a", newline="") as stream:
                stream.write(_csv([values]))
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}.") from error


def _rows_until(path: Path, step: int) -> list[list[str]]:
    rows = list(csv.reader(read_bytes(path).decode(errors="replace").splitlines()))[1:]
    width = len(LogRow.__dataclass_fields__)
    return [row for row in rows if len(row) == width and row[0].isdigit() and int(row[0]) <= step]


def _csv(rows: list[list[str]] | list[list[str | int]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
