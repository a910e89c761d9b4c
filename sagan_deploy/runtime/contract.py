"""What goes in and what comes out, and the checks that keep everything else outside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import Artifact, Manifest, image_shape
from sagan_deploy.config import GeneratorConfig, from_dict
from sagan_deploy.errors import ConfigError, InputError

METADATA_PREFIX = "sagan_deploy."


@dataclass(frozen=True)
class Contract:
    """The arrays of one generator, whatever runs it.

    `z_dtype` is what the artifact reads, `image_dtype` what it writes. `image_shape` leaves the batch out.
    """

    config: GeneratorConfig
    class_names: tuple[str, ...]
    precision: str
    output: Literal["float", "uint8"]
    z_dtype: np.dtype[Any]
    image_dtype: np.dtype[Any]

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs in their order."""
        return ("z", "labels") if self.config.conditional else ("z",)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        return image_shape(self.config, self.output)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an input or output without its batch."""
        return {"z": (self.config.z_dim,), "labels": (), "images": self.image_shape}[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of an input or output."""
        return {"z": self.z_dtype, "labels": np.dtype(np.int64), "images": self.image_dtype}[name]

    def check_latents(self, z: Any) -> NDArray[Any]:
        """`z` as the artifact reads it: floating, [n, z_dim], finite.

        Raises:
            InputError: anything else.
        """
        array = np.asarray(z)
        if array.dtype.kind != "f":
            raise InputError(f"z has type {array.dtype}; it must hold floating-point numbers ({self.z_dtype}).")
        if array.ndim != 2 or array.shape[1] != self.config.z_dim:
            raise InputError(f"z has shape {array.shape}; it must be (n, {self.config.z_dim}).")
        if array.dtype != self.z_dtype or not array.flags.c_contiguous:
            with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite and is refused below
                array = np.ascontiguousarray(array, dtype=self.z_dtype)
        if not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array).all(axis=1)))
            raise InputError(f"z holds NaN or infinite values in row {row}; it must be finite as {self.z_dtype}.")
        return array

    def check_labels(self, labels: Any, count: int) -> NDArray[np.int64] | None:
        """`labels` as int64 [count], or None for an unconditional generator.

        Raises:
            InputError: missing, superfluous, of another length or type, or out of range.
        """
        classes = self.config.num_classes
        if not self.config.conditional:
            if labels is not None:
                raise InputError("this generator is unconditional: it takes no labels.")
            return None
        if labels is None:
            raise InputError(f"this generator is conditional: it needs labels, {count} integers in 0..{classes - 1}.")
        array = np.asarray(labels)
        if array.dtype.kind not in "iu" and array.size:
            raise InputError(f"labels have type {array.dtype}; they must be integers in 0..{classes - 1}.")
        if array.shape != (count,):
            raise InputError(f"labels have shape {array.shape}; z asks for ({count},).")
        # Checked before the conversion: 2**63 as uint64 would wrap around to a negative int64.
        if array.size and (array.min() < 0 or array.max() >= classes):
            wrong = int(array[(array < 0) | (array >= classes)][0])
            raise InputError(f"the label {wrong} is out of range; this generator knows the classes 0..{classes - 1}.")
        return np.ascontiguousarray(array, dtype=np.int64)

    def class_numbers(self, classes: Sequence[int | str]) -> list[int]:
        """Class numbers for numbers or names; a name wins over a number written as text.

        Raises:
            InputError: unconditional, empty, unknown or out of range.
        """
        if not self.config.conditional:
            raise InputError("this generator is unconditional: it takes no classes.")
        if isinstance(classes, (str, bytes)) or not len(classes):
            raise InputError(f"classes (={classes!r}) must be a list of one or more class numbers or names.")
        return [self._class_number(item) for item in classes]

    def _class_number(self, item: int | str) -> int:
        if isinstance(item, str) and item in self.class_names:
            return self.class_names.index(item)
        if isinstance(item, bool) or not isinstance(item, (int, np.integer, str)):
            raise InputError(f"a class must be a number or a name, not {item!r}.")
        try:
            number = int(item)
        except ValueError as error:
            shown = ", ".join(self.class_names[:20]) or f"none has a name, use 0..{self.config.num_classes - 1}"
            raise InputError(f"there is no class {item!r}. Known classes: {shown}.") from error
        if not 0 <= number < self.config.num_classes:
            raise InputError(f"the class {number} is out of range; known are 0..{self.config.num_classes - 1}.")
        return number


def contract_of_artifact(manifest: Manifest, artifact: Artifact) -> Contract:
    """The contract that a manifest states for one of its artifacts."""
    return Contract(
        manifest.generator,
        manifest.class_names,
        artifact.precision,
        artifact.output,
        np.dtype(artifact.inputs[0].dtype),
        np.dtype(artifact.outputs[0].dtype),
    )


def contract_of_metadata(
    metadata: Mapping[str, str], z_dtype: np.dtype[Any], image_dtype: np.dtype[Any], name: str
) -> Contract:
    """The contract that an ONNX model states in its own metadata.

    Raises:
        InputError: the model was not exported by this project, or its metadata is damaged.
    """
    if METADATA_PREFIX + "config" not in metadata:
        raise InputError(
            f"{name} is an ONNX model of another origin: it lacks the metadata sagan_deploy.config. "
            f"Export one with: sagan-deploy export generator.safetensors --out model.onnx"
        )
    try:
        config = from_dict(GeneratorConfig, json.loads(metadata[METADATA_PREFIX + "config"]))
        class_names = tuple(str(item) for item in json.loads(metadata.get(METADATA_PREFIX + "class_names", "[]")))
    except (ConfigError, ValueError, TypeError) as error:
        raise InputError(f"{name} has damaged metadata: {error}.") from error
    output = metadata.get(METADATA_PREFIX + "output", "float")
    if output not in ("float", "uint8") or len(class_names) not in (0, config.num_classes):
        raise InputError(f"{name} has damaged metadata: output {output!r}, {len(class_names)} class names.")
    precision = metadata.get(METADATA_PREFIX + "precision", "fp32")
    return Contract(config, class_names, precision, cast(Literal["float", "uint8"], output), z_dtype, image_dtype)
