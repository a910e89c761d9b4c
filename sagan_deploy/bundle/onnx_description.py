"""What an ONNX file that `export` wrote says of itself, read from its metadata without loading the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from sagan_deploy.bundle.manifest import TensorInfo
from sagan_deploy.config import GeneratorConfig, from_dict
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.onnx_header import OnnxHeader, OnnxTensor

PREFIX = "sagan_deploy."
# TensorRT has no fused attention kernel for float32; what is not quantised is fp16.
_HALF = ("fp16", "bf16", "mixed", "int8", "fp8")


@dataclass(frozen=True)
class OnnxDescription:
    """What an ONNX model of ours says of itself."""

    config: GeneratorConfig
    class_names: tuple[str, ...]
    precision: str
    form: str
    attention: str
    attention_blocks: int
    output: str
    checkpoint_sha256: str | None
    provenance: tuple[dict[str, Any], ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    quantised_convolutions: tuple[str, ...] = ()
    float32_parts: tuple[str, ...] = ()

    @property
    def fused_attention(self) -> int | None:
        """How many fused attention kernels the model was written for; None when it promises none."""
        return self.attention_blocks if self.attention == "fused" and self.precision in _HALF else None


def describe_onnx(header: OnnxHeader, path: Path) -> OnnxDescription | None:
    """What a model of ours says of itself; None for a model of another origin.

    Raises:
        InputError: its metadata is damaged or incomplete.
    """
    metadata = {key.removeprefix(PREFIX): value for key, value in header.metadata.items() if key.startswith(PREFIX)}
    if "config" not in metadata:
        return None
    try:
        meaning = json.loads(metadata.get("meaning", "{}"))
        return OnnxDescription(
            config=from_dict(GeneratorConfig, json.loads(metadata["config"])),
            class_names=tuple(json.loads(metadata["class_names"])),
            precision=metadata["precision"],
            form=metadata["form"],
            attention=metadata["attention"],
            attention_blocks=int(metadata["attention_blocks"]),
            output=metadata["output"],
            checkpoint_sha256=metadata["checkpoint_sha256"] or None,
            provenance=tuple(json.loads(metadata["provenance"])),
            inputs=tuple(_tensor_info(tensor, meaning) for tensor in header.inputs),
            outputs=tuple(_tensor_info(tensor, meaning) for tensor in header.outputs),
            float32_parts=tuple(json.loads(metadata.get("float32_parts", "[]"))),
            quantised_convolutions=tuple(json.loads(metadata.get("quantised_convolutions", "[]"))),
        )
    except KeyError as error:
        raise InputError(f"{path} lacks the metadata {PREFIX}{error.args[0]}. Export it again.") from error
    except (ConfigError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} has damaged metadata: {error}. Export it again.") from error


def _tensor_info(tensor: OnnxTensor, meaning: Mapping[str, str]) -> TensorInfo:
    dtype = cast('Literal["float32", "float16", "int64", "uint8"]', tensor.dtype)
    return TensorInfo(tensor.name, dtype, tensor.shape, meaning.get(tensor.name, ""))
