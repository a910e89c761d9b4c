"""How long work says where it stands: a callback, so that the library prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# progress(task, completed, total): called with a short task name, for example ("train", 120, 1500).
# `total` None means that the length is unknown; completed == total ends the task.
Progress: TypeAlias = Callable[[str, float, float | None], None]


def silent(task: str, completed: float, total: float | None) -> None:
    """The `Progress` that says nothing."""
