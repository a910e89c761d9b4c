"""Files that hold trained networks: our own format, and (one file each) those of public implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagan_deploy.checkpoints.importing import ImportedCheckpoint, ImportReport, import_checkpoint
    from sagan_deploy.checkpoints.native import Checkpoint, load_checkpoint, save_checkpoint

__all__ = [
    "Checkpoint",
    "ImportReport",
    "ImportedCheckpoint",
    "import_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    # Reading a header needs no torch, importing a checkpoint does: each is loaded when it is asked for.
    if name in ("Checkpoint", "load_checkpoint", "save_checkpoint"):
        from sagan_deploy.checkpoints import native

        return getattr(native, name)
    if name in __all__:
        from sagan_deploy.checkpoints import importing

        return getattr(importing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
