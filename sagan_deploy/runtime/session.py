"""One execution context with its stream and buffers: what one thread needs to run an engine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import PlanInfo
from sagan_deploy.runtime.contexts import Contexts, TensorRTError
from sagan_deploy.runtime.contract import Contract
from sagan_deploy.runtime.graphs import Recipe, ReplayedEnqueue


class Session:
    """Runs batches of an engine, one after the other. Not for two threads at once.

    Buffers are as large as the largest profile asks for and live as long as the session.
    """

    def __init__(self, cuda: Any, contexts: Contexts, engine: Any, plan: PlanInfo, contract: Contract) -> None:
        self._cuda, self._plan, self._contract = cuda, plan, contract
        self._names = (*contract.input_names, "images")
        self._profile = 0  # a new context begins with the first profile
        self._enqueued = ReplayedEnqueue(contexts.own_graphs)
        with contextlib.ExitStack() as stack:
            self._context = contexts.create()
            self._stream = stack.enter_context(cuda.Stream())
            self._device, self._host = {}, {}
            for name, size in _buffer_sizes(engine, contract).items():
                self._device[name] = stack.enter_context(cuda.DeviceBuffer(size))
                self._host[name] = stack.enter_context(cuda.PinnedBuffer(size))
            self._owned = stack.pop_all()

    @property
    def stream(self) -> Any:
        """The stream on which everything of this session happens."""
        return self._stream

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Images for a batch that some profile can hold, in a new array.

        A batch that falls below or between the profiles is filled up with copies of its first row.

        Raises:
            TensorRTError: TensorRT refused a step.
            MissingError: CUDA refused one.
        """
        count = len(inputs["z"])
        recipe, batch = self._prepare(count)
        self._upload(inputs, batch)
        self._enqueued.run(recipe, self._stream, self._enqueue)
        images = self._host["images"].array((batch, *self._contract.image_shape), self._contract.image_dtype)
        self._stream.copy_to_host(self._host["images"], self._device["images"], images.nbytes)
        self._stream.synchronize()
        return np.array(images[:count])

    def gpu_milliseconds(self, inputs: Mapping[str, NDArray[Any]]) -> float:
        """How long the GPU takes for a batch, as two CUDA events around it tell: without copies from and to the host.

        Raises:
            TensorRTError, MissingError: as `run`.
        """
        recipe, batch = self._prepare(len(inputs["z"]))
        self._upload(inputs, batch)
        with self._cuda.Event() as start, self._cuda.Event() as end:
            start.record(self._stream)
            self._enqueued.run(recipe, self._stream, self._enqueue)
            end.record(self._stream)
            self._stream.synchronize()
            found: float = end.milliseconds_since(start)
        return found

    def run_on_device(self, inputs: Mapping[str, int], images: int, count: int) -> None:
        """Put a batch on the stream that reads and writes memory of the device; nobody waits for it.

        Args:
            inputs: address of each input, contiguous and of the type that the plan reads.
            images: address of the memory for `count` images.
            count: how many rows; some profile must hold them.

        Raises:
            TensorRTError, MissingError: as `run`.
        """
        recipe, batch = self._prepare(count)
        for name, address in inputs.items():
            row, mine = self._row_bytes(name), self._device[name].address
            self._stream.copy_on_device(mine, address, count * row)
            for filling in range(count, batch):
                self._stream.copy_on_device(mine + filling * row, address, row)
        self._enqueued.run(recipe, self._stream, self._enqueue)
        self._stream.copy_on_device(images, self._device["images"].address, count * self._row_bytes("images"))

    def close(self) -> None:
        """Wait for the stream, then give everything back; a second call does nothing."""
        if self._context is None:
            return
        try:
            # After a failure half a batch may still be on its way into the buffers.
            self._stream.synchronize()
        finally:
            try:
                self._enqueued.close()
            finally:
                self._context = None  # before the buffers that it has the addresses of
                self._owned.close()

    def _prepare(self, count: int) -> tuple[Recipe, int]:
        """Set the context to a batch of at least `count`; the batch it is set to."""
        context = self._context
        profile, batch = choose_profile(self._plan, count)
        shapes = {name: (batch, *self._contract.shape(name)) for name in self._names}
        addresses = tuple(self._device[name].address for name in self._names)
        recipe = Recipe(profile, tuple(shapes.values()), addresses)
        if self._enqueued.stands(recipe):
            return recipe, batch
        self._use_profile(profile)
        for name in self._contract.input_names:
            _agree(context.set_input_shape(name, shapes[name]), f"set_input_shape({name!r}, {shapes[name]})")
        if unknown := context.infer_shapes():
            raise TensorRTError(f"TensorRT does not know the shapes of {', '.join(unknown)} for a batch of {batch}")
        if (found := tuple(context.get_tensor_shape("images"))) != shapes["images"]:
            raise TensorRTError(f"TensorRT gives images {found}, not {shapes['images']}")
        for name, address in zip(self._names, addresses, strict=True):
            _agree(context.set_tensor_address(name, address), f"set_tensor_address({name!r})")
        return recipe, batch

    def _upload(self, inputs: Mapping[str, NDArray[Any]], batch: int) -> None:
        """Begin to copy the inputs to the device, filled up to `batch` rows."""
        for name, array in inputs.items():
            host = self._host[name].array((batch, *self._contract.shape(name)), self._contract.dtype(name))
            host[: len(array)], host[len(array) :] = array, array[:1]
            self._stream.copy_to_device(self._device[name], self._host[name], host.nbytes)

    def _enqueue(self) -> None:
        _agree(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")

    def _row_bytes(self, name: str) -> int:
        return math.prod(self._contract.shape(name)) * self._contract.dtype(name).itemsize

    def _use_profile(self, profile: int) -> None:
        if profile == self._profile:
            return
        agreed = self._context.set_optimization_profile_async(profile, self._stream.handle)
        _agree(agreed, f"set_optimization_profile_async({profile})")
        self._stream.synchronize()
        self._profile = profile


def choose_profile(plan: PlanInfo, count: int) -> tuple[int, int]:
    """The cheapest profile for a batch of `count`, and the batch to run, which is larger when `count` falls in a gap.

    Returns:
        Index of the profile and the batch ≥ `count`: of all that hold it, the smallest batch in the smallest profile.
    """
    fits = [
        (max(count, profile["z"]["min"][0]), profile["z"]["max"][0], index)
        for index, profile in enumerate(plan.profiles)
        if count <= profile["z"]["max"][0]
    ]
    if not fits:
        raise TensorRTError(f"a batch of {count} is above the largest profile (={plan.max_batch})")
    batch, _, index = min(fits)
    return index, batch


def _buffer_sizes(engine: Any, contract: Contract) -> dict[str, int]:
    profiles = range(engine.num_optimization_profiles)
    largest = {
        name: max((tuple(engine.get_tensor_profile_shape(name, i)[2]) for i in profiles), key=math.prod)
        for name in contract.input_names
    }
    shapes = {**largest, "images": (largest["z"][0], *contract.image_shape)}
    return {name: math.prod(shape) * contract.dtype(name).itemsize for name, shape in shapes.items()}


def _agree(answer: bool, call: str) -> None:
    if not answer:
        raise TensorRTError(f"TensorRT refused {call}")
