"""Attention maps of both sides: where one position of an image looks in the training form and in the exported file."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.optional import require
from sagan_deploy.parity.emulation import session_options
from sagan_deploy.parity.evidence import AttentionMap
from sagan_deploy.parity.graph import parse_model
from sagan_deploy.parity.widened import module_of

if TYPE_CHECKING:
    from torch import Tensor

    from sagan_deploy.model.attention import SelfAttention
    from sagan_deploy.model.generator import Generator

_SIDE = 96  # pixels of a picture, at least


def attention_maps(
    onnx: bytes,
    generator: Generator,
    z: NDArray[np.floating[Any]],
    labels: NDArray[np.int64] | None,
    *,
    case: str,
    image: int,
) -> tuple[AttentionMap, ...]:
    """The attention of one image at two positions of every block: the middle, and where both sides differ most.

    Args:
        onnx: the exported model, `emulated` if it is in half precision.
        generator: the training form, run as a float64 copy.
        z: one latent (1, z_dim).
        labels: its class (1,), None for an unconditional generator.
        case: of the image, for the caption.
        image: its number there.
    """
    wanted: dict[str, list[str]] = {}  # a large map is computed in parts, one after the other
    for node in parse_model(onnx).graph.node:
        if node.op_type == "Softmax" and (path := _block_of(module_of(node))):
            wanted.setdefault(path, []).append(node.output[0])
    if not wanted:
        return ()
    exact, sizes = _reference_weights(generator, set(wanted), z, labels)
    found = _candidate_weights(onnx, [value for values in wanted.values() for value in values], z, labels)
    maps: list[AttentionMap] = []
    for path, values in wanted.items():
        # Fused attention computes the same map in every head.
        parts = [found[value].reshape(-1, *found[value].shape[-2:])[0] for value in values]
        theirs = np.concatenate(parts).astype(np.float64)
        maps += _pair(path, case, image, exact[path], theirs, sizes[path])
    return tuple(maps)


def _block_of(module: str) -> str:
    head, found, _ = module.partition(".attention")
    return head + found if found else ""


def _candidate_weights(
    onnx: bytes, names: list[str], z: NDArray[np.floating[Any]], labels: NDArray[np.int64] | None
) -> dict[str, NDArray[Any]]:
    ort = require("onnxruntime", "onnxruntime")
    model = parse_model(onnx)
    from onnx import helper

    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    z_type = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    feeds = {"z": z.astype(z_type)} | ({} if labels is None else {"labels": labels})
    return dict(zip(names, session.run(names, feeds), strict=True))


def _reference_weights(
    generator: Generator, paths: set[str], z: NDArray[np.floating[Any]], labels: NDArray[np.int64] | None
) -> tuple[dict[str, NDArray[np.float64]], dict[str, tuple[int, int]]]:
    """softmax(s) of the training form's blocks, (queries, keys), and the height and width of their feature maps."""
    import torch

    exact = copy.deepcopy(generator).double().eval()
    weights: dict[str, NDArray[np.float64]] = {}
    sizes: dict[str, tuple[int, int]] = {}

    def keep(path: str) -> Any:
        def hook(block: SelfAttention, inputs: tuple[Tensor]) -> None:
            weights[path] = _weights(block, inputs[0])[0].numpy()
            sizes[path] = (inputs[0].shape[2], inputs[0].shape[3])

        return hook

    for path in paths:
        exact.get_submodule(path).register_forward_pre_hook(keep(path))
    with torch.no_grad():
        exact(torch.from_numpy(z.astype(np.float64)), None if labels is None else torch.from_numpy(labels))
    return weights, sizes


def _weights(block: SelfAttention, x: Tensor) -> Tensor:
    """β of Zhang et al. 2018, equation (1), with one row per query: every row sums to 1."""
    from torch.nn import functional as F

    query, key = block.query(x), block.key(x)
    if block.config.pool:
        key = F.max_pool2d(key, 2)
    scores: Tensor = block.scale * (query.flatten(2).transpose(1, 2) @ key.flatten(2))
    return scores.softmax(dim=2)


def _pair(
    path: str,
    case: str,
    image: int,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    size: tuple[int, int],
) -> list[AttentionMap]:
    height, width = size
    gaps = np.nan_to_num(np.abs(ours - theirs).max(axis=1), nan=np.inf)
    middle, worst = height // 2 * width + width // 2, int(np.argmax(gaps))
    made = []
    for query in dict.fromkeys((middle, worst)):
        peak = max(float(ours[query].max()), 1e-12)
        made.append(
            AttentionMap(
                path=path,
                case=case,
                image=image,
                position=divmod(query, width),
                size=size,
                difference=float(gaps[query]),
                reference=_picture(ours[query], size, peak),
                candidate=_picture(theirs[query], size, peak),
            )
        )
    return made


def _picture(weights: NDArray[np.float64], size: tuple[int, int], peak: float) -> NDArray[np.uint8]:
    """One row of weights as a picture of the keys; both sides share the white that `peak` is drawn in."""
    ratio = size[0] * size[1] / len(weights)  # 4 where the keys are pooled
    height = round(size[0] / ratio**0.5)
    grey = np.rint(255 * np.clip(np.nan_to_num(weights) / peak, 0, 1)).astype(np.uint8).reshape(height, -1)
    scale = max(1, -(-_SIDE // max(grey.shape)))
    large = np.kron(grey, np.ones((scale, scale), np.uint8))
    return np.repeat(large[:, :, None], 3, axis=2)
