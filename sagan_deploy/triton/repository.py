"""`write_triton`: the folder that ``tritonserver --model-repository`` serves, made from a bundle whose hashes hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sagan_deploy.bundle.bundle import Bundle, open_bundle
from sagan_deploy.bundle.manifest import Artifact, PlanInfo, TensorInfo
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import new_folder, refuse_existing, sha256_bytes, write_bytes, write_text
from sagan_deploy.triton.config import Device, ModelConfig

MARKER = "repository.json"
README = "README.md"
VERSION = "1"

_DEFAULT_MAX_BATCH, _DEFAULT_OPT_BATCH = 64, 8  # where no plan says otherwise; those of `deploy`
# fp16 is what GPUs are fast at; on the CPU ONNX Runtime computes it in fp32 after many conversions.
_PREFERENCE: dict[Device, tuple[str, ...]] = {
    "gpu": ("fp16", "mixed", "bf16", "fp32", "int8", "fp8"),
    "cpu": ("fp32", "mixed", "fp16", "bf16", "int8", "fp8"),
}
# ONNX Runtime hands TensorRT a network whose types are no promise. Only these two mean the same to both.
_ACCELERATED = {"fp16": "FP16", "fp32": "FP32"}


@dataclass(frozen=True)
class _Model:
    """A model and the artifact behind each of its files; `notes` are for people."""

    config: ModelConfig
    files: dict[str, Artifact]
    notes: tuple[str, ...]


def write_triton(
    bundle: Path | str,
    out: Path | str,
    *,
    name: str = "generator",
    max_batch: int | None = None,
    instances: int = 1,
    device: Device = "gpu",
    force: bool = False,
) -> Path:
    """Write a Triton model repository.

    ``OUT/NAME_onnx`` runs an ONNX model of the bundle with the `onnxruntime` backend, ``OUT/NAME_tensorrt`` its plans
    with the `tensorrt` backend, one file per compute capability. That backend loads plans of classic TensorRT, so plans
    of TensorRT for RTX stay behind; a bundle that has no other gets TensorRT as the accelerator of ONNX Runtime
    instead. Every model has dynamic batching, warm-up and an instance group.

    Args:
        bundle: the folder that `deploy` made; the hash of every file that is copied is checked.
        out: the repository, a folder that appears at the end, whole.
        name: letters, digits, ``_`` and ``-``; the models' names begin with it.
        max_batch: the largest batch that Triton forms; None is what the plans take, or 64 without plans.
        instances: how many requests a model runs at once, per GPU or on the CPU.
        device: ``"cpu"`` for a server without a GPU; plans are left out then.
        force: replace an existing repository of this command.

    Returns:
        `out`.

    Raises:
        InputError: the bundle is damaged or has nothing to serve, its plans contradict each other, or `out` exists.
        ConfigError: a value is out of range.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ConfigError(f"name (={name!r}) must consist of letters, digits, _ and -, and not begin with _ or -")
    if max_batch is not None and max_batch < 1:
        raise ConfigError(f"max_batch (={max_batch}) must be at least 1")
    if device not in _PREFERENCE:
        raise ConfigError(f"device (={device!r}) must be gpu or cpu")
    opened, out = open_bundle(bundle), Path(out)
    models, left_out = _models(opened, name, max_batch, instances, device)
    with new_folder(out, marker=MARKER, force=force) as folder:
        for model in models:
            _write_model(folder / model.config.name, model, opened)
        write_text(folder / README, _readme(models, left_out, device))
        write_text(folder / MARKER, _record(opened, models, left_out))
    return out


def check_out(out: Path | str, *, force: bool = False) -> None:
    """Refuse a folder that `write_triton` would refuse, before the bundle is made.

    Raises:
        InputError: it exists, and `force` is not set or it is no repository of this command.
    """
    refuse_existing(Path(out), marker=MARKER, force=force)


