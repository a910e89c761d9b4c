"""`config.pbtxt`: what Triton has to know of a model, as the text form of its `ModelConfig` protocol buffer.

Field names and meanings are those of model_config.proto (github.com/triton-inference-server/common).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sagan_deploy.bundle.manifest import TensorInfo
from sagan_deploy.errors import ConfigError, InputError

Device = Literal["gpu", "cpu"]
Backend = Literal["onnxruntime", "tensorrt"]

_PLATFORM = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True)
class ModelConfig:
    """One model of the repository.

    `preferred` lists the batches that the dynamic batcher aims at and that warm every instance up. A model has one
    `default_file`, or one file per compute capability in `files` (``{"8.9": "sm_89.plan"}``): then a GPU that is not
    listed is refused, because another one's plan does not run there. `profiles` counts the optimization profiles of a
    plan. `accelerator` holds the options with which ONNX Runtime hands the model to TensorRT; None: it does not.
    """

    name: str
    backend: Backend
    max_batch: int
    preferred: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    device: Device = "gpu"
    instances: int = 1
    default_file: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    profiles: int = 1
    accelerator: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.instances < 1:
            raise ConfigError(f"instances (={self.instances}) must be at least 1")
        if not self.preferred or not all(1 <= batch <= self.max_batch for batch in self.preferred):
            raise ConfigError(f"preferred batches (={self.preferred}) must lie in 1..max_batch (={self.max_batch})")
        if (self.default_file is None) == (not self.files):
            raise ConfigError("a model needs one default_file, or files per compute capability, not both")

    def to_text(self) -> str:
        """The content of its ``config.pbtxt``."""
        return "".join(_lines(self._fields()))

    def _fields(self) -> list[_Field]:
        fields: list[_Field] = [
            ("name", self.name),
            ("platform", _PLATFORM[self.backend]),
            ("backend", self.backend),
            ("max_batch_size", self.max_batch),
            *(("input", _tensor(tensor)) for tensor in self.inputs),
            *(("output", _tensor(tensor)) for tensor in self.outputs),
            ("instance_group", self._instance_group()),
            ("dynamic_batching", [("preferred_batch_size", batch) for batch in self.preferred]),
        ]
        if self.default_file is not None:
            fields.append(("default_model_filename", self.default_file))
        fields += [("cc_model_filenames", _entry(key, self.files[key])) for key in sorted(self.files, key=_version)]
        if self.accelerator is not None:
            options = [("parameters", _entry(key, value)) for key, value in self.accelerator.items()]
            accelerator = ("gpu_execution_accelerator", [("name", "tensorrt"), *options])
            fields.append(("optimization", [("execution_accelerators", [accelerator])]))
        return [*fields, *(("model_warmup", self._warmup(batch)) for batch in self.preferred)]

    def _instance_group(self) -> list[_Field]:
        group: list[_Field] = [("count", self.instances), ("kind", _Name(f"KIND_{self.device.upper()}"))]
        if self.profiles > 1:  # Triton takes the first one only, unless they are listed
            group += [("profile", str(index)) for index in range(self.profiles)]
        return group

    def _warmup(self, batch: int) -> list[_Field]:
        # Zeros are in range for every input: the mean of the latents, and class 0. Random bits would be NaN and
        # classes that the table does not have.
        inputs = [
            ("inputs", _entry(t.name, [("data_type", _type(t)), *_dims(t), ("zero_data", True)])) for t in self.inputs
        ]
        return [("name", f"batch {batch}"), ("batch_size", batch), *inputs]


class _Name(str):
    """The name of an enum value: the text form writes it without quotes."""

    __slots__ = ()


_Field = tuple[str, Any]  # the value is text, a number, a truth value, a `_Name` or a list of fields


def _tensor(tensor: TensorInfo) -> list[_Field]:
    fields: list[_Field] = [("name", tensor.name), ("data_type", _type(tensor)), *_dims(tensor)]
    # A request cannot have an empty shape: one number per image is [1] outside and nothing behind the batch inside.
    return fields if tensor.shape[1:] else [*fields, ("reshape", [])]


def _type(tensor: TensorInfo) -> _Name:
    return _Name(_TYPES[tensor.dtype])


def _dims(tensor: TensorInfo) -> list[_Field]:
    """The shape as requests have it, without the batch."""
    batch, *rest = tensor.shape or (0,)
    if not isinstance(batch, str) or not all(isinstance(size, int) and size > 0 for size in rest):
        raise InputError(
            f"{tensor.name} has the shape {list(tensor.shape)}; Triton can batch it when only the first size is free."
        )
    return [("dims", size) for size in rest or (1,)]


def _entry(key: str, value: Any) -> list[_Field]:
    return [("key", key), ("value", value)]


def _version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _lines(fields: Sequence[_Field], indent: str = "") -> Iterator[str]:
    for name, value in fields:
        if isinstance(value, list):
            yield f"{indent}{name} {{\n"
            yield from _lines(value, indent + "  ")
            yield f"{indent}}}\n"
        elif isinstance(value, str) and not isinstance(value, _Name):
            yield f"{indent}{name}: {json.dumps(value)}\n"
        else:
            yield f"{indent}{name}: {str(value).lower() if isinstance(value, bool) else value}\n"
