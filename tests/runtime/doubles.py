"""Doubles of CUDA and TensorRT that really compute: fake device memory, and an engine that runs the equation.

Every public name of the TensorRT doubles is checked against the inventories of the real modules (test_doubles.py).
`refuse` names calls that answer False or None; `calls` is the diary.
"""

from __future__ import annotations

import enum
import types
from typing import Any

import numpy as np

from sagan_deploy.errors import MissingError
from tests.tiny_models import SIZE, expected_images


class Cuda:
    """Stands in for the module `sagan_deploy.runtime.cuda`."""

    def __init__(self, capability=(8, 9), devices=1, fail=()):  # noqa: C901  (small classes around one memory)
        self.capability, self.devices, self.fail = capability, devices, set(fail)
        self.memory: dict[int, bytearray] = {}
        self.calls: list[str] = []
        self.live = 0
        self.next = 0x1000
        self.clock = 0.0  # milliseconds of the GPU: a copy takes one, a batch as many as it has rows
        self.recording: list[Any] | None = None  # what a capture has recorded so far
        outer = self

        class Owned:
            def __init__(self, size=0):
                outer.step(type(self).__name__)
                self.size, self.open = size, True
                self.address = self.handle = outer.next
                outer.next += 0x1000 + size
                outer.memory[self.address] = bytearray(b"\x7f" * size)  # fresh memory is never zero
                outer.live += 1

            def close(self):
                if self.open:
                    self.open = False
                    outer.live -= 1
                    del outer.memory[self.address]

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.close()

        class DeviceBuffer(Owned):
            pass

        class PinnedBuffer(Owned):
            def array(self, shape, dtype):
                return np.frombuffer(outer.memory[self.address], dtype, int(np.prod(shape))).reshape(shape)

        class Stream(Owned):
            def copy_to_device(self, target, source, size):
                outer.step("copy_to_device")
                outer.clock += 1
                outer.memory[target.address][:size] = outer.memory[source.address][:size]

            def copy_to_host(self, target, source, size):
                outer.step("copy_to_host")
                outer.clock += 1
                outer.memory[target.address][:size] = outer.memory[source.address][:size]

            def copy_on_device(self, target, source, size):
                outer.step("copy_on_device")
                outer.span(target, size)[:] = outer.span(source, size)

            def synchronize(self):
                outer.step("synchronize")
                assert outer.recording is None, "CUDA forbids to wait for a stream that records"

            def capture(self, work):
                outer.step("capture")
                outer.recording = []
                try:
                    work()
                    recorded = outer.recording
                finally:
                    outer.recording = None
                outer.step("instantiate")
                return Graph(recorded)

        class Graph(Owned):
            def __init__(self, recorded):
                super().__init__()
                self.recorded = recorded

            def launch(self, stream):
                outer.step("launch")
                assert self.open
                for work in self.recorded:
                    work()

        class Event(Owned):
            def record(self, stream):
                outer.step("record")
                assert stream.open
                assert outer.recording is None
                self.moment = outer.clock

            def milliseconds_since(self, earlier):
                assert outer.calls[-1] == "synchronize", "CUDA knows no time before the moment is past"
                return self.moment - earlier.moment

        self.DeviceBuffer, self.PinnedBuffer, self.Stream = DeviceBuffer, PinnedBuffer, Stream
        self.Graph, self.Event = Graph, Event

    def span(self, address, size):
        """The bytes behind an address, which may lie inside a buffer, to read and to write."""
        for start, buffer in self.memory.items():
            if start <= address and address + size <= start + len(buffer):
                return memoryview(buffer)[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address:#x} belong to nobody")

    def order(self, before, after):
        self.step(f"order {before} {after}")

    def device_of(self, address):
        inside = any(start <= address < start + len(buffer) for start, buffer in self.memory.items())
        return 0 if inside else None

    def step(self, name):
        self.calls.append(name)
        if name in self.fail:
            raise MissingError(f"{name} failed: out of memory (cudaErrorMemoryAllocation).")

    def unavailable(self):
        return None if self.devices else "there is no CUDA device"

    def device_count(self):
        return self.devices

    def compute_capability(self, device):
        self.calls.append("compute_capability")
        return self.capability

    def device_name(self, device):
        return "NVIDIA L4"

    def use_device(self, device):
        self.calls.append(f"use_device {device}")


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5
    INT64 = 8


class EngineValidity(enum.IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    OLD_CUDA_RUNTIME = 8
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class ILogger:
    ERROR, INTERNAL_ERROR, WARNING, INFO, VERBOSE = "error", "internal", "warning", "info", "verbose"

    def log(self, severity, msg):
        raise NotImplementedError


class World:
    """One fake TensorRT module, its diary and what it refuses."""

    def __init__(self, cuda, artifact, config, flavour="rtx", runtime_config=True, refuse=(), validity=(0, 0)):
        self.cuda, self.artifact, self.config = cuda, artifact, config
        self.refuse, self.validity = set(refuse), validity
        self.calls: list[tuple[Any, ...]] = []
        self.contexts = 0
        self.kernels: list[bytes] = []  # what TensorRT for RTX has compiled, as its runtime cache keeps it
        classes = _classes(self, rtx=flavour == "rtx", runtime_config=runtime_config)
        names = {"__version__": artifact.plan.tensorrt_version, "ILogger": ILogger, **classes}
        names |= {"TensorIOMode": TensorIOMode, "DataType": DataType}
        if flavour == "rtx":
            names |= {"EngineValidity": EngineValidity, "EngineInvalidityDiagnostics": EngineInvalidityDiagnostics}
            names |= {"CudaGraphStrategy": CudaGraphStrategy}
        self.trt = types.ModuleType("tensorrt_rtx" if flavour == "rtx" else "tensorrt")
        vars(self.trt).update(names)

    def answer(self, name, *arguments):
        self.calls.append((name, *arguments))
        return name not in self.refuse

    def named(self, name):
        return [call[1:] for call in self.calls if call[0] == name]

    @property
    def tensors(self):
        return {t.name: t for t in (*self.artifact.inputs, *self.artifact.outputs)}


_DTYPES = {"float32": DataType.FLOAT, "float16": DataType.HALF, "int64": DataType.INT64, "uint8": DataType.UINT8}


def _classes(world: World, *, rtx: bool, runtime_config: bool) -> dict[str, type]:  # noqa: C901  (four small classes around one world)
    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            if world.answer("deserialize_cuda_engine", len(serialized_engine)):
                return engine_class()
            self._logger.log(ILogger.ERROR, "plan.header.size == blobSize failed")
            self._logger.log(ILogger.ERROR, "In catchCudaError: cudaError 35")
            return None

    class ValidatingRuntime(Runtime):
        engine_header_size = 64

        def get_engine_validity(self, buffer):
            world.answer("get_engine_validity", len(buffer))
            return EngineValidity(world.validity[0]), world.validity[1]

    class ICudaEngine:
        @property
        def num_optimization_profiles(self):
            return len(world.artifact.plan.profiles)

        @property
        def num_io_tensors(self):
            return len(world.tensors)

        def get_tensor_name(self, index):
            return list(world.tensors)[index]

        def get_tensor_mode(self, name):
            return TensorIOMode.OUTPUT if name == "images" else TensorIOMode.INPUT

        def get_tensor_dtype(self, name):
            return _DTYPES[world.tensors[name].dtype]

        def get_tensor_shape(self, name):
            return [-1, *world.tensors[name].shape[1:]]

        def get_tensor_profile_shape(self, name, profile_index):
            shapes = world.artifact.plan.profiles[profile_index][name]
            return [list(shapes[bound]) for bound in ("min", "opt", "max")]

        def create_execution_context(self, *arguments):
            if not world.answer("create_execution_context", *map(type, arguments)):
                return None
            world.contexts += 1
            if not world.kernels and rtx:
                world.kernels.append(b"compiled")
            return IExecutionContext()

    class IRuntimeCache:
        def deserialize(self, blob):
            fits = world.answer("deserialize", bytes(blob)) and bytes(blob).startswith(b"cache:")
            if fits:
                world.kernels[:] = bytes(blob).removeprefix(b"cache:").split(b",")
            return fits

        def serialize(self):
            return b"cache:" + b",".join(world.kernels) if world.answer("serialize") else None

    class IRuntimeConfig:
        pass

    class CompilingConfig(IRuntimeConfig):
        def __init__(self):
            self._strategy = CudaGraphStrategy.DISABLED

        @property
        def cuda_graph_strategy(self):
            return self._strategy

        @cuda_graph_strategy.setter
        def cuda_graph_strategy(self, strategy):
            world.answer("cuda_graph_strategy", strategy)
            self._strategy = strategy

        def create_runtime_cache(self):
            return IRuntimeCache() if world.answer("create_runtime_cache") else None

        def set_runtime_cache(self, cache):
            return world.answer("set_runtime_cache", type(cache))

    class ConfiguringEngine(ICudaEngine):
        def create_runtime_config(self):
            world.answer("create_runtime_config")
            return CompilingConfig() if rtx else IRuntimeConfig()

    class Refitter:
        def __init__(self, engine, logger):
            world.answer("Refitter", type(engine))
            self._logger = logger

        def get_missing_weights(self):
            return [] if world.answer("get_missing_weights") else ["stem.weight"]

        def refit_cuda_engine(self):
            return world.answer("refit_cuda_engine")

    class OnnxParserRefitter:
        def __init__(self, refitter, logger):
            self._logger = logger

        def refit_from_bytes(self, model):
            if world.answer("refit_from_bytes", bytes(model)):
                return True
            self._logger.log(ILogger.ERROR, "weights of another shape")
            return False

    class IExecutionContext:
        def __init__(self):
            self._profile, self._shapes, self._addresses, self._changes = 0, {}, {}, 0

        def set_optimization_profile_async(self, profile_index, stream_handle):
            self._profile = profile_index
            self._changes += 1
            return world.answer("set_optimization_profile_async", profile_index)

        def set_input_shape(self, name, shape):
            shapes = world.artifact.plan.profiles[self._profile][name]
            inside = all(a <= b <= c for a, b, c in zip(shapes["min"], shape, shapes["max"], strict=True))
            self._shapes[name] = tuple(shape)
            self._changes += 1
            return world.answer("set_input_shape", name, tuple(shape)) and inside

        def infer_shapes(self):
            return [] if world.answer("infer_shapes") else ["labels"]

        def get_tensor_shape(self, name):
            world.answer("get_tensor_shape", name)
            return [self._shapes["z"][0], *world.tensors[name].shape[1:]]

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            self._changes += 1
            return world.answer("set_tensor_address", name)

        def execute_async_v3(self, stream_handle):
            if not world.answer("execute_async_v3", stream_handle):
                return False
            if world.cuda.recording is None:
                self._compute()
            else:
                changes = self._changes

                def replay():
                    assert self._changes == changes, "the context changed after its work was recorded"
                    self._compute()

                world.cuda.recording.append(replay)
            return True

        def _compute(self):
            memory = world.cuda.memory
            world.cuda.clock += self._shapes["z"][0]
            arrays = {}
            for name, shape in self._shapes.items():
                raw = memory[self._addresses[name]]
                arrays[name] = np.frombuffer(raw, world.tensors[name].dtype, int(np.prod(shape))).reshape(shape)
            images = expected_images(world.config, arrays["z"], arrays.get("labels")).astype(np.float32)
            assert images.shape[2:] == (SIZE, SIZE)
            memory[self._addresses["images"]][: images.nbytes] = images.tobytes()

    engine_class = ConfiguringEngine if runtime_config else ICudaEngine
    return {
        "Runtime": ValidatingRuntime if rtx else Runtime,
        "ICudaEngine": engine_class,
        "IExecutionContext": IExecutionContext,
        "Refitter": Refitter,
        "OnnxParserRefitter": OnnxParserRefitter,
        "IRuntimeConfig": CompilingConfig if rtx else IRuntimeConfig,
        **({"IRuntimeCache": IRuntimeCache} if rtx else {}),
    }
