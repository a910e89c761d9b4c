"""Parity as JSON, for other programs and for keeping."""

from __future__ import annotations

import json
import math
from typing import Any

from sagan_deploy.parity.report import ParityReport


def to_json(report: ParityReport) -> str:
    """Indented JSON with a final newline.

    JSON has no NaN and no infinities: they become the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which
    Python's and JavaScript's number parsers read back. A null would not say which of them it was.
    """
    return json.dumps(_plain(report.to_dict()), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy number: measured values arrive as such
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
