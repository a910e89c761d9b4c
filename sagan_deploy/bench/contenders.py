"""What takes part: how each contender is opened, in this process to be timed and in one of its own to be weighed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sagan_deploy.bundle.bundle import is_bundle
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.files import read_bytes, write_bytes
from sagan_deploy.filetypes import detect
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.optional import require
from sagan_deploy.progress import Progress
from sagan_deploy.runtime import load

Run = Callable[[np.ndarray, np.ndarray | None], object]
Kind = Literal["eager", "channels-last", "compile", "runtime", "openvino"]


@dataclass(frozen=True)
class Contender:
    """One way to draw images: `kind` says with what, `file` from what. `onnx` is the graph that it runs, if any.

    `label` and `form` are for people: the file that was named, and what was made of it.
    """

    label: str
    kind: Kind
    file: Path
    onnx: Path | None = None
    form: str = ""

    def open(self, threads: int | None, stack: contextlib.ExitStack) -> tuple[str, Run]:
        """The name with the engine that was chosen, and the function to call; `stack` closes it."""
        if self.kind == "openvino":
            return self._name("OpenVINO"), _openvino(self.file, threads)
        if self.kind == "runtime":
            generator = stack.enter_context(load(self.file, threads=threads))
            return self._name(generator.backend_name), generator
        engine = {"eager": "PyTorch eager", "channels-last": "PyTorch eager, channels last"}
        return self._name(engine.get(self.kind, "torch.compile")), _torch(self.file, self.kind, threads)

    def _name(self, engine: str) -> str:
        return f"{self.label} ({self.form}, {engine})" if self.form else f"{self.label} ({engine})"


def contenders_of(
    file: Path, scratch: Path, *, compiled: bool, progress: Progress
) -> tuple[GeneratorConfig, list[Contender]]:
    """The contenders of a file: several for a checkpoint, one for anything else.

    Args:
        file: a checkpoint, ONNX file, plan or bundle.
        scratch: the exports of a checkpoint are written beside it, under names that begin with its own.
        compiled: with torch.compile.
        progress: told about the exports.

    Raises:
        InputError, MissingError: the file cannot be read here.
    """
    if is_bundle(file) or detect(file) != "checkpoint":
        with load(file) as generator:
            config = generator.config
        onnx = file if not is_bundle(file) and detect(file) == "onnx" else None
        found = [Contender(str(file), "runtime", file, onnx)]
        if onnx is not None and _has_openvino():
            found.append(Contender(str(file), "openvino", file, onnx))
        return config, found
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import export_generator

    checkpoint = load_checkpoint(file)
    kinds: list[Kind] = ["eager", "channels-last", *(["compile"] if compiled else [])]  # type: ignore[list-item]
    found = [Contender(str(file), kind, file) for kind in kinds]
    for form, name in (("training", "plain export"), ("inference", "inference form")):
        path = scratch.with_name(f"{scratch.name}-{form}.onnx")
        write_bytes(path, export_generator(checkpoint, form=form, progress=progress).payload)  # type: ignore[arg-type]
        found.append(Contender(str(file), "runtime", path, path, name))
        if _has_openvino():
            found.append(Contender(str(file), "openvino", path, path, name))
    return checkpoint.config, found


def batch_of(config: GeneratorConfig, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Latents and labels for one call."""
    labels = sample_labels(seed, batch, config.num_classes) if config.conditional else None
    return sample_latents(seed, batch, config.z_dim), labels


def _torch(file: Path, kind: Kind, threads: int | None) -> Run:
    import torch

    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.export import baked

    if threads is not None:
        torch.set_num_threads(threads)
    module: Callable[..., object] = baked(load_checkpoint(file).generator())
    if kind == "channels-last":
        module = module.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    if kind == "compile":
        module = torch.compile(module)

    def run(z: np.ndarray, labels: np.ndarray | None) -> object:
        with torch.inference_mode():
            given = (torch.from_numpy(z),) if labels is None else (torch.from_numpy(z), torch.from_numpy(labels))
            return module(*given)

    return run


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