def _models(
    bundle: Bundle, name: str, max_batch: int | None, instances: int, device: Device
) -> tuple[list[_Model], dict[str, str]]:
    """The models to write, and for every artifact that is left out the reason why."""
    good = [a for a in bundle.manifest.artifacts if a.verdict.status != "failed"]
    left_out = {a.path: "it failed parity" for a in bundle.manifest.artifacts if a not in good}
    models = []
    plans = [artifact for artifact in good if artifact.plan is not None and artifact.plan.flavour == "tensorrt"]
    rtx = [artifact for artifact in good if artifact.plan is not None and artifact.plan.flavour == "rtx"]
    left_out |= {a.path: "Triton's tensorrt backend loads plans of classic TensorRT, not for RTX" for a in rtx}
    if device == "cpu":
        left_out |= {plan.path: "a plan needs a GPU" for plan in plans}
    elif plans:
        kept = _preferred([plan.precision for plan in plans], device)
        left_out |= {p.path: f"{kept} is served; a model has one precision" for p in plans if p.precision != kept}
        models.append(_tensorrt(f"{name}_tensorrt", [p for p in plans if p.precision == kept], max_batch, instances))
    onnx = [artifact for artifact in good if artifact.kind == "onnx"]
    if onnx:
        kept = _preferred([artifact.precision for artifact in onnx], device)
        served = next(artifact for artifact in onnx if artifact.precision == kept)
        left_out |= {a.path: f"{served.path} is served; a model has one precision" for a in onnx if a is not served}
        batches = _batches(bundle.manifest.artifacts, max_batch)
        models.append(_onnx(f"{name}_onnx", served, batches, instances, device, accelerate=not plans))
    if not models:
        raise InputError(f"{bundle.folder} has nothing that Triton can serve: " + _listed(left_out))
    return models, left_out


def _tensorrt(name: str, plans: Sequence[Artifact], max_batch: int | None, instances: int) -> _Model:
    first = plans[0]
    owners: dict[str, Artifact] = {}
    files: dict[str, Artifact] = {}
    per_capability: dict[str, str] = {}
    for artifact in plans:
        plan = _plan(artifact)
        if (artifact.inputs, artifact.outputs) != (first.inputs, first.outputs):
            raise InputError(f"{artifact.path} and {first.path} differ in inputs or outputs: no single model has both.")
        if len(plan.profiles) != len(_plan(first).profiles):
            raise InputError(f"{artifact.path} and {first.path} differ in their number of profiles. Build them alike.")
        if not plan.compute_capabilities:
            raise InputError(
                f"{artifact.path} names no compute capability, so no GPU could be given it. Build it again."
            )
        # The file is named here, after numbers: no name from a manifest becomes a path.
        file = "_".join(f"sm_{major}{minor}" for major, minor in plan.compute_capabilities) + ".plan"
        files[file] = artifact
        for major, minor in plan.compute_capabilities:
            key = f"{major}.{minor}"
            if key in owners:
                raise InputError(
                    f"{owners[key].path} and {artifact.path} both serve compute capability {key}; "
                    f"Triton takes one file for each. Leave one out of the bundle."
                )
            owners[key], per_capability[key] = artifact, file
    largest = min(_plan(artifact).max_batch for artifact in plans)
    if max_batch is not None and max_batch > largest:
        raise ConfigError(f"max_batch (={max_batch}) is more than the plans take (={largest}). Build them larger.")
    largest = max_batch or largest
    for artifact in plans:
        _check_batches(artifact, largest)
    config = ModelConfig(
        name=name,
        backend="tensorrt",
        max_batch=largest,
        preferred=_preferred_batches([_plan(artifact) for artifact in plans], largest),
        inputs=first.inputs,
        outputs=first.outputs,
        instances=instances,
        files=per_capability,
        profiles=len(_plan(first).profiles),
    )
    versions = sorted({_plan(artifact).tensorrt_version for artifact in plans})
    note = f"needs a Triton whose TensorRT is {' or '.join(versions)}, the one that built the plans"
    return _Model(config, files, (note,))


def _check_batches(artifact: Artifact, largest: int) -> None:
    """Triton sends every batch from 1 on, whatever it prefers."""
    ranges = [(profile["z"]["min"][0], profile["z"]["max"][0]) for profile in _plan(artifact).profiles]
    for batch in range(1, largest + 1):
        if not any(low <= batch <= high for low, high in ranges):
            raise InputError(
                f"{artifact.path} takes no batch of {batch} (its profiles: {ranges}); Triton sends any batch up to "
                f"{largest}. Build it with profiles that leave no gap from 1 on."
            )


def _onnx(
    name: str,
    artifact: Artifact,
    batches: tuple[tuple[int, ...], int],
    instances: int,
    device: Device,
    accelerate: bool,
) -> _Model:
    preferred, largest = batches
    mode = _ACCELERATED.get(artifact.precision) if accelerate and device == "gpu" else None
    config = ModelConfig(
        name=name,
        backend="onnxruntime",
        max_batch=largest,
        preferred=preferred,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        device=device,
        instances=instances,
        default_file="model.onnx",
        accelerator=None if mode is None else _accelerator(artifact, mode, preferred[0], largest),
    )
    notes = ["parity judged this model in ONNX Runtime on a CPU; TF32 and other GPU modes are not part of that"]
    if mode is not None:
        notes = [
            "the bundle has no plan that Triton's tensorrt backend loads, so ONNX Runtime hands the model to TensorRT: "
            "it builds an engine when the model is loaded, which takes a while, and parity has not judged that engine"
        ]
    return _Model(config, {"model.onnx": artifact}, tuple(notes) if device == "gpu" else ())


