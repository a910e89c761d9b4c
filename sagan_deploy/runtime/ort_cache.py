"""The runtime cache of ONNX Runtime on the CPU: the model as it was laid out for this processor, kept for later starts.

Opening a model, ONNX Runtime folds constants and lays the weights of convolutions out in blocks as wide as the
processor's registers. That takes most of the time and half of the memory of opening, and is the same at every start:
from the cache ONNX Runtime opens a file of 208 MB in 0.32 s of CPU time instead of 0.83 s (the hash of the cache takes
0.2 s more), and a process that draws one image peaks at 307 MB instead of 442 MB. The images are the same to the last
bit.

The cache is the ONNX file that ONNX Runtime writes, ended by a seal: a SHA-256 over the file and over all that it
depends on. One of another model, version or processor is made again; a file without a seal is not ours, and is left
alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from pathlib import Path
from typing import IO, Any

from sagan_deploy.errors import ConfigError
from sagan_deploy.files import held_open, path_of, replacing

log = logging.getLogger(__name__)

_FORMAT = 1  # another one makes other seals
_CHUNK = 1 << 20
# What tells processors apart in /proc/cpuinfo, on x86 and on ARM.
_FACTS = {"vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features"}


def open_cached(ort: Any, options: Any, model: Path, model_sha256: str, cache: Path) -> Any:
    """A session on the CPU: from the cache, or from the model and then kept there.

    A disk that refuses only costs a warning.

    Args:
        ort: the module ``onnxruntime``.
        options: its session options; their optimisation level is changed.
        model: the ONNX file.
        model_sha256: its SHA-256 in hex digits.
        cache: the file of the cache.

    Raises:
        ConfigError: `cache` is a file of another kind.
        Exception: what ONNX Runtime raises for a model that it cannot open.
    """
    facts = _facts(ort, model_sha256)
    session = _from_cache(ort, options, cache, facts)
    if session is not None:
        return session
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    try:
        with replacing(cache) as stream:
            options.optimized_model_filepath = stream.name
            session = _session(ort, options, model)
            size = stream.seek(0, os.SEEK_END)
            stream.write(_seal(_digest(stream, size, facts)))
    except Exception as error:  # ONNX Runtime's do not tell whether it read or wrote
        options.optimized_model_filepath = ""
        session = _session(ort, options, model)  # raises where it is the model's fault
        log.warning("the runtime cache was not kept: %s", error)
    return session


def _from_cache(ort: Any, options: Any, cache: Path, facts: bytes) -> Any:
    """A session from the cache, None where there is none of these facts."""
    if not cache.exists():
        return None
    with held_open(cache) as stream:
        size = max(0, stream.seek(0, os.SEEK_END) - _SEAL_BYTES)
        stream.seek(size)
        seal = stream.read()
        if not seal.startswith(_HEAD):
            raise ConfigError(
                f"runtime_cache (={cache}) holds something else, or the rest of a damaged cache, and is not replaced. "
                f"Name another file, or delete it."
            )
        if seal != _seal(_digest(stream, size, facts)):
            log.info("%s is of another model, ONNX Runtime or processor, or damaged; it is made again", cache)
            return None
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _session(ort, options, path_of(stream))
        except Exception as error:  # its exceptions share no documented base
            log.warning("%s cannot be opened (%s); it is made again", cache, error)
            return None


def _session(ort: Any, options: Any, model: Path) -> Any:
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _facts(ort: Any, model_sha256: str) -> bytes:
    """Everything that the layout depends on."""
    engine = ort.__version__, ort.get_build_info()
    machine = platform.system(), platform.machine(), _processor()
    return json.dumps([_FORMAT, model_sha256, engine, machine]).encode()


def _processor() -> str:
    """The kind of processor and what it can do."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.partition(":")[0].strip() in _FACTS)


def _digest(stream: IO[bytes], size: int, facts: bytes) -> str:
    """A SHA-256 over the facts and the first `size` bytes."""
    stream.seek(0)
    digest = hashlib.sha256(facts)
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


# A model may end with any of its fields (protocol buffers have no order), so the seal is an entry of its metadata:
# ModelProto.metadata_props (field 14) of key (1) and value (2), each with a length below 128.
_KEY = b"sagan_deploy.runtime_cache"
_HEAD = bytes([14 << 3 | 2, len(_KEY) + 4 + 64, 1 << 3 | 2, len(_KEY)]) + _KEY + bytes([2 << 3 | 2, 64])
_SEAL_BYTES = len(_HEAD) + 64


def _seal(digest: str) -> bytes:
    return _HEAD + digest.encode()
