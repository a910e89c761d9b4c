"""What a path holds, judged by its content: names can be wrong, the first bytes are not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sagan_deploy.errors import InputError

FileType = Literal["bundle", "checkpoint", "onnx", "plan"]

PLAN_MAGIC = {b"vtrt": "rtx", b"ftrt": "tensorrt"}
_KNOWN = "a bundle, an .onnx, a TensorRT .plan or a .safetensors checkpoint"


def detect(path: Path | str) -> FileType:
    """Which of the files of this project `path` is.

    Raises:
        InputError: it does not exist, cannot be read or is something else.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "manifest.json").is_file():
            raise InputError(f"{path} is a folder without manifest.json, so it is no bundle. Expected {_KNOWN}.")
        return "bundle"
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    if head[:4] in PLAN_MAGIC:
        return "plan"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**32:
        return "checkpoint"
    # Protocol buffers are written in the order of their fields: an ONNX model begins with its small IR version.
    if len(head) == 16 and head[0] == 0x08 and 1 <= head[1] < 0x80 and head[2] in (0x12, 0x22, 0x2A, 0x32, 0x3A, 0x42):
        return "onnx"
    raise InputError(f"{path} is {_guess(head)}. Expected {_KNOWN}.")


def _guess(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[:4] == b"PK\x03\x04" or head[:2] in (b"\x80\x02", b"\x80\x04"):
        return "a zip archive or a pickle (a PyTorch .pth, perhaps), which is not opened here"
    return f"of no known type (its first bytes are {head[:4]!r})"
