"""One execution context with its stream and buffers: what one thread needs to run an engine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import PlanInfo
from sagan_deploy.errors import InputError
from sagan_deploy.runtime.contract import Contract


class TensorRTError(InputError):
    """TensorRT answered False or nothing where it had to agree."""


class Session:
    """Runs batches of an engine, one after the other. Not for two threads at once.

    Buffers are as large as the largest profile asks for and live as long as the session.
    """

    def __init__(self, cuda: Any, engine: Any, plan: PlanInfo, contract: Contract) -> None:
        self._plan, self._contract = plan, contract
        self._names = (*contract.input_names, "images")
        self._profile = 0  # a new context begins with the first profile
        with contextlib.ExitStack() as stack:
            self._context = _create_context(engine)
            self._stream = stack.enter_context(cuda.Stream())
            self._device, self._host = {}, {}
            for name, size in _buffer_sizes(engine, contract).items():
                self._device[name] = stack.enter_context(cuda.DeviceBuffer(size))
                self._host[name] = stack.enter_context(cuda.PinnedBuffer(size))
            self._owned = stack.pop_all()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Images for a batch that some profile can hold, in a new array.

        A batch that falls below or between the profiles is filled up with copies of its first row.

        Raises:
            TensorRTError: TensorRT refused a step.
            MissingError: CUDA refused one.
        """
        context, stream = self._context, self._stream
        count = len(inputs["z"])
        profile, batch = choose_profile(self._plan, count)
        self._use_profile(profile)
        for name, array in inputs.items():
            shape = (batch, *self._contract.shape(name))
            host = self._host[name].array(shape, self._contract.dtype(name))
            host[:count], host[count:] = array, array[:1]
            _agree(context.set_input_shape(name, shape), f"set_input_shape({name!r}, {shape})")
            stream.copy_to_device(self._device[name], self._host[name], host.nbytes)
        if unknown := context.infer_shapes():
            raise TensorRTError(f"TensorRT does not know the shapes of {', '.join(unknown)} for a batch of {batch}")
        shape = (batch, *self._contract.image_shape)
        if tuple(context.get_tensor_shape("images")) != shape:
            raise TensorRTError(f"TensorRT gives images {tuple(context.get_tensor_shape('images'))}, not {shape}")
        for name in self._names:
            _agree(context.set_tensor_address(name, self._device[name].address), f"set_tensor_address({name!r})")
        _agree(context.execute_async_v3(stream.handle), "execute_async_v3")
        images = self._host["images"].array(shape, self._contract.image_dtype)
        stream.copy_to_host(self._host["images"], self._device["images"], images.nbytes)
        stream.synchronize()
        return np.array(images[:count])

    def close(self) -> None:
        """Wait for the stream, then give everything back; a second call does nothing."""
        if self._context is None:
            return
        try:
            # After a failure half a batch may still be on its way into the buffers.
            self._stream.synchronize()
        finally:
            self._context = None  # before the buffers that it has the addresses of
            self._owned.close()

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


def _create_context(engine: Any) -> Any:
    # The runtime config is where newer versions take caches and CUDA graph strategies; older ones have none.
    if hasattr(engine, "create_runtime_config"):
        context = engine.create_execution_context(engine.create_runtime_config())
    else:
        context = engine.create_execution_context()
    if context is None:
        raise TensorRTError("TensorRT cannot create an execution context")
    return context


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
