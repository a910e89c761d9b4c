"""A checkpoint to ONNX with int8 or float8 convolutions, calibrated on the generator's own pictures.

What stays in float16, and why:

* the products and the softmax of attention: they are one fused kernel in half precision, and a SAGAN does not scale
  its scores, so that errors of the scores come out of the softmax multiplied;
* the 1x1 projections around them, unless asked for: a few percent of the work, and they make those scores;
* the stem, one matrix product from the latents: all later layers inherit its error;
* the last convolution, to pixels: no later layer averages its error, and it is small. On the quickstart's network it
  would add a tenth to the error of the whole; the projections would add nothing that can be measured there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sagan_deploy.errors import ConfigError
from sagan_deploy.export import ExportedGenerator, export_generator
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.optional import require
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporters.quantise import Kind
    from sagan_deploy.checkpoints.native import Checkpoint
    from sagan_deploy.config import GeneratorConfig
    from sagan_deploy.model.inference import InferenceOptions

LATENTS, PERCENTILE = 64, 99.99
_ROWS = 8  # how many images are computed at once

#: Metadata with the names of the quantised Conv nodes, a JSON list: what `check_quantised_plan` wants to know.
CONVOLUTIONS_KEY = "sagan_deploy.quantised_convolutions"


def quantised(
    checkpoint: Checkpoint,
    kind: Kind,
    options: InferenceOptions | None = None,
    *,
    latents: int = LATENTS,
    seed: int = 0,
    percentile: float = PERCENTILE,
    attention_projections: bool = False,
    opset: int | None = None,
    progress: Progress = silent,
) -> ExportedGenerator:
    """Export a generator in float16 and quantise its convolutions. Interface and metadata are those of the export.

    Equal arguments give equal bytes on one machine; ONNX Runtime's sums may differ in the last digit on another.

    Args:
        checkpoint: the generator.
        kind: ``int8``, or ``fp8`` (e4m3fn).
        options: form of the operations; the precision must be fp16, which is also what None means.
        latents: how many images to calibrate on, of all classes in turn, or of classes spread evenly over all where
            there are more of them than images.
        seed: of the latents.
        percentile: of the magnitudes of every activation that keep their value; larger ones saturate. 100 keeps all.
        attention_projections: quantise the 1x1 convolutions around attention as well.
        opset: as in `export_generator`, 19 or later.
        progress: told how far the export and the calibration are.

    Raises:
        ConfigError: another precision than fp16, or no images to calibrate on.
        MissingError: torch, onnx or onnxruntime is not installed.
        SpecError: the generator has no convolution that could be quantised, as with transposed convolutions.
    """
    options = _checked(options, latents)
    require("onnxruntime", "onnxruntime")
    exported = export_generator(checkpoint, options, opset=opset, progress=progress)
    from exporters.calibration import activation_ranges
    from exporters.onnx import add_metadata
    from exporters.quantise import quantise, quantised_convolutions

    batches = _batches(checkpoint.config, exported.z_type, latents, seed, progress)
    ranges = activation_ranges(exported.payload, batches, percentile)
    kept = _kept(checkpoint.config, attention_projections)
    payload = quantise(exported.payload, ranges, kind, kept)
    calibration = {"seed": seed, "latents": latents, "percentile": percentile}
    metadata = _metadata(exported.metadata, kind, quantised_convolutions(payload), kept, calibration)
    return dataclasses.replace(
        exported, payload=add_metadata(payload, metadata), nodes=_node_count(payload), metadata=metadata
    )


def _metadata(
    exported: dict[str, str], kind: Kind, names: Sequence[str], kept: Sequence[str], calibration: dict[str, float]
) -> dict[str, str]:
    """That of the float16 export, with how it was quantised."""
    step = {
        "step": "quantise",
        "kind": kind,
        "convolutions": len(names),
        "kept_fp16": list(kept),
        "calibration": calibration,
    }
    return exported | {
        "sagan_deploy.precision": kind,
        "sagan_deploy.provenance": json.dumps([*json.loads(exported["sagan_deploy.provenance"]), step]),
        CONVOLUTIONS_KEY: json.dumps(names),
    }


def _checked(options: InferenceOptions | None, latents: int) -> InferenceOptions:
    require("torch", "export")
    from sagan_deploy.model.inference import InferenceOptions

    options = options or InferenceOptions(precision="fp16")
    if options.precision != "fp16":
        raise ConfigError(
            f"precision (={options.precision}) must be fp16: what is not quantised is computed in float16. "
            f"Leave the precision out of the options."
        )
    if latents < 1:
        raise ConfigError(f"latents (={latents}) must be at least 1; 64 show the usual ranges")
    return options


def _kept(config: GeneratorConfig, attention_projections: bool) -> tuple[str, ...]:
    """Module paths whose convolutions stay float16."""
    # A transposed convolution as tail stays what it is anyway.
    tail = () if config.tail == "deconv" else ("tail",)
    # `attention_after` counts stages from 1, module paths from 0.
    attention = [f"stages.{stage - 1}.attention" for stage in config.attention_after]
    return (*tail, *(() if attention_projections else attention))


def _batches(
    config: GeneratorConfig, z_type: str, count: int, seed: int, progress: Progress
) -> Iterator[dict[str, NDArray[Any]]]:
    classes: list[int] = []
    if config.conditional:
        spread = np.linspace(0, config.num_classes - 1, min(count, config.num_classes)).round()
        classes = [int(label) for label in spread]
    for start in range(0, count, _ROWS):
        progress("calibrate", start, count)
        rows = min(_ROWS, count - start)
        batch: dict[str, NDArray[Any]] = {"z": sample_latents(seed, rows, config.z_dim, start=start).astype(z_type)}
        if config.conditional:
            batch["labels"] = sample_labels(seed, rows, config.num_classes, classes=classes, start=start)
        yield batch
    progress("calibrate", count, count)


def _node_count(payload: bytes) -> int:
    from exporters.quantise import read

    return len(read(payload).graph.node)
