"""ONNX files of the tests' networks: each exported once per run, whichever worker asks first.

An export of the smallest network costs seconds of torch's time, and most tests only need a file to begin with. Tests of
the export itself call `sagan_deploy.export.export_generator` and get their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from filelock import FileLock

from sagan_deploy.export import ExportedGenerator
from sagan_deploy.export import export_generator as export_now
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.progress import silent

folder: Path | None = None  # set by `tests/conftest.py` to one that belongs to this run and to all of its workers


def once(kind, parts, make):
    """What `make` returns, a dataclass with `payload` bytes and plain values, made once per run for equal `parts`."""
    assert folder is not None, "only tests share exports; a process that they start makes its own"
    place = folder / hashlib.sha256(repr((kind, parts)).encode()).hexdigest()
    facts, payload = place.with_suffix(".json"), place.with_suffix(".onnx")
    with FileLock(place.with_suffix(".lock")):
        if not facts.exists():
            made = make()
            values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
            payload.write_bytes(values.pop("payload"))
            facts.write_text(json.dumps(values))  # last: its presence says that both are whole
        return kind(payload=payload.read_bytes(), **json.loads(facts.read_text()))


def export_once(checkpoint, options=None, *, progress=silent, **arguments):
    """`export_generator`, done once per run for equal checkpoints and arguments."""
    options = options or InferenceOptions()
    parts = (_identity(checkpoint), options, sorted(arguments.items()))
    return once(ExportedGenerator, parts, lambda: export_now(checkpoint, options, progress=progress, **arguments))


@contextlib.contextmanager
def shared():
    """Let everything that exports on its way to something else (`deploy`, `quantised`, commands) use `export_once`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("deploy", "quantisation", "export", "parity.islands"):
            patch.setattr(f"sagan_deploy.{module}.export_generator", export_once)
        yield


def _identity(checkpoint):
    """Everything that an export depends on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.numpy().tobytes())
    return checkpoint.config, checkpoint.class_names, checkpoint.provenance, checkpoint.sha256, digest.hexdigest()
