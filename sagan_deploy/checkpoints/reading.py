"""Files of other people, opened without running anything in them.

PyTorch files are pickles, and unpickling runs what the file says. Only tensors and plain containers are read here
(`weights_only`), plus the activation modules that one origin keeps among its options.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sagan_deploy.checkpoints.native import HEADER_KEY, load_checkpoint
from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes, sha256_bytes
from sagan_deploy.filetypes import PLAN_MAGIC
from sagan_deploy.optional import require

ALLOWED_MODULES = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU)  # plain settings in the shape of a module

_PICKLES = 5  # the old format is a row of them: a mark, a version, the machine, the content, the names of its arrays


@dataclass(frozen=True)
class OpenedFile:
    """A file's content: plain values and tensors, or a `Checkpoint` of this project; `path` is as the user gave it."""

    path: Path
    sha256: str
    content: Any


def open_file(path: Path) -> OpenedFile:
    """Read a .pth/.pt/.bin of PyTorch, a .safetensors, or a .json.

    Raises:
        InputError: it does not exist, is of another kind, damaged, or needs objects to be unpickled.
    """
    if path.is_dir():
        names = ", ".join(sorted(p.name for p in path.iterdir() if p.suffix in (".pth", ".pt", ".bin"))) or "none"
        raise InputError(f"{path} is a folder. Give the generator's file; weight files in it: {names}.")
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    payload = read_bytes(path)
    return OpenedFile(path, sha256_bytes(payload), _content(path, payload))


def _content(path: Path, payload: bytes) -> Any:
    head = payload[:64].lstrip()
    if payload[8:9] == b"{" and 2 <= int.from_bytes(payload[:8], "little") < 2**32:
        return _safetensors(path, payload)
    if head[:1] == b"{":
        return _json(path, payload)
    _refuse_other_kinds(path, payload, head)
    return _torch(path, payload)


def _safetensors(path: Path, payload: bytes) -> Any:
    safetensors = require("safetensors.torch", "export")
    try:
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        if HEADER_KEY in header.get("__metadata__", {}):
            return load_checkpoint(path)
        return safetensors.load(payload)
    except InputError:
        raise
    except Exception as error:  # the library's errors share no base that is documented
        raise InputError(f"{path} is not a whole safetensors file ({error}). Copy it again.") from error


def _json(path: Path, payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError as error:
        raise InputError(f"{path} begins like JSON and is none ({error}).") from error


def _torch(path: Path, payload: bytes) -> Any:
    try:
        # The reader warns of pickles that torch did not write; what it then cannot read becomes one line below.
        with torch.serialization.safe_globals(list(ALLOWED_MODULES)), warnings.catch_warnings(action="ignore"):
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", str(error))
        raise InputError(_refusal(path, payload, found[1] or found[2] if found else "")) from error
    except Exception as error:
        # Any damage surfaces as one of many types: RuntimeError, EOFError, KeyError, struct.error ...
        first = str(error).strip().splitlines()
        raise InputError(
            f"{path} is damaged or incomplete: PyTorch stops with {type(error).__name__}"
            f"{': ' + first[0][:160] if first else ''}. Download or copy it again."
        ) from error


def _refusal(path: Path, payload: bytes, name: str) -> str:
    """What is in the way, and the two lines that write a file without it."""
    what = f"Python objects ({name})" if name else "more than tensors and plain values, or is damaged"
    return (
        f"{path} holds {what}. Reading those would run code from the file, so it is refused. If you trust it, convert "
        "it where it was made:\n"
        # Quoted as text: a file's name must not become code in lines that people copy.
        f'    import torch; c = torch.load({json.dumps(path.name)}, map_location="cpu", weights_only=False)\n'
        f"    torch.save({_weights_inside(payload)}, {json.dumps(path.stem + '_weights.pth')})"
    )


def _weights_inside(payload: bytes) -> str:
    """An expression for the generator's weights in an object `c`, guessed from the words in the file."""
    words = _words(_pickle(payload))
    for name in ("G_state_dict", "model_state_dict", "state_dict"):
        if name in words:
            return f'c["{name}"]'
    return 'c["G"].state_dict()' if "G" in words else "c if isinstance(c, dict) else c.state_dict()"


def _words(code: bytes) -> set[str]:
    """The strings in a pickle, read as data: nothing of it is carried out."""
    words: set[str] = set()
    stream = io.BytesIO(code)
    with contextlib.suppress(ValueError):  # the end, or the rest of a damaged one
        for _ in range(_PICKLES):
            words.update(argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str))
    return words


def _pickle(payload: bytes) -> bytes:
    if not payload.startswith(b"PK\x03\x04"):
        return payload[:1_000_000]
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as stream:
                return stream.read(1_000_000)
    except (zipfile.BadZipFile, StopIteration, OSError, NotImplementedError):
        return b""


def _refuse_other_kinds(path: Path, payload: bytes, head: bytes) -> None:
    """One line for what people give by mistake."""
    wanted = "Give a checkpoint as the original code wrote it (.pth, .pt, .bin), or its weights as .safetensors."
    lower = head.lower()
    found = None
    if not payload:
        found = "is empty"
    elif lower.startswith((b"<!doctype", b"<html")):
        found = "is a web page, probably the download page instead of the file"
    elif head.startswith(b"version https://git-lfs"):
        found = "is a Git LFS pointer; run: git lfs pull"
    elif payload[:4] in PLAN_MAGIC:
        found = "is a TensorRT plan"
    elif payload[:4] == b"\x89HDF":
        found = "is an HDF5 file (Keras or TF-Hub weights?)"
    elif payload[:2] == b"\x1f\x8b" or payload[257:262] == b"ustar":
        found = "is a compressed or tar archive; unpack it first"
    elif payload.startswith(b"PK"):
        found = _wrong_zip(payload)
    elif payload[:1] != b"\x80":
        found = f"is no PyTorch file (its first bytes are {payload[:4]!r})"
    if found:
        raise InputError(f"{path} {found}. {wanted}")


def _wrong_zip(payload: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is an incomplete PyTorch file: its end is missing. Download or copy it again"
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript program; its weights are not under the original's names"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz)"
    return f"is a zip archive with {', '.join(names[:3]) or 'nothing'} in it, not one that torch.save writes"
