"""What a file is: kind, config, inputs and outputs, where it comes from, what was fused. Nothing is executed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagan_deploy.bundle.bundle import find_manifest, open_bundle, sidecar_path, unlisted_files
from sagan_deploy.bundle.kernels import Kernel, grouped, types_of
from sagan_deploy.bundle.manifest import Artifact, Manifest, TensorInfo
from sagan_deploy.config import GeneratorConfig, from_dict, to_dict
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes, sha256_bytes
from sagan_deploy.filetypes import FileType, detect
from sagan_deploy.onnx_header import OnnxTensor, read_onnx_header
from sagan_deploy.runtime.contract import METADATA_PREFIX
from sagan_deploy.runtime.plan import PRODUCT, read_header


@dataclass(frozen=True)
class Inspection:
    """What `inspect_file` found. `facts` are plain JSON values in the order in which they are worth reading."""

    path: str
    kind: FileType
    size: int
    sha256: str | None  # None for a folder
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"path": self.path, "kind": self.kind, "size": self.size, "sha256": self.sha256, **self.facts}


def inspect_file(path: Path | str) -> Inspection:
    """Say what a checkpoint, ONNX model, plan or bundle is, from its content and not from its name.

    Raises:
        InputError: it is something else, or damaged.
    """
    path = Path(path)
    kind = detect(path)
    if kind == "bundle":
        bundle = open_bundle(path)
        checked = bundle.verify_hashes()
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        facts = {"hashes": f"{checked} files as listed", "unlisted": list(unlisted_files(bundle))}
        return Inspection(str(path), kind, size, None, facts | _manifest_facts(bundle.manifest))
    payload = read_bytes(path)
    readers = {"checkpoint": _checkpoint_facts, "onnx": _onnx_facts, "plan": _plan_facts}
    return Inspection(str(path), kind, len(payload), sha256_bytes(payload), readers[kind](payload, path))


def _checkpoint_facts(payload: bytes, path: Path) -> dict[str, Any]:
    from sagan_deploy.checkpoints.native import read_header as read_checkpoint_header

    header = read_checkpoint_header(payload, str(path))
    length = int.from_bytes(payload[:8], "little")
    tensors = {name: t for name, t in json.loads(payload[8 : 8 + length]).items() if name != "__metadata__"}
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if 8 + length + end != len(payload):
        raise InputError(
            f"{path} has {len(payload)} bytes, its header says {8 + length + end}: it is truncated or damaged."
        )
    parameters: dict[str, int] = {}
    for tensor in tensors.values():
        count = 1
        for size in tensor["shape"]:
            count *= size
        parameters[tensor["dtype"]] = parameters.get(tensor["dtype"], 0) + count
    return {
        **_generator_facts(_config(header.get("config"), path), tuple(header.get("class_names", ()))),
        "tensors": len(tensors),
        "values": parameters,
        "provenance": list(header.get("provenance", ())),
    }


def _onnx_facts(payload: bytes, path: Path) -> dict[str, Any]:
    header = read_onnx_header(payload, str(path))
    ours = {k.removeprefix(METADATA_PREFIX): v for k, v in header.metadata.items() if k.startswith(METADATA_PREFIX)}
    facts: dict[str, Any] = {
        "origin": f"sagan-deploy {ours.get('version', '')}".strip() if ours else "another exporter",
        "inputs": [_tensor(tensor) for tensor in header.inputs],
        "outputs": [_tensor(tensor) for tensor in header.outputs],
        "opset": header.opset,
        "ir_version": header.ir_version,
        "producer": header.producer,
        "operators": header.operators,
        "values": header.weight_dtypes,
    }
    if "config" not in ours:
        return facts | {"metadata": header.metadata}
    try:
        config = _config(json.loads(ours["config"]), path)
        names, provenance = json.loads(ours.get("class_names", "[]")), json.loads(ours.get("provenance", "[]"))
    except ValueError as error:
        raise InputError(f"{path} has damaged metadata: {error}.") from error
    stated = {key: ours[key] for key in ("precision", "form", "attention", "attention_blocks", "output") if key in ours}
    origin = {"checkpoint_sha256": ours.get("checkpoint_sha256"), "provenance": provenance}
    return stated | facts | _generator_facts(config, tuple(names)) | origin


def _plan_facts(payload: bytes, path: Path) -> dict[str, Any]:
    header = read_header(payload, str(path))
    facts: dict[str, Any] = {"engine": f"{PRODUCT[header.flavour]} {header.version_text}"}
    found, sidecar = find_manifest(path), sidecar_path(path).name
    if found is None:
        missing = f"{sidecar} is missing: it would say what the plan takes, gives and which kernels it has"
        return facts | _foreign_plan_facts(payload) | {"sidecar": missing}
    manifest, artifact = found
    if artifact.sha256 != sha256_bytes(payload):
        raise InputError(f"{path} is not the plan that its manifest describes: the SHA-256 differs. Build it again.")
    return facts | _manifest_facts(dataclasses.replace(manifest, artifacts=(artifact,)))


def _foreign_plan_facts(payload: bytes) -> dict[str, Any]:
    """What a plan says in its first bytes; the rest is TensorRT's own."""
    from exporters.targets import sm_name
    from exporters.tensorrt.plan import PlanHeader

    try:
        header = PlanHeader.parse(payload)
    except ValueError:
        return {}
    facts: dict[str, Any] = {}
    if header.flavour == "rtx" and header.total_bytes != len(payload):
        facts["damage"] = f"its header says {header.total_bytes} bytes, the file has {len(payload)}: perhaps truncated"
    if header.compute_capabilities:
        facts["targets"] = [sm_name(capability) for capability in header.compute_capabilities]
    if header.weight_bytes:
        facts["weight_bytes"] = header.weight_bytes
    return facts


