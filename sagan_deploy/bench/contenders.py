"""What takes part: how each contender is opened, in this process to be timed and in one of its own to be weighed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from sagan_deploy.bundle.bundle import is_bundle
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.files import read_bytes, write_bytes
from sagan_deploy.filetypes import detect
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.optional import require
from sagan_deploy.progress import Progress
from sagan_deploy.runtime import load

if TYPE_CHECKING:
    from sagan_deploy.export import Form
    from sagan_deploy.model.inference.options import Precision

Run = Callable[[np.ndarray, np.ndarray | None], object]


@runtime_checkable
class GpuTimed(Protocol):
    """A `Run` that also tells the time of the GPU alone."""

    def __call__(self, z: np.ndarray, labels: np.ndarray | None) -> object:
        """Images for arrays of the host."""

    def gpu_milliseconds(self, z: np.ndarray, labels: np.ndarray | None) -> float | None:
        """Draw once more, between two CUDA events; None where there are none."""


Kind = Literal["eager", "channels-last", "half", "compile", "compile-half", "runtime", "openvino"]

_PYTORCH: dict[str, str] = {
    "eager": "PyTorch eager",
    "channels-last": "PyTorch eager, channels last",
    "half": "PyTorch eager, channels last, fp16",
    "compile": "torch.compile",
    "compile-half": "torch.compile, channels last, fp16",
}


@dataclass(frozen=True)
class Contender:
    """One way to draw images: `kind` says with what, `file` from what. `onnx` is the graph that it runs, if any.

    `device` is where; None leaves it to the runtime. `label` and `form` are for people: the file that was named, and
    what was made of it.
    """

    label: str
    kind: Kind
    file: Path
    onnx: Path | None = None
    form: str = ""
    device: str | None = None

    def open(self, threads: int | None, stack: contextlib.ExitStack) -> tuple[str, Run]:
        """The name with the engine that was chosen, and the function to call; `stack` closes it."""
        if self.kind == "openvino":
            return self._name("OpenVINO"), _openvino(self.file, threads)
        if self.kind == "runtime":
            generator = stack.enter_context(load(self.file, device=self.device, threads=threads))
            return self._name(generator.backend_name), generator
        from sagan_deploy.bench.pytorch import open_pytorch

        place, half = self.device or "cpu", self.kind in ("half", "compile-half")
        last, compiled = half or self.kind == "channels-last", self.kind in ("compile", "compile-half")
        run = open_pytorch(self.file, place, stack, threads=threads, half=half, channels_last=last, compiled=compiled)
        return self._name(_PYTORCH[self.kind]), run

    def _name(self, engine: str) -> str:
        return f"{self.label} ({self.form}, {engine})" if self.form else f"{self.label} ({engine})"


def contenders_of(
    file: Path, scratch: Path, *, compiled: bool, progress: Progress, device: str | None = None
) -> tuple[GeneratorConfig, list[Contender]]:
    """The contenders of a file: several for a checkpoint, one for anything else.

    Args:
        file: a checkpoint, ONNX file, plan or bundle.
        scratch: the exports of a checkpoint are written beside it, under names that begin with its own.
        compiled: with torch.compile.
        progress: told about the exports.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None is the CPU for a checkpoint, and otherwise the best that runs.

    Raises:
        InputError, MissingError: the file cannot be read here.
    """
    if is_bundle(file) or detect(file) != "checkpoint":
        with load(file, device=device) as generator:
            config = generator.config
        onnx = file if not is_bundle(file) and detect(file) == "onnx" else None
        found = [Contender(str(file), "runtime", file, onnx, device=device)]
        if onnx is not None and device in (None, "cpu") and _has_openvino():
            found.append(Contender(str(file), "openvino", file, onnx))
        return config, found
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import export_generator
    from sagan_deploy.model.inference import InferenceOptions

    checkpoint = load_checkpoint(file)
    device = device or "cpu"
    found = [Contender(str(file), kind, file, device=device) for kind in _kinds(device, compiled)]
    for form, precision, name in _exports(device):
        path = scratch.with_name(f"{scratch.name}-{form}-{precision}.onnx")
        options = InferenceOptions(precision)
        write_bytes(path, export_generator(checkpoint, options, form=form, progress=progress).payload)
        found.append(Contender(str(file), "runtime", path, path, name, device))
        if device == "cpu" and _has_openvino():
            found.append(Contender(str(file), "openvino", path, path, name))
    return checkpoint.config, found


def _kinds(device: str, compiled: bool) -> tuple[Kind, ...]:
    """PyTorch's ways; in half precision only where that is what one would take."""
    eager: tuple[Kind, ...] = ("eager", "channels-last")
    after: tuple[Kind, ...] = ("compile",)
    if device != "cpu":
        eager, after = (*eager, "half"), (*after, "compile-half")
    return (*eager, *after) if compiled else eager


def _exports(device: str) -> list[tuple[Form, Precision, str]]:
    found: list[tuple[Form, Precision, str]] = [
        ("training", "fp32", "plain export"),
        ("inference", "fp32", "inference form"),
    ]
    return found if device == "cpu" else [*found, ("inference", "fp16", "inference form, fp16")]


def batch_of(config: GeneratorConfig, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Latents and labels for one call."""
    labels = sample_labels(seed, batch, config.num_classes) if config.conditional else None
    return sample_latents(seed, batch, config.z_dim), labels


def _has_openvino() -> bool:
    from importlib.util import find_spec

    return find_spec("openvino") is not None


def _openvino(file: Path, threads: int | None) -> Run:
    openvino = require("openvino", "openvino")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(read_bytes(file)), "CPU", settings)

    def run(z: np.ndarray, labels: np.ndarray | None) -> object:
        return compiled({"z": z} if labels is None else {"z": z, "labels": labels})[0]

    return run
