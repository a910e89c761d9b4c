"""Reports as single HTML pages that need nothing else: pictures and styles lie inside, there are no scripts."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.kernels import grouped
from sagan_deploy.images import encode_png
from sagan_deploy.optional import require
from sagan_deploy.parity.report import ParityReport
from sagan_deploy.reports import words
from sagan_deploy.reports.quality import quality_lines

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **context: Any) -> str:
    """A page as text.

    Args:
        template: its name in ``reports/templates``, for example ``"parity.html.j2"``.
        context: what the template names; a missing name is an error, every value is escaped.

    Raises:
        MissingError: jinja2 is not installed.
    """
    return _environment().get_template(template).render(**context)


def parity_page(report: ParityReport) -> str:
    """The parity report as a page."""
    return render("parity.html.j2", report=report)


def png_uri(picture: bytes | NDArray[np.uint8]) -> str:
    """A PNG file, or an image [h, w, 3] that becomes one, as a ``data:`` address."""
    payload = picture if isinstance(picture, bytes) else encode_png(picture)
    return "data:image/png;base64," + base64.b64encode(payload).decode("ascii")


def _environment() -> Environment:
    jinja2 = require("jinja2", "export")
    environment: Environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sagan_deploy.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "png": png_uri,
        "worst_gate": words.worst_gate,
        "quality_lines": quality_lines,
        "grouped": grouped,
    }
    shared = (
        words.given,
        words.headline,
        words.limit,
        words.made,
        words.margin,
        words.megabytes,
        words.number,
        words.percent,
        words.place,
        words.runs_with,
        words.seconds,
        words.used,
        words.verdict,
    )
    environment.filters.update(filters | {function.__name__: function for function in shared})
    return environment