def _accelerator(artifact: Artifact, mode: str, best: int, largest: int) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider; with a profile it builds one engine for all batches."""

    def shapes(batch: int) -> str:
        return ",".join(f"{t.name}:" + "x".join(map(str, (batch, *t.shape[1:]))) for t in artifact.inputs)

    return {
        "precision_mode": mode,
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(best),
        "trt_profile_max_shapes": shapes(largest),
    }


def _batches(artifacts: Sequence[Artifact], max_batch: int | None) -> tuple[tuple[int, ...], int]:
    """Preferred batches and the largest one for an ONNX model, which takes any: those of the plans beside it."""
    plans = [artifact.plan for artifact in artifacts if artifact.plan is not None]
    if not plans:
        largest = max_batch or _DEFAULT_MAX_BATCH
        return tuple(sorted({min(_DEFAULT_OPT_BATCH, largest), largest})), largest
    largest = max_batch or min(plan.max_batch for plan in plans)
    return _preferred_batches(plans, largest), largest


def _preferred_batches(plans: Sequence[PlanInfo], largest: int) -> tuple[int, ...]:
    best = {profile["z"]["opt"][0] for plan in plans for profile in plan.profiles}
    return tuple(sorted({min(batch, largest) for batch in best} | {largest}))


def _preferred(precisions: Sequence[str], device: Device) -> str:
    return next(precision for precision in _PREFERENCE[device] if precision in precisions)


def _plan(artifact: Artifact) -> PlanInfo:
    assert artifact.plan is not None  # chosen for it
    return artifact.plan


def _write_model(folder: Path, model: _Model, bundle: Bundle) -> None:
    for file, artifact in model.files.items():
        write_bytes(folder / VERSION / file, bundle.read(artifact))
    write_text(folder / "config.pbtxt", model.config.to_text())


def _record(bundle: Bundle, models: Sequence[_Model], left_out: dict[str, str]) -> str:
    files = {
        f"{model.config.name}/{VERSION}/{file}": {"from": artifact.path, "sha256": artifact.sha256}
        for model in models
        for file, artifact in model.files.items()
    }
    texts = {model.config.name: sha256_bytes(model.config.to_text().encode()) for model in models}
    values = {
        "toolkit_version": bundle.manifest.toolkit_version,
        "checkpoint_sha256": bundle.manifest.checkpoint_sha256,
        "files": files,
        "configs": {f"{name}/config.pbtxt": digest for name, digest in texts.items()},
        "left_out": left_out,
    }
    return json.dumps(values, indent=2) + "\n"


def _readme(models: Sequence[_Model], left_out: dict[str, str], device: Device) -> str:
    gpus = " --gpus all" if device == "gpu" else ""
    lines = ["# Triton model repository", ""]
    for model in models:
        config = model.config
        lines.append(f"- `{config.name}`: backend `{config.backend}`, batches up to {config.max_batch}")
        lines += [f"  - `{file}` is `{artifact.path}` of the bundle" for file, artifact in model.files.items()]
        lines += [
            f"  - {word} {_outside(tensors)}" for word, tensors in (("takes", config.inputs), ("gives", config.outputs))
        ]
        lines += [f"  - {note}" for note in model.notes]
    if left_out:
        lines += ["", "Not served:", "", *(f"- `{path}`: {reason}" for path, reason in left_out.items())]
    serve = f'docker run{gpus} -p 8000:8000 -v "$PWD":/models nvcr.io/nvidia/tritonserver:<release>-py3'
    lines += ["", "```", f"{serve} \\", "  tritonserver --model-repository=/models", "```", ""]
    return "\n".join(lines)


def _outside(tensors: Sequence[TensorInfo]) -> str:
    """Tensors as requests have them: one number per image is a column."""
    return ", ".join(f"`{t.name}` {t.dtype} [{', '.join(map(str, ('n', *(t.shape[1:] or (1,)))))}]" for t in tensors)


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{path}: {reason}" for path, reason in reasons.items()) or "it is empty"
