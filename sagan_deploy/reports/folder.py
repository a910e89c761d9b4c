"""The files of a parity report, together in one folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from sagan_deploy.files import write_bytes, write_text
from sagan_deploy.parity.report import ParityReport
from sagan_deploy.reports.html import parity_page
from sagan_deploy.reports.json_report import to_json
from sagan_deploy.reports.junit import to_junit
from sagan_deploy.reports.words import without_folder

MARKER = "report.json"
ARRAYS = "arrays.npz"


def write_reports(folder: Path, report: ParityReport) -> list[Path]:
    """Write ``report.json``, ``report.html`` and ``junit.xml``, and ``arrays.npz`` where the report keeps its images.

    Files that lie beside `folder` or below are named relative to its parent: in a bundle these are the paths of the
    manifest, and no path of the machine that made it.

    Returns:
        The paths of what was written.

    Raises:
        InputError: the folder cannot be written.
        MissingError: jinja2 is not installed.
    """
    report = without_folder(report, folder.parent.as_posix())
    texts = {MARKER: to_json(report), "report.html": parity_page(report), "junit.xml": to_junit(report)}
    written = [write_text(folder / name, text) for name, text in texts.items()]
    if report.arrays:
        stream = io.BytesIO()
        np.savez_compressed(stream, **report.arrays)  # type: ignore[arg-type]  # of another keyword
        written.append(write_bytes(folder / ARRAYS, stream.getvalue()))
    return written
