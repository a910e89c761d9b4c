"""The generator that production calls: checked arrays in, images out, whatever runs underneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.runtime.batches import parts
from sagan_deploy.runtime.contract import Contract

if TYPE_CHECKING:
    from sagan_deploy.runtime.device import DeviceImages


class Backend(Protocol):
    """What runs one artifact: safe to call from many threads, for batches of 1 to `max_batch`."""

    name: str
    max_batch: int

    def run(self, z: NDArray[Any], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        """Images for checked inputs, in an array that nobody else holds."""

    def close(self) -> None:
        """Give everything back; a second call does nothing."""


@runtime_checkable
class DeviceBackend(Protocol):
    """What a backend has besides when it also takes and gives memory of its device."""

    def run_on_device(self, z: Any, labels: Any, stream: Any) -> DeviceImages:
        """Images for arrays on the device, of any number of rows."""

    def gpu_milliseconds(self, z: NDArray[Any], labels: NDArray[np.int64] | None) -> float:
        """The time of the GPU for checked inputs."""


@dataclass(frozen=True)
class Rejection:
    """A way to run that was considered and not taken, and why."""

    backend: str
    artifact: str
    reason: str

    def __str__(self) -> str:
        return f"{self.artifact} with {self.backend}: {self.reason}"


class RuntimeGenerator:
    """Draws images. Made by `sagan_deploy.runtime.load`; use it with ``with`` or call `close`.

    `choice` says what runs, `rejected` what does not and why. Calls from several threads are safe.
    """

    def __init__(
        self, contract: Contract, backend: Backend, *, artifact: str, rejected: Sequence[Rejection] = ()
    ) -> None:
        self.contract = contract
        self.artifact = artifact
        self.rejected = tuple(rejected)
        self.max_batch = backend.max_batch
        self.backend_name = backend.name
        self._backend: Backend | None = backend

    @property
    def config(self) -> GeneratorConfig:
        """The generator's shape."""
        return self.contract.config

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in their order; empty when they have none."""
        return self.contract.class_names

    @property
    def choice(self) -> str:
        """What runs, in words."""
        return f"{self.artifact} ({self.contract.precision}) with {self.backend_name}"

    def __call__(self, z: ArrayLike, labels: ArrayLike | None = None) -> NDArray[Any]:
        """Draw one image per row of `z`. Batches above `max_batch` are split.

        Args:
            z: shape (n, z_dim), floating and finite; converted to the type that the artifact reads.
            labels: shape (n,), integers in 0 … num_classes − 1; left out for an unconditional generator.

        Returns:
            Shape (n, 3, h, w) float in [−1, 1], or (n, h, w, 3) uint8, as exported.

        Raises:
            InputError: an array is not as said, or the generator is closed.
        """
        backend = self._open_backend()
        latents = self.contract.check_latents(z)
        classes = self.contract.check_labels(labels, len(latents))
        count = len(latents)
        if 1 <= count <= self.max_batch:
            return backend.run(latents, classes)
        images = np.empty((count, *self.contract.image_shape), self.contract.image_dtype)
        for low, high in parts(count, self.max_batch):
            images[low:high] = backend.run(latents[low:high], None if classes is None else classes[low:high])
        return images

    def on_device(self, z: Any, labels: Any = None, *, stream: Any = None) -> DeviceImages:
        """Draw images from arrays on the GPU into memory of the GPU; the host sees neither.

        What lies on the device is not read before it is used: latents that are not finite give images that are not,
        and labels out of range give undefined images. Check them where they are made.

        Args:
            z: shape (n, z_dim) of the type that the plan reads (float32 unless exported otherwise), contiguous, with
                ``__dlpack__`` or ``__cuda_array_interface__``.
            labels: shape (n,) int64 likewise; left out for an unconditional generator.
            stream: the caller's stream (its handle, or an object with ``__cuda_stream__``). The work then waits for
                what is on that stream, the stream waits for the work, and this call returns at once: keep the inputs
                unchanged until work behind it on that stream. Without it the images are complete on return.

        Returns:
            Images of the same form as from calling the generator. Their memory lives as long as the object or an
            array made from it by DLPack, also when the generator is closed.

        Raises:
            ConfigError: ONNX Runtime runs, which takes arrays in host memory.
            InputError: an array is not as said, or the generator is closed.
        """
        backend = self._open_backend()
        if not isinstance(backend, DeviceBackend):
            raise ConfigError(
                f"{self.choice} takes arrays in host memory only; on_device needs a TensorRT plan. Call the generator "
                f"itself, or load it with backend='tensorrt' to see why no plan runs here."
            )
        if self.config.conditional != (labels is not None):
            needs = "conditional: it needs labels" if self.config.conditional else "unconditional: it takes no labels"
            raise InputError(f"this generator is {needs}.")
        return backend.run_on_device(z, labels, stream)

    def gpu_milliseconds(self, z: ArrayLike, labels: ArrayLike | None = None) -> float | None:
        """Draw once more and say how long the GPU took, as CUDA events tell; None where no TensorRT plan runs.

        It is the time of the network alone, without the copies from and to the host that calling the generator has.

        Args:
            z: as for calling the generator.
            labels: likewise.

        Raises:
            InputError: likewise.
        """
        backend = self._open_backend()
        if not isinstance(backend, DeviceBackend):
            return None
        latents = self.contract.check_latents(z)
        classes = self.contract.check_labels(labels, len(latents))
        times = (
            backend.gpu_milliseconds(latents[low:high], None if classes is None else classes[low:high])
            for low, high in parts(len(latents), self.max_batch)
        )
        return sum(times, 0.0)

    def sample(
        self,
        count: int,
        seed: int = 0,
        classes: Sequence[int | str] | None = None,
        truncation: float | None = None,
        start: int = 0,
    ) -> NDArray[Any]:
        """Draw images of a seed: row i is the same image on every backend and for every `count`.

        Args:
            count: how many images.
            seed: 0 ≤ seed < 2⁶⁴.
            classes: numbers or names to take in turn; None draws them too.
            truncation: redraw latents whose magnitude exceeds it; None keeps the full normal distribution.
            start: index of the first image.

        Returns:
            As from calling the generator.

        Raises:
            ConfigError, InputError: a value is out of range.
        """
        return self(*self.sample_inputs(count, seed, classes, truncation, start))

    def sample_inputs(
        self,
        count: int,
        seed: int = 0,
        classes: Sequence[int | str] | None = None,
        truncation: float | None = None,
        start: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """The latents and labels that `sample` draws from; labels are None for an unconditional generator."""
        numbers = None if classes is None else self.contract.class_numbers(classes)
        z = sample_latents(seed, count, self.config.z_dim, truncation=truncation, start=start)
        if not self.config.conditional:
            return z, None
        return z, sample_labels(seed, count, self.config.num_classes, classes=numbers, start=start)

    def close(self) -> None:
        """Give memory and devices back. Calls that come later raise `InputError`."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _open_backend(self) -> Backend:
        backend = self._backend
        if backend is None:
            raise InputError("this generator is closed; load it again.")
        return backend

    def __enter__(self) -> RuntimeGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._backend is None else self.choice
        return f"<RuntimeGenerator {self.config.image_size}x{self.config.image_size}, {state}>"
