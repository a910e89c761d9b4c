"""The files of a parity report, together in one folder."""

from __future__ import annotations

from pathlib import Path

from sagan_deploy.files import write_text
from sagan_deploy.parity.report import ParityReport
from sagan_deploy.reports.html import parity_page
from sagan_deploy.reports.json_report import to_json
from sagan_deploy.reports.junit import to_junit
from sagan_deploy.reports.words import without_folder

MARKER = "report.json"


def write_reports(folder: Path, report: ParityReport) -> list[Path]:
    """Write ``report.json``, ``report.html`` and ``junit.xml``.

    Files that lie beside `folder` or below are named relative to its parent: in a bundle these are the paths of the
    manifest, and no path of the machine that made it.

    Returns:
        The paths of the three.

    Raises:
        InputError: the folder cannot be written.
        MissingError: jinja2 is not installed.
    """
    report = without_folder(report, folder.parent.as_posix())
    texts = {MARKER: to_json(report), "report.html": parity_page(report), "junit.xml": to_junit(report)}
    return [write_text(folder / name, text) for name, text in texts.items()]
