"""`tensorrt` and `tensorrt_rtx` behind one value: the module, what it can do, and the one logger it gets."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from exporters.errors import MissingBackend, SpecError
from exporters.targets import PRODUCT, Flavour

log = logging.getLogger(__name__)

MODULE: dict[Flavour, str] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
INSTALL: dict[Flavour, str] = {
    "rtx": "pip install tensorrt-rtx-cu13 cuda-bindings",
    "tensorrt": "pip install tensorrt cuda-bindings",
}
# Without a driver every mistake is logged a second time as a CUDA error; and TensorRT says that it uses the logger
# it was given first, which is also the one it is given here.
_NOISE = ("catchCudaError", "The logger passed into")


@dataclass(frozen=True)
class Caps:
    """What differs between flavours and versions, found by looking."""

    cc_targets: bool  # plans for other GPUs than the local one
    strong_typing_flag: bool  # precision has to be bound to the ONNX types by a flag; later versions know no other way


@dataclass(frozen=True)
class Record:
    """One message of TensorRT."""

    severity: Literal["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
    text: str

    @property
    def is_error(self) -> bool:
        """Whether it explains a failure."""
        return self.severity in ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True)
class Backend:
    """An imported TensorRT."""

    trt: Any
    flavour: Flavour
    version: str
    caps: Caps
    logger: Any  # a `trt.ILogger` with `capture()`

    @property
    def product(self) -> str:
        """Name and version for messages."""
        return f"{PRODUCT[self.flavour]} {self.version}"


def load_backend(flavour: Literal["auto", "tensorrt", "rtx"] = "auto") -> Backend:
    """Import a flavour of TensorRT; ``auto`` takes RTX, which builds anywhere, before the classic one.

    Raises:
        MissingBackend: it is not installed, or its libraries cannot be loaded.
    """
    if flavour not in ("auto", "rtx", "tensorrt"):
        raise SpecError(f"flavour (={flavour!r}) must be auto, rtx or tensorrt")
    if flavour != "auto":
        return _load(flavour)
    try:
        return _load("rtx")
    except MissingBackend as missing:
        try:
            return _load("tensorrt")
        except MissingBackend:
            raise missing from None


def installed(flavour: Flavour) -> bool:
    """Whether a flavour can be imported."""
    try:
        _load(flavour)
    except MissingBackend:
        return False
    return True


@functools.cache
def _load(flavour: Flavour) -> Backend:
    name = MODULE[flavour]
    try:
        trt = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingBackend(
            f"{PRODUCT[flavour]} is not installed ({error}). Install it with: {INSTALL[flavour]}"
        ) from error
    except (ImportError, OSError) as error:
        raise MissingBackend(
            f"{PRODUCT[flavour]} is installed without the libraries it loads ({error}). "
            f"Install them with: {INSTALL[flavour]}"
        ) from error
    return Backend(trt, flavour, trt.__version__, _caps(trt), _recording_logger(trt))


def _caps(trt: ModuleType) -> Caps:
    return Caps(
        cc_targets=hasattr(trt, "ComputeCapability") and hasattr(trt.IBuilderConfig, "set_compute_capability"),
        strong_typing_flag=hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
    )


def _recording_logger(trt: Any) -> Any:
    """The logger of a TensorRT module; there is one per process, as the first one given to TensorRT serves it all."""

    class RecordingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._sink: list[Record] | None = None
            self._one_at_a_time = threading.RLock()

        def log(self, severity: Any, msg: str) -> None:
            if any(noise in msg for noise in _NOISE):
                return
            record = Record(severity.name, msg)
            # Python's own level is always DEBUG: what matters of an error is raised, and nothing is printed.
            log.debug("%s: %s", record.severity, msg)
            if self._sink is not None:
                self._sink.append(record)

        @contextlib.contextmanager
        def capture(self) -> Iterator[list[Record]]:
            """Collect the records of this block. Blocks in other threads wait, so no record is somebody else's."""
            with self._one_at_a_time:
                outer, self._sink = self._sink, []
                try:
                    yield self._sink
                finally:
                    self._sink = outer

    return RecordingLogger()
