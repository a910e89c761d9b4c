"""All classes of a file, checked as numbers: drawing a thousand images for a thousand classes would take hours.

A file reads its labels only to fetch numbers: scales, shifts, an embedding. Those numbers are computed here for every
class by the file's own nodes, however they are laid out (a table per layer, one for all layers, products of an
embedding). In exact arithmetic each of them is the same affine function of the checkpoint's numbers for all classes,
since batch norm folds to

    a(y) = γ(y)/√(v + ε)   and   b(y) = β(y) − μ·a(y) (+ a(y)·bias of the convolution before it),

so one column of the file is p·γ(y) + q·β(y) + r for one channel of one norm, or a linear map of the embedding. The
images of the drawn classes prove that p, q and r are right; that no class departs from them is proven here. A swapped,
scaled, stale or doubled row among a thousand lies as far off as it is wrong, whatever the network makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.optional import require
from sagan_deploy.parity.cases import classes_are_told_by_numbers
from sagan_deploy.parity.depth import rounding_layers
from sagan_deploy.parity.emulation import session_options
from sagan_deploy.parity.graph import parse_model

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

Columns = NDArray[np.float64]  # [classes, columns]
_SAMPLE = 64  # classes that are enough to tell which channel a column belongs to
_CHUNK = 1024  # columns that are matched at once
_FREE_OF_CLASSES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class ClassRows:
    """How far a file's numbers of the worst class lie from what those of all other classes imply.

    `error` is relative to the class's own numbers, NaN where the labels act in a way that cannot be followed;
    `where` names the class and the value of the graph. `layers` and `terms` count the roundings on the way there.
    """

    error: float
    where: str
    layers: int
    terms: int


def class_rows(onnx: bytes, generator: Generator) -> ClassRows | None:
    """Hold what a file computes from labels alone against the checkpoint, for every class.

    Args:
        onnx: an fp32 file, or a half file `emulated`.
        generator: the training form.

    Returns:
        The worst class, or None where there are none or so few that numbers cannot tell them apart: these are drawn.

    Raises:
        InputError: no ONNX model.
        MissingError: onnx or onnxruntime is not installed.
    """
    if not classes_are_told_by_numbers(generator.config):
        return None
    count = generator.config.num_classes
    cone = _label_cone(parse_model(onnx))
    if cone is None:
        return ClassRows(float("nan"), "the labels act by other ways than numbers of their own", 0, 0)
    ort = require("onnxruntime", "onnxruntime")
    payload = cone.SerializeToString()
    session = ort.InferenceSession(payload, session_options(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"labels": np.arange(count)}), strict=True))
    if any(value.shape[:1] != (count,) or value.dtype != np.float32 for value in found.values()):
        return ClassRows(float("nan"), "what the labels choose is not one row of numbers per class", 0, 0)
    numbers = _checkpoint_numbers(generator)
    worst = ClassRows(-1.0, "", 0, 0)
    depth = rounding_layers(payload)
    for name, value in found.items():
        columns = value.reshape(count, -1).astype(np.float64)
        rows = _departures(columns, numbers)
        label = int(np.argmax(np.where(np.isnan(rows), np.inf, rows)))
        if not rows[label] <= worst.error:
            worst = ClassRows(float(rows[label]), f"class {label} in {name}", depth.layers, depth.longest_reduction)
    return worst


def _label_cone(model: Any) -> Any | None:
    """The part of a model that depends on labels and not on latents, with all its results as outputs.

    None where there is no such part, or where the labels themselves go further than that.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    of_labels, of_latents = {"labels"}, {"z"}
    results: list[str] = []
    for node in graph.node:
        if any(name in of_latents for name in node.input):
            of_latents.update(node.output)
            results += [name for name in node.input if name in of_labels]
        elif node.op_type not in _FREE_OF_CLASSES and any(name in of_labels for name in node.input):
            of_labels.update(node.output)
    results += [value.name for value in graph.output if value.name in of_labels]
    if not results or "labels" in results:
        return None
    needed, nodes = set(results), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    cone = type(model)(ir_version=model.ir_version)
    cone.opset_import.extend(model.opset_import)
    cone.graph.name = "classes"
    cone.graph.node.extend(reversed(nodes))
    cone.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    cone.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["n"]))
    cone.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(results))
    return cone


