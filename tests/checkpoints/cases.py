"""The fixtures: files written by the public classes, the options that their users know, and what they drew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
# These belong to a sibling's checkpoint, read with other settings.
_SAME_CHECKPOINT = {
    "studiogan_stored_uv": "studiogan",
    "hf_biggan_deep_t0p35": "hf_biggan_deep",
    "hf_biggan_deep_t0p4": "hf_biggan_deep",
}
NAMES = sorted(case.parent.name for case in FIXTURES.glob("*/case.json"))


@dataclass(frozen=True)
class Fixture:
    """One case: whose it is, its files, what a user says, and the .npz of z, labels and images."""

    origin: str
    files: tuple[Path, ...]
    settings: dict[str, Any]
    examples: Path


def fixture(name: str) -> Fixture:
    """The fixture of that name."""
    case = json.loads((FIXTURES / name / "case.json").read_text())
    folder = FIXTURES / _SAME_CHECKPOINT.get(name, name)
    files = tuple(folder / file for file in case["files"])
    return Fixture(case["from"], files, case["set"], FIXTURES / name / "io.npz")
