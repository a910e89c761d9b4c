"""ONNX models in ONNX Runtime, on the CPU or with CUDA."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import ConfigError, InputError, MissingError, SaganDeployError
from sagan_deploy.files import sha256
from sagan_deploy.optional import require
from sagan_deploy.runtime.contract import METADATA_PREFIX, Contract, contract_of_metadata
from sagan_deploy.runtime.heap import lean_heap
from sagan_deploy.runtime.ort_cache import open_cached

log = logging.getLogger(__name__)

# ONNX Runtime has no limit of its own; parts of this size keep the memory of a large request bounded.
_MAX_BATCH = 64
# On the CPU as many images at once as have this many pixels: 64 of 32×32, 4 of 128×128. More leave the processor's
# caches: 16 of 128×128 in parts of 4 take 466 MB instead of 1011 MB, and 0.85 to 0.97 of the time.
_CPU_PIXELS = 1 << 16

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}
_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True)
class CpuOptions:
    """How the CPU computes: `threads` inside one run, None leaves it to ONNX Runtime; the others as `load` says."""

    threads: int | None = None
    spin: bool = True
    runtime_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads (={self.threads}) must be at least 1")

    def apply(self, options: Any) -> None:
        """Set the session options."""
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if not self.spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A plan of the memory per shape gains no time here and keeps more: 455 MB instead of 361 MB after a batch of 4
        # of 128×128. Without the arena the same batch takes 1.25 times as long.
        options.enable_mem_pattern = False


class OnnxRuntimeBackend:
    """One session. ONNX Runtime's sessions may be run from many threads at once."""

    def __init__(self, session: Any, contract: Contract, device: int | None) -> None:
        self.name = "onnxruntime-cpu" if device is None else "onnxruntime-cuda"
        self.max_batch = _MAX_BATCH if device is not None else _cpu_batch(contract.config.image_size)
        self.session: Any = session
        self._conditional = contract.config.conditional
        self._lock = threading.Lock()

    def run(self, z: NDArray[Any], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        """Images for checked inputs."""
        session = self.session
        if session is None:
            raise InputError("this generator is closed; load it again.")
        feed = {"z": z, "labels": labels} if self._conditional else {"z": z}
        try:
            images: NDArray[Any] = session.run(_OUTPUTS, feed)[0]
        except Exception as error:  # its exceptions share no documented base
            raise MissingError(f"ONNX Runtime failed on a batch of {len(z)}: {_first_line(error)}") from error
        return images

    def close(self) -> None:
        """Release the session; runs in other threads finish on their own reference."""
        with self._lock:
            self.session = None


def _cpu_batch(image_size: int) -> int:
    return max(1, min(_MAX_BATCH, _CPU_PIXELS // image_size**2))


_OUTPUTS = ["images"]


def load_onnxruntime(device: int | None) -> Any:
    """The module ``onnxruntime``, able to use the device as far as can be told without a model.

    Raises:
        MissingError: it is not installed, or it is the package without CUDA.
    """
    ort = require("onnxruntime", "onnxruntime-gpu" if device is not None else "onnxruntime")
    if device is not None and "CUDAExecutionProvider" not in ort.get_available_providers():
        raise MissingError(
            "the installed onnxruntime has no CUDA provider. Replace it: "
            "pip uninstall onnxruntime; pip install 'sagan-deploy[onnxruntime-gpu]'"
        )
    if device is not None:
        _load_cuda(ort)
    return ort


@functools.cache
def _load_cuda(ort: Any) -> None:
    """Load the CUDA libraries that pip installed: they lie where the provider, which needs them, does not look."""
    if hasattr(ort, "preload_dlls"):  # from 1.21 on
        with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it misses; a session says it better
            ort.preload_dlls()
        log.debug("ONNX Runtime's preload_dlls: %s", said.getvalue().strip() or "done")


def open_onnx(
    model: bytes | Path,
    name: str,
    *,
    device: int | None = None,
    cpu: CpuOptions | None = None,
    model_sha256: str | None = None,
) -> tuple[OnnxRuntimeBackend, Contract]:
    """Open an ONNX model of this project.

    Args:
        model: the file, or its content. ONNX Runtime keeps content in memory beside what it makes of it (1.4 times
            the peak for 170 MB of weights), and of a file only that.
        name: the file, for messages.
        device: number of the CUDA device, None for the CPU.
        cpu: how the CPU computes.
        model_sha256: the SHA-256 of the file in hex digits, where it is known already.

    Returns:
        The backend, and what the model says of itself.

    Raises:
        MissingError: ONNX Runtime, or what it needs for the device, is missing.
        InputError: no ONNX model, or not one of this project.
    """
    ort = load_onnxruntime(device)
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    providers: list[Any] = ["CPUExecutionProvider"]
    cpu = cpu or CpuOptions()
    if device is None:
        cpu.apply(options)
    else:
        # Without this a session that cannot use CUDA runs on the CPU and only a log line tells.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.log_severity_level = _LOG_ERRORS_ONLY + 1
        # TF32 rounds to 10 bits inside an fp32 model: that is not what was held against PyTorch.
        providers = [("CUDAExecutionProvider", {"device_id": str(device), "use_tf32": "0"})]
    try:
        with lean_heap(len(model) if isinstance(model, bytes) else model.stat().st_size):
            if device is None and cpu.runtime_cache is not None and isinstance(model, Path):
                session = open_cached(ort, options, model, model_sha256 or sha256(model), cpu.runtime_cache)
            else:
                session = ort.InferenceSession(model, options, providers=providers)
    except SaganDeployError:
        raise
    except Exception as error:  # its exceptions share no documented base
        line = _first_line(error)
        if isinstance(model, Path):
            line = line.replace(str(model), name)
        raise _open_error(error, line, name, device) from error
    if device is not None and session.get_providers()[0] != "CUDAExecutionProvider":
        raise MissingError(
            f"ONNX Runtime did not take CUDA for {name}; it offers {session.get_providers()}. Where the libraries of "
            "CUDA are not installed: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    contract = _check_session(session, name)
    return OnnxRuntimeBackend(session, contract, device), contract


def _open_error(error: Exception, line: str, name: str, device: int | None) -> Exception:
    kind = type(error).__name__
    if kind in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoModel"):
        return InputError(f"{name} is no ONNX model that ONNX Runtime can read ({line}). Export it again.")
    if device is not None:
        if lacking := re.search(r"Provider type for (\w+)", line):  # its own words are of its source code
            return MissingError(
                f"ONNX Runtime has no CUDA kernel of {lacking[1]} for the types in {name}, which bf16 models meet: "
                "export fp16 or fp32 for it; TensorRT runs bf16."
            )
        return MissingError(f"ONNX Runtime cannot run {name} on CUDA device {device}: {line}")
    if kind == "NotImplemented":
        return MissingError(f"ONNX Runtime cannot run {name} on the CPU: {line}")
    return InputError(f"ONNX Runtime refuses {name}: {line}")


def _check_session(session: Any, name: str) -> Contract:
    arrays = {item.name: item for item in (*session.get_inputs(), *session.get_outputs())}
    types = {key: _TYPES.get(item.type, item.type) for key, item in arrays.items()}
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_PREFIX + "config" in metadata and ("z" not in types or "images" not in types):
        raise InputError(f"{name} has the inputs and outputs {', '.join(types)}; z and images are expected.")
    floats = ("float32", "float16")
    z_dtype = np.dtype(types["z"] if types.get("z") in floats else "float32")
    image_dtype = np.dtype(types["images"] if types.get("images") in (*floats, "uint8") else "float32")
    contract = contract_of_metadata(metadata, z_dtype, image_dtype, name)
    inputs = tuple(item.name for item in session.get_inputs())
    outputs = tuple(item.name for item in session.get_outputs())
    if inputs != contract.input_names or outputs != ("images",):
        raise InputError(
            f"{name} maps {inputs} to {outputs}; its config asks for {contract.input_names} to ('images',)."
        )
    for key, item in arrays.items():
        # A dimension that torch computes from the batch has a name of its own, so only numbers are compared.
        found, expected = tuple(item.shape), contract.shape(key)
        known = len(found) == len(expected) + 1 and all(
            not isinstance(a, int) or a == b for a, b in zip(found[1:], expected, strict=True)
        )
        if not known or isinstance(found[0], int) or types[key] != contract.dtype(key).name:
            raise InputError(
                f"{name} has {key} as {types[key]} {found}; its config asks for {contract.dtype(key).name} "
                f"{('n', *expected)} with a batch n that is free."
            )
    if (contract.output == "uint8") != (image_dtype == np.uint8):
        raise InputError(f"{name} writes {image_dtype} images, but its metadata says {contract.output}.")
    return contract


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