@dataclass(frozen=True)
class _Numbers:
    """What a checkpoint has for every class: gains and shifts [2, classes, channels] of all conditional norms, the
    number of the norm that each channel belongs to, and the embedding [classes, size].
    """

    pairs: NDArray[np.float64]
    norms: NDArray[np.int64]
    embedding: Columns | None


def _checkpoint_numbers(generator: Generator) -> _Numbers:
    import torch
    from torch import nn

    from sagan_deploy.model.norm import ConditionalBatchNorm2d

    labels = torch.arange(generator.config.num_classes)
    tables = [
        torch.stack((part.gain(labels), part.shift(labels))).double().detach().numpy()
        for part in generator.modules()
        if isinstance(part, ConditionalBatchNorm2d) and isinstance(part.gain, nn.Embedding)
    ]
    sizes, embedding = [table.shape[2] for table in tables], generator.embedding
    return _Numbers(
        pairs=np.concatenate([np.zeros((2, len(labels), 0)), *tables], axis=2),
        norms=np.repeat(np.arange(len(tables)), sizes),
        embedding=None if embedding is None else embedding(labels).double().detach().numpy(),
    )


def _departures(columns: Columns, numbers: _Numbers) -> NDArray[np.float64]:
    """For every class, how far its row lies from the best affine functions of the checkpoint's numbers.

    Relative to the part of the row that belongs to the same norm; of these parts the worst.
    """
    centred = _centred(columns)
    left, parts = centred, np.full(columns.shape[1], -1)
    if len(numbers.norms):
        channels = _own_channels(centred, numbers.pairs)
        left, parts = _remainder(centred, numbers.pairs[:, :, channels]), numbers.norms[channels]
    if numbers.embedding is not None:
        basis, _ = np.linalg.qr(_centred(numbers.embedding))
        by_embedding = centred - basis @ (basis.T @ centred)
        better = (by_embedding**2).sum(axis=0) < (left**2).sum(axis=0)
        left, parts = np.where(better, by_embedding, left), np.where(better, -1, parts)
    worst = np.zeros(len(columns))
    for part in np.unique(parts):
        error, size = (_length(values[:, parts == part], 1) for values in (left, columns))
        worst = np.maximum(worst, error / np.where(size > 0, size, 1.0))
    return worst


def _own_channels(centred: Columns, pairs: NDArray[np.float64]) -> NDArray[np.int64]:
    """For every column the channel whose gain and shift explain most of it; a sample of the classes tells that."""
    rows = np.linspace(0, len(centred) - 1, min(_SAMPLE, len(centred))).round().astype(int)
    gain, shift = (part.T.astype(np.float32) for part in _basis(pairs[:, rows]))  # only ranks matter
    columns = _centred(centred[rows]).astype(np.float32)
    found = [
        ((gain @ part) ** 2 + (shift @ part) ** 2).argmax(axis=0)
        for part in np.array_split(columns, range(_CHUNK, columns.shape[1], _CHUNK), axis=1)
    ]
    return np.concatenate(found)


def _remainder(centred: Columns, pairs: NDArray[np.float64]) -> Columns:
    """What is left of every column without its own gain and shift, by least squares."""
    for part in _basis(pairs):
        centred = centred - part * (part * centred).sum(axis=0)
    return centred


def _basis(pairs: NDArray[np.float64]) -> tuple[Columns, Columns]:
    """Gains, and shifts without what they share with the gains, around their means and of length 1."""
    gain, shift = (_unit(_centred(part)) for part in pairs)
    return gain, _unit(shift - gain * (gain * shift).sum(axis=0))


def _centred(columns: Columns) -> Columns:
    return np.asarray(columns - columns.mean(axis=0))


def _unit(columns: Columns) -> Columns:
    """Columns of length 1; those that are the same for all classes stay 0, but for rounding."""
    length = _length(columns, 0)
    return np.asarray(columns / np.where(length > 1e-12, length, np.inf))


def _length(columns: Columns, axis: int) -> NDArray[np.float64]:
    return np.asarray(np.sqrt((columns**2).sum(axis=axis)))
