"""Reports as single HTML pages that need nothing else: pictures, styles and one small script lie inside.

The page's content security policy allows that script alone, by its hash, and no address but those inside the page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.kernels import grouped
from sagan_deploy.images import encode_png
from sagan_deploy.optional import require
from sagan_deploy.parity.report import ParityReport
from sagan_deploy.reports import overview, scales, words
from sagan_deploy.reports.charts import leg_charts
from sagan_deploy.reports.quality import quality_lines
from sagan_deploy.reports.rules import meaning

if TYPE_CHECKING:
    from jinja2 import Environment

    from sagan_deploy.bench.report import BenchReport


_SCRIPT = "templates/script.js"


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


def bench_page(report: BenchReport) -> str:
    """A benchmark as a page with a bar per contender."""
    return render("bench.html.j2", report=report)


def png_uri(picture: bytes | NDArray[np.uint8]) -> str:
    """A PNG file, or an image [h, w, 3] that becomes one, as a ``data:`` address."""
    payload = picture if isinstance(picture, bytes) else encode_png(picture)
    return "data:image/png;base64," + base64.b64encode(payload).decode("ascii")


def integrity(script: str) -> str:
    """The hash by which a content security policy knows an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _environment() -> Environment:
    jinja2, markupsafe = require("jinja2", "export"), require("markupsafe", "export")
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
        "zip": zip,
    }
    shared = (
        integrity,
        leg_charts,
        meaning,
        overview.step_facts,
        overview.tiles,
        overview.verdict_lines,
        scales.headroom,
        scales.markers,
        scales.ranked,
        scales.stage_meters,
        words.bits,
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
        words.share,
        words.used,
        words.verdict,
    )
    environment.filters.update(filters | {function.__name__: function for function in shared})
    # Our own file, and the one thing in a page that is not escaped.
    environment.globals["script"] = markupsafe.Markup(
        files("sagan_deploy.reports").joinpath(_SCRIPT).read_text("utf-8")
    )
    return environment
