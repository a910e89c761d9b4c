"""TensorRT plans on a GPU, for both flavours of TensorRT through the names that all their versions share.

One engine, shared; one `Session` (context, stream, buffers) per thread that runs at the same time.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import Artifact, Manifest
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.runtime import cuda as cuda_module
from sagan_deploy.runtime.batches import parts
from sagan_deploy.runtime.contexts import Contexts, TensorRTError, TensorRTOptions
from sagan_deploy.runtime.contract import Contract, contract_of_artifact
from sagan_deploy.runtime.device import DeviceImages, View, stream_handle, view_of
from sagan_deploy.runtime.plan import PRODUCT, Flavour, Machine, preflight, rebuild_command
from sagan_deploy.runtime.refit import Source, nowhere, put_weights
from sagan_deploy.runtime.session import Session
from sagan_deploy.runtime.validity import check_validity

log = logging.getLogger(__name__)
T = TypeVar("T")

# A GPU gains little from more generators at once, and every context holds its own activation memory.
MAX_SESSIONS = 4


@functools.cache
def load_tensorrt(flavour: Flavour) -> ModuleType:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        MissingError: it is not installed, or its libraries are not.
    """
    module = "tensorrt_rtx" if flavour == "rtx" else "tensorrt"
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise MissingError(
            f"{PRODUCT[flavour]} cannot be imported here ({error}). Install it: pip install 'sagan-deploy[{flavour}]'"
        ) from error


@functools.cache
def recording_logger(trt: Any) -> Any:
    """The one logger of a TensorRT module: the first one made serves the whole process.

    It forwards to Python's logging and has ``records(…)``, a context manager that collects this thread's errors.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.sinks = threading.local()

        def log(self, severity: Any, msg: str) -> None:
            bad = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            log.log(logging.ERROR if bad else logging.DEBUG, "%s", msg)
            # Without a driver every mistake is logged twice; the second record only says that there is none.
            if bad and "catchCudaError" not in msg:
                getattr(self.sinks, "errors", []).append(msg)

        @contextlib.contextmanager
        def records(self) -> Iterator[list[str]]:
            outer, self.sinks.errors = getattr(self.sinks, "errors", []), []
            try:
                yield self.sinks.errors
            finally:
                self.sinks.errors = outer

    return Logger()


class TensorRTBackend:
    """A deserialised plan and the sessions that run it."""

    def __init__(
        self,
        trt: Any,
        cuda: Any,
        loaded: tuple[Any, Any],
        artifact: Artifact,
        contract: Contract,
        device: int,
        options: TensorRTOptions,
    ) -> None:
        if artifact.plan is None:
            raise InputError(f"{artifact.path} is no plan.")
        self.name = "tensorrt_rtx" if artifact.plan.flavour == "rtx" else "tensorrt"
        self.max_batch = artifact.plan.max_batch
        self._trt, self._cuda = trt, cuda
        self._runtime, self._engine = loaded
        self._contexts = Contexts(trt, self._engine, artifact.plan.flavour, options)
        self._plan, self._contract, self._device = artifact.plan, contract, device
        self._idle: list[Session] = []
        self._slots = threading.BoundedSemaphore(MAX_SESSIONS)
        self._lock = threading.Lock()
        self._closed = False

    def warm_up(self) -> None:
        """Make the first session, so that a plan which cannot run says so when it is loaded."""
        with self._session():
            pass

    def run(self, z: NDArray[Any], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        """Images for checked inputs; waits while all sessions are busy."""
        return self._with_session(Session.run, z, labels)

    def gpu_milliseconds(self, z: NDArray[Any], labels: NDArray[np.int64] | None) -> float:
        """The time of the GPU for checked inputs, see `RuntimeGenerator.gpu_milliseconds`."""
        return self._with_session(Session.gpu_milliseconds, z, labels)

    def _with_session(
        self, work: Callable[[Session, dict[str, Any]], T], z: NDArray[Any], labels: NDArray[np.int64] | None
    ) -> T:
        inputs = {"z": z} if labels is None else {"z": z, "labels": labels}
        with recording_logger(self._trt).records() as records, self._session() as session:
            try:
                return work(session, inputs)
            except TensorRTError as error:
                raise _refused(str(error), records) from error

    def run_on_device(self, z: Any, labels: Any, stream: Any) -> DeviceImages:
        """Images in device memory for inputs in device memory; see `RuntimeGenerator.on_device`."""
        given = {"z": z} if labels is None else {"z": z, "labels": labels}
        after = stream_handle(stream)
        with recording_logger(self._trt).records() as records, self._session() as session:
            try:
                views = self._views(given, session, after)
            except InputError as error:
                wrong = error  # of the caller's arrays: the session has done nothing and stays
            else:
                try:
                    images = self._draw_on_device(views, session, after)
                except TensorRTError as error:
                    raise _refused(str(error), records) from error
                if after is None:
                    session.stream.synchronize()
                else:
                    self._cuda.order(session.stream.handle, after)
                return images
        raise wrong

    def _views(self, given: dict[str, Any], session: Session, after: int | None) -> dict[str, View]:
        mine = session.stream.handle
        if after is not None:
            self._cuda.order(after, mine)
        views = {
            name: view_of(value, name, self._contract, self._cuda, self._device, mine) for name, value in given.items()
        }
        shapes = {name: view.shape[:1] for name, view in views.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"labels have shape {shapes['labels']}; z asks for {shapes['z']}.")
        return views

    def _draw_on_device(self, views: dict[str, View], session: Session, after: int | None) -> DeviceImages:
        count = views["z"].shape[0]
        images = DeviceImages(self._cuda, (count, *self._contract.image_shape), self._contract, self._device, after)
        for low, high in parts(count, self.max_batch):
            rows = {name: view.address + low * view.row_bytes for name, view in views.items()}
            session.run_on_device(rows, images.address + low * images.row_bytes, high - low)
        return images

    def close(self) -> None:
        """Free the idle sessions and drop the engine; a busy session is freed by the thread that uses it."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            contexts = self._contexts
        with contextlib.ExitStack() as stack:
            stack.callback(self._drop_engine)
            stack.callback(contexts.close)  # its cache needs the engine
            for session in idle:
                stack.callback(session.close)

    def _drop_engine(self) -> None:
        with self._lock:
            self._engine = None  # before the runtime that made it
            self._runtime = None

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        with self._slots:
            self._cuda.use_device(self._device)
            session = self._take()
            try:
                yield session
            except BaseException:
                # Its stream may hold half a batch: nobody should get that one again.
                with contextlib.suppress(MissingError):  # the first error says more than that of cleaning up
                    session.close()
                raise
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(session)
            if not keep:
                session.close()

    def _take(self) -> Session:
        with self._lock:
            if self._closed:
                raise InputError("this generator is closed; load it again.")
            if self._idle:
                return self._idle.pop()
            engine = self._engine
        logger = recording_logger(self._trt)
        with logger.records() as records:
            try:
                return Session(self._cuda, self._contexts, engine, self._plan, self._contract)
            except TensorRTError as error:
                raise _refused(str(error), records) from error


