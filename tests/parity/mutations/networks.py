"""The networks that are mutated, their right files, and weights of wrong networks put into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.config import AttentionConfig, GeneratorConfig
from sagan_deploy.export import export_generator
from sagan_deploy.model.inference import InferenceOptions, to_inference
from tests import exports
from tests.generators import TINY, tiny_checkpoint
from tests.parity.mutations.of_checkpoints import louder_scores

#: Each leg that judges a file, with the options of the file.
LEGS: dict[str, InferenceOptions] = {
    "fp32": InferenceOptions(),
    "fp16": InferenceOptions(precision="fp16"),
    "uint8": InferenceOptions(output="uint8"),
}

EVERYTHING = GeneratorConfig(
    z_dim=12, num_classes=5, widths=(16, 16, 8), norm="vector", embedding_dim=6,
    stage_condition="embedding_and_latent", latent_chunks=True, attention_after=(1,), upsampling="bilinear",
    activation="leaky_relu", attention=AttentionConfig(scale="rsqrt", bias=True),
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A checkpoint, its files by leg, and what kind of network it is, in words."""

    checkpoint: Checkpoint
    files: Mapping[str, bytes]
    what: str


def networks(
    cache: Path | None = None, sagan: tuple[Checkpoint, Mapping[str, bytes]] | None = None
) -> dict[str, Network]:
    """All networks by name.

    Exports take seconds each: `sagan` may hand in those of the network of that name, and `cache` is a folder for the
    others. The networks that differ from it by weights alone get theirs put into its files.
    """
    if sagan is None:
        checkpoint = tiny_checkpoint(TINY)
        sagan = checkpoint, {leg: _exported("sagan", checkpoint, leg, cache) for leg in LEGS}
    base, files = sagan
    everything = tiny_checkpoint(EVERYTHING)
    many = dataclasses.replace(
        tiny_checkpoint(dataclasses.replace(TINY, num_classes=1000)), class_names=(), sha256=base.sha256
    )
    loud = louder_scores(base)
    return {
        "sagan": Network(base, files, "class tables for 3 classes, unscaled attention, nearest upsampling"),
        "everything": Network(
            everything,
            {leg: _exported("everything", everything, leg, cache) for leg in ("fp32", "fp16")},
            "an embedding and chunks of the latent in every norm, scaled attention, bilinear upsampling, leaky ReLU",
        ),
        "thousand": Network(many, _refilled(files, many), "the first with 1000 classes, of which 8 are drawn"),
        "loud": Network(loud, _refilled(files, loud), "the first with attention scores beyond 65504"),
    }


def _refilled(files: Mapping[str, bytes], checkpoint: Checkpoint) -> dict[str, bytes]:
    return {leg: with_weights(payload, checkpoint, LEGS[leg]) for leg, payload in files.items()}


def _exported(name: str, checkpoint: Checkpoint, leg: str, cache: Path | None) -> bytes:
    path = cache / f"{name}.{leg}.onnx" if cache is not None else None
    if path is not None and path.is_file():
        return path.read_bytes()
    export = export_generator if exports.folder is None else exports.export_once  # by hand, or in a test run
    payload = export(checkpoint, LEGS[leg]).payload
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    return payload


def with_weights(payload: bytes, checkpoint: Checkpoint, options: InferenceOptions) -> bytes:
    """The file with the folded weights of another checkpoint of the same structure, which is what an export of it has.

    The initialisers of a file have the names of the inference form's parameters. A bias that is zero throughout has
    no parameter there, and becomes zero here.
    """
    weights = to_inference(checkpoint.generator(), options).rounded().state_dict()
    model = onnx.load_from_string(payload)
    parameters = {name for node in model.graph.node for name in node.input if "/" not in name and "." in name}
    replaced = set()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            value = weights[tensor.name].contiguous()
            assert tensor.raw_data, tensor.name
            tensor.raw_data = value.view(torch.uint8).numpy().tobytes() if value.numel() else b""
            tensor.dims[:] = value.shape
            replaced.add(tensor.name)
        elif tensor.name in parameters and tensor.name.endswith("bias"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    left = {name for name, value in weights.items() if value.is_floating_point() and value.numel()} - replaced
    assert not left, f"not in the file: {left}"
    return model.SerializeToString(deterministic=True)
