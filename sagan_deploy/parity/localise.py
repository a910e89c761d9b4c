"""How far each stage of an exported file is from the training form: a fault lies in the first over its budget."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require
from sagan_deploy.parity.emulation import session_options
from sagan_deploy.parity.graph import parse_model
from sagan_deploy.parity.metrics import relative_l2

if TYPE_CHECKING:
    from torch import Tensor

    from sagan_deploy.model.generator import Generator

_BATCH = 8  # all stages of so many images are in memory at once


def stage_errors(
    onnx: bytes,
    generator: Generator,
    stages: Mapping[str, str],
    z: NDArray[np.floating[Any]],
    labels: NDArray[np.int64] | None,
) -> dict[str, float]:
    """For every stage the relative L2 error of its worst image, infinite where a value is NaN or infinite.

    Args:
        onnx: the exported model, `emulated` if it is in half precision; it is not changed.
        generator: the training form, run as a float64 copy in evaluation mode; it is not changed.
        stages: module path → name of the ONNX value with that module's output, in the order of computation, as the
            metadata ``sagan_deploy.stages`` holds it.
        z: latents (n, z_dim).
        labels: classes (n,), None for an unconditional generator.

    Raises:
        InputError: no ONNX model, or `stages` names values or modules that are not there.
        MissingError: onnx or onnxruntime is not installed.
    """
    session = _session(onnx, stages)
    exact, reference = _hooked(generator, stages)
    z_type = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    worst = dict.fromkeys(stages, 0.0)
    for start in range(0, len(z), _BATCH):
        part = slice(start, start + _BATCH)
        latents, classes = z[part].astype(np.float32), None if labels is None else labels[part]
        feed = {"z": latents.astype(z_type)} | ({} if classes is None else {"labels": classes})
        found = session.run(list(stages.values()), feed)
        _run(exact, latents, classes)
        for path, values in zip(stages, found, strict=True):
            worst[path] = max(worst[path], _worst_error(values, reference[path], path))
    return worst


def _session(onnx: bytes, stages: Mapping[str, str]) -> Any:
    """A session of the model that also gives out the values of the stages."""
    ort = require("onnxruntime", "onnxruntime")
    model = parse_model(onnx)
    from onnx import helper

    made = {name for node in model.graph.node for name in node.output}
    missing = [f"{value} (of {path})" for path, value in stages.items() if value not in made]
    if missing:
        raise InputError(f"this ONNX model has no value {missing[0]}; the stages belong to another file.")
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(stages.values()) if name not in given
    )
    return ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])


def _hooked(generator: Generator, paths: Mapping[str, str]) -> tuple[Generator, dict[str, NDArray[np.float64]]]:
    """A float64 copy of the generator, every run of which leaves the outputs of these submodules in the mapping."""
    exact = copy.deepcopy(generator).double().eval()
    seen: dict[str, NDArray[np.float64]] = {}

    def keep(path: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda _module, _inputs, output: seen.update({path: output.numpy()})

    for path in paths:
        try:
            module = exact.get_submodule(path)
        except AttributeError as error:
            raise InputError(f"the generator has no module {path!r}, which the ONNX model names.") from error
        module.register_forward_hook(keep(path))
    return exact, seen


def _run(generator: Generator, z: NDArray[np.float32], labels: NDArray[np.int64] | None) -> None:
    import torch

    with torch.no_grad():
        generator(torch.from_numpy(z).double(), None if labels is None else torch.from_numpy(labels))


def _worst_error(found: NDArray[np.floating[Any]], expected: NDArray[np.float64], path: str) -> float:
    if found.shape != expected.shape:
        raise InputError(f"{path} has the shape {found.shape} in the ONNX model and {expected.shape} in the generator.")
    with np.errstate(invalid="ignore"):
        errors = relative_l2(found.astype(np.float64), expected)
    return float(np.where(np.isnan(errors), np.inf, errors).max())