def open_plan(
    payload: bytes,
    name: str,
    manifest: Manifest,
    artifact: Artifact,
    *,
    device: int = 0,
    options: TensorRTOptions | None = None,
    onnx: Source = nowhere,
    trt: Any = None,
    cuda: Any = cuda_module,
) -> tuple[TensorRTBackend, Contract]:
    """Open a plan for running.

    Args:
        payload: the content of the file.
        name: the file, for messages.
        manifest: the bundle's, or the plan's sidecar.
        artifact: the entry of `manifest` for this plan.
        device: number of the CUDA device.
        options: CUDA graphs and runtime cache; None has neither.
        onnx: reads the ONNX model that a stripped plan gets its weights from.
        trt: the TensorRT module; None imports the flavour of the plan.
        cuda: the module `sagan_deploy.runtime.cuda` or one with the same names.

    Returns:
        The backend, and the arrays it takes and gives.

    Raises:
        InputError: the plan is damaged or does not fit this machine.
        MissingError: TensorRT, a driver or a GPU is missing, or the GPU refuses.
    """
    preflight(payload, name, manifest, artifact, _machine(trt, cuda, device, name))
    flavour: Flavour = "rtx" if artifact.plan is not None and artifact.plan.flavour == "rtx" else "tensorrt"
    contract = contract_of_artifact(manifest, artifact)
    module = trt or load_tensorrt(flavour)
    cuda.use_device(device)
    rebuild = rebuild_command(manifest, artifact)
    loaded = _deserialize(module, payload, name, rebuild)
    _check_engine(module, loaded[1], name, contract, rebuild)
    if artifact.plan is not None and artifact.plan.weights == "stripped":
        put_weights(module, recording_logger(module), loaded[1], name, onnx, rebuild)
    backend = TensorRTBackend(module, cuda, loaded, artifact, contract, device, options or TensorRTOptions())
    try:
        backend.warm_up()
    except BaseException:
        backend.close()
        raise
    return backend, contract


def _machine(trt: Any, cuda: Any, device: int, name: str) -> Machine:
    """What this machine offers, asked for in the order of the preflight."""

    def version(flavour: Flavour) -> str:
        return str((trt or load_tensorrt(flavour)).__version__)

    def capability() -> tuple[int, int]:
        if reason := cuda.unavailable():
            raise MissingError(f"{name} needs an NVIDIA GPU: {reason}.")
        if device >= cuda.device_count():
            raise MissingError(f"there is no CUDA device {device}; this machine has {cuda.device_count()}.")
        found: tuple[int, int] = cuda.compute_capability(device)
        return found

    return Machine(version, capability)


def _deserialize(trt: Any, payload: bytes, name: str, rebuild: str) -> tuple[Any, Any]:
    logger = recording_logger(trt)
    with logger.records() as records:
        runtime = trt.Runtime(logger)
        if hasattr(runtime, "get_engine_validity"):
            check_validity(trt, runtime, payload, name, rebuild)
        engine = runtime.deserialize_cuda_engine(payload)
    if engine is None:
        raise _refused(f"TensorRT cannot load {name}", records, rebuild)
    return runtime, engine


def _check_engine(trt: Any, engine: Any, name: str, contract: Contract, rebuild: str) -> None:
    dtypes = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "UINT8": "uint8"}
    found, expected = {}, {}
    for index in range(engine.num_io_tensors):
        key = engine.get_tensor_name(index)
        kind = "input" if engine.get_tensor_mode(key) == trt.TensorIOMode.INPUT else "output"
        dtype = engine.get_tensor_dtype(key).name
        found[key] = (kind, dtypes.get(dtype, dtype), tuple(engine.get_tensor_shape(key))[1:])
    for key in (*contract.input_names, "images"):
        expected[key] = ("output" if key == "images" else "input", contract.dtype(key).name, contract.shape(key))
    if found != expected:
        raise InputError(f"{name} has the inputs and outputs {found}; its manifest says {expected}. {rebuild}")


def _refused(what: str, records: list[str], advice: str = "") -> InputError:
    said = "; ".join(" ".join(record.split())[:200] for record in records[:3]) or "it gave no reason"
    return InputError(f"{what}: {said}. {advice}".rstrip())
