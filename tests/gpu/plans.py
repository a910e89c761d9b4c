"""Plans for the GPU of this machine, and the float64 images that judge them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sagan_deploy.build import build_plan, write_plan
from sagan_deploy.export import export_generator
from sagan_deploy.model.inference import InferenceOptions
from tests.tiny_models import CONFIG, make_bundle, profile, tiny_onnx


def plan_of(checkpoint, folder: Path, flavour: str, *, max_batch: int = 8, weights="fixed", **options) -> Path:
    """Export a checkpoint and build it for this GPU; the plan has its sidecar and its ONNX model beside it."""
    name = "-".join(map(str, options.values())) or "default"
    onnx = folder / f"{name}.onnx"
    onnx.write_bytes(export_generator(checkpoint, InferenceOptions(**options)).payload)
    return write_plan(
        folder / f"{name}.{flavour}.{weights}.plan",
        build_plan(onnx, targets=("local",), flavour=flavour, max_batch=max_batch, weights=weights),
    )


def float64_images(checkpoint, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The training form in float64 on the CPU."""
    generator = checkpoint.generator().double().eval()
    with torch.inference_mode():
        inputs = [torch.from_numpy(z).double()] + ([] if labels is None else [torch.from_numpy(labels)])
        return generator(*inputs).numpy()


def tiny_bundle(folder: Path, flavour: str, batches=((1, 2, 4),), precision: str = "fp16") -> Path:
    """A bundle around the one-line generator with one profile per entry of `batches`."""
    from exporters.specs import EngineSpec, ShapeRange
    from exporters.tensorrt.backend import load_backend
    from exporters.tensorrt.builder import build_engine

    profiles = tuple(profile(*batch) for batch in batches)
    ranges = tuple(
        {name: ShapeRange(shapes["min"], shapes["opt"], shapes["max"]) for name, shapes in each.items()}
        for each in profiles
    )
    backend = load_backend(flavour)
    result = build_engine(backend, tiny_onnx(precision=precision), EngineSpec(("local",), ranges))
    return make_bundle(
        folder,
        CONFIG,
        plan=result.plan,
        precision=precision,
        flavour=flavour,
        tensorrt_version=backend.version,
        profiles=profiles,
        targets=tuple(target.name for target in result.targets),
        compute_capabilities=tuple(target.compute_capability for target in result.targets),
    )