def _manifest_facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "artifacts": [_artifact_facts(artifact) for artifact in manifest.artifacts],
        **_generator_facts(manifest.generator, manifest.class_names),
        "golden": None if manifest.golden is None else manifest.golden.path,
        "checkpoint_sha256": manifest.checkpoint_sha256,
        "provenance": list(manifest.provenance),
        "toolkit_version": manifest.toolkit_version,
        "tools": manifest.tools,
    }


def _artifact_facts(artifact: Artifact) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": artifact.path,
        "precision": artifact.precision,
        "form": artifact.form,
        "attention": artifact.attention,
        "inputs": [_tensor(tensor) for tensor in artifact.inputs],
        "outputs": [_tensor(tensor) for tensor in artifact.outputs],
        "parity": artifact.verdict.status + (f": {artifact.verdict.reason}" if artifact.verdict.reason else ""),
        "size": artifact.size,
        "sha256": artifact.sha256,
    }
    if plan := artifact.plan:
        facts |= {
            "engine": f"{PRODUCT[plan.flavour]} {plan.tensorrt_version}",
            "targets": list(plan.targets),
            "batch": [f"{p['z']['min'][0]} to {p['z']['max'][0]}, best at {p['z']['opt'][0]}" for p in plan.profiles],
            "fused_attention": plan.fused_attention,
            "layers": plan.layer_count,
            "activation_bytes": plan.activation_bytes,
            "profile_activation_bytes": list(plan.profile_activation_bytes),
            "weight_bytes": plan.weight_bytes,
            "weights": plan.weights,
            "onnx_sha256": plan.onnx_sha256,
        }
        if plan.kernels:  # older builds did not keep them
            facts["kernels"] = kernel_facts(plan.kernels)
    return facts


def plan_kernels(path: Path | str) -> dict[str, tuple[Kernel, ...]]:
    """The kernels of a plan by part of the generator, in the order in which images flow.

    They come from the plan's sidecar, or from the manifest of the bundle that it lies in; empty for a plan without one,
    of another origin or of a version that did not keep them. The plan itself is not read.

    Raises:
        InputError: the sidecar or manifest is damaged.
    """
    found = find_manifest(Path(path))
    plan = None if found is None else found[1].plan
    return {} if plan is None else grouped(plan.kernels)


def kernel_facts(kernels: Sequence[Kernel]) -> dict[str, dict[str, Any]]:
    """Per part of the generator: the types that its kernels read, how many are fused attention, and the kernels."""
    return {
        part: {
            "types": list(types_of(group)),
            "fused_attention": sum(kernel.fused_attention for kernel in group),
            "kernels": [
                {
                    "name": kernel.name,
                    "kind": kernel.kind,
                    "role": kernel.role,
                    "reads": list(kernel.reads),
                    "nodes": list(kernel.nodes),
                }
                for kernel in group
            ],
        }
        for part, group in grouped(kernels).items()
    }


def _generator_facts(config: GeneratorConfig, class_names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "image": f"{config.image_size}x{config.image_size}, {config.image_channels} channels",
        "classes": list(class_names) or config.num_classes,
        "config": to_dict(config),
    }


def _config(values: Any, path: Path) -> GeneratorConfig:
    try:
        return from_dict(GeneratorConfig, values)
    except (ConfigError, TypeError) as error:
        raise InputError(f"{path} holds a config that this version cannot read: {error}.") from error


def _tensor(tensor: TensorInfo | OnnxTensor) -> str:
    return f"{tensor.name} {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"
