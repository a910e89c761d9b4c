"""A generator of one line, images = tanh(z W + table[labels]), as ONNX and as the NumPy that judges it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from sagan_deploy.bundle.bundle import finish_bundle
from sagan_deploy.bundle.golden import GOLDEN_NAME, Golden, golden_bytes
from sagan_deploy.bundle.manifest import (
    Artifact,
    HashedFile,
    Manifest,
    PlanInfo,
    TensorInfo,
    Verdict,
)
from sagan_deploy.config import GeneratorConfig, to_dict
from sagan_deploy.files import sha256_bytes, write_bytes

CONFIG = GeneratorConfig(z_dim=8, num_classes=3, bottom_width=4, widths=(8, 8), norm="class_table")
UNCONDITIONAL = GeneratorConfig(z_dim=8, bottom_width=4, widths=(8, 8), norm="batch")
NAMES = ("red", "green", "blue")
SIZE = 8


def weights(config: GeneratorConfig) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    pixels = 3 * config.image_size**2
    return rng.normal(size=(config.z_dim, pixels)) / 4, rng.normal(size=(max(config.num_classes, 1), pixels)) / 2


def expected_images(config: GeneratorConfig, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """The judge: float64, [n, 3, h, w]."""
    w, table = weights(config)
    x = np.asarray(z, np.float64) @ w
    if config.conditional:
        x = x + table[np.asarray(labels)]
    return np.tanh(x).reshape(len(z), 3, config.image_size, config.image_size)


def expected_codes(config: GeneratorConfig, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """The same as 8-bit images, [n, h, w, 3]."""
    return np.rint(expected_images(config, z, labels).transpose(0, 2, 3, 1) * 127.5 + 127.5).astype(np.uint8)


def tiny_onnx(
    config: GeneratorConfig = CONFIG,
    *,
    precision: str = "fp32",
    output: str = "float",
    z_dtype: str = "float32",
    class_names: tuple[str, ...] | None = None,
    metadata: dict[str, str] | None = None,
    gain: float = 1.0,
    batch: int | str = "n",
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    kind = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}[precision]
    array = {"fp32": np.float32, "fp16": np.float16}[precision]
    w, table = weights(config)
    side = config.image_size
    constants = {"w": (w * gain).astype(array), "table": table.astype(array), "shape": np.array([-1, 3, side, side])}
    nodes = [helper.make_node("Cast", ["z"], ["z_cast"], to=kind), helper.make_node("MatMul", ["z_cast", "w"], ["x"])]
    if config.conditional:
        nodes += [
            helper.make_node("Gather", ["table", "labels"], ["row"]),
            helper.make_node("Add", ["x", "row"], ["y"]),
        ]
    else:
        constants.pop("table")
        nodes += [helper.make_node("Identity", ["x"], ["y"])]
    nodes += [
        helper.make_node("Tanh", ["y"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["nchw"]),
        helper.make_node("Cast", ["nchw"], ["images" if output == "float" else "f"], to=TensorProto.FLOAT),
    ]
    if output == "uint8":
        constants |= {"half": np.array(127.5, np.float32)}
        nodes += [
            helper.make_node("Mul", ["f", "half"], ["m"]),
            helper.make_node("Add", ["m", "half"], ["a"]),
            helper.make_node("Round", ["a"], ["r"]),
            helper.make_node("Transpose", ["r"], ["nhwc"], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", ["nhwc"], ["images"], to=TensorProto.UINT8),
        ]
    z_kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[z_dtype]
    inputs = [helper.make_tensor_value_info("z", z_kind, [batch, config.z_dim])]
    if config.conditional:
        inputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [batch]))
    shape = [batch, 3, side, side] if output == "float" else [batch, side, side, 3]
    image_kind = TensorProto.FLOAT if output == "float" else TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info("images", image_kind, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="tests")
    names = class_names if class_names is not None else NAMES if config.conditional else ()
    helper.set_model_props(model, metadata if metadata is not None else tiny_metadata(config, names, precision, output))
    return model.SerializeToString()


def tiny_metadata(config: GeneratorConfig, names: tuple[str, ...], precision: str, output: str) -> dict[str, str]:
    values = {
        "version": "0.1.0",
        "config": json.dumps(to_dict(config)),
        "class_names": json.dumps(names),
        "precision": precision,
        "form": "inference",
        "attention": "fused",
        "attention_blocks": "0",
        "output": output,
        "checkpoint_sha256": "c" * 64,
        "provenance": json.dumps([{"step": "train", "steps": 5}]),
        "stages": "{}",
    }
    return {"sagan_deploy." + key: value for key, value in values.items()}


def tensor_infos(config: GeneratorConfig, output: str, z_dtype: str = "float32"):
    inputs = [TensorInfo("z", z_dtype, ("n", config.z_dim), "latents, N(0, 1)")]
    if config.conditional:
        inputs.append(TensorInfo("labels", "int64", ("n",), "class numbers"))
    side = config.image_size
    shape = ("n", 3, side, side) if output == "float" else ("n", side, side, 3)
    kind = "float32" if output == "float" else "uint8"
    return tuple(inputs), (TensorInfo("images", kind, shape, "RGB"),)


def onnx_artifact(payload: bytes, path: str, config: GeneratorConfig = CONFIG, **changes) -> Artifact:
    output = changes.pop("output", "float")
    inputs, outputs = tensor_infos(config, output)
    values = {
        "path": path,
        "kind": "onnx",
        "sha256": sha256_bytes(payload),
        "size": len(payload),
        "precision": "fp32",
        "form": "inference",
        "attention": "fused",
        "output": output,
        "inputs": inputs,
        "outputs": outputs,
        "plan": None,
        "verdict": Verdict("passed"),
    }
    return Artifact(**(values | changes))


def profile(low: int, best: int, high: int, config: GeneratorConfig = CONFIG) -> dict:
    shapes = {"z": {k: (n, config.z_dim) for k, n in zip(("min", "opt", "max"), (low, best, high), strict=True)}}
    if config.conditional:
        shapes["labels"] = {k: (n,) for k, n in zip(("min", "opt", "max"), (low, best, high), strict=True)}
    return shapes


def plan_bytes(magic: bytes = b"vtrt", version: tuple[int, ...] = (1, 7, 1, 116), body: bytes = b"engine") -> bytes:
    """A header as TensorRT writes it, and no engine."""
    size = 64 + len(body)
    return magic + struct.pack("<I8xQ4B", 0, size, *version) + bytes(36) + body


def plan_artifact(
    payload: bytes, path: str = "engines/sm_89.plan", config: GeneratorConfig = CONFIG, **changes
) -> Artifact:
    facts = {
        "flavour": "rtx",
        "tensorrt_version": "1.7.1.116",
        "targets": ("sm_89",),
        "compute_capabilities": ((8, 9),),
        "profiles": (profile(1, 2, 4, config),),
        "activation_bytes": 1000,
        "weight_bytes": 2000,
        "fused_attention": 1,
        "layer_count": 7,
        "layer_digest": "digest",
        "onnx_sha256": "d" * 64,
        "build_os": "linux",
        "build_arch": "x86_64",
        "kernels": (),
        "weights": "fixed",
    }
    facts |= {key: changes.pop(key) for key in list(changes) if key in facts}
    values = {"kind": "plan", "precision": "fp16", "plan": PlanInfo(**facts), "verdict": Verdict("not_run", "no GPU")}
    return onnx_artifact(payload, path, config, **(values | changes))


def manifest_of(artifacts, config: GeneratorConfig = CONFIG, golden: HashedFile | None = None, **changes) -> Manifest:
    values = {
        "toolkit_version": "0.1.0",
        "generator": config,
        "class_names": NAMES if config.conditional else (),
        "checkpoint_sha256": "c" * 64,
        "provenance": ({"step": "train", "steps": 5},),
        "artifacts": tuple(artifacts),
        "golden": golden,
        "tools": {"torch": "2.13.0"},
    }
    return Manifest(**(values | changes))


def golden_of(config: GeneratorConfig = CONFIG, count: int = 4) -> Golden:
    rng = np.random.default_rng(3)
    z = rng.normal(size=(count, config.z_dim)).astype(np.float32)
    labels = np.arange(count, dtype=np.int64) % config.num_classes if config.conditional else None
    return Golden(z, labels, expected_images(config, z, labels).astype(np.float32))


def make_bundle(
    folder: Path,
    config: GeneratorConfig = CONFIG,
    *,
    output: str = "float",
    precisions: tuple[str, ...] = ("fp32", "fp16"),
    plan: bytes | None = None,
    golden: Golden | None = None,
    **plan_changes,
) -> Path:
    """A bundle as `deploy` writes it: ONNX models, a plan when its bytes are given, golden images, README, manifest."""
    folder.mkdir(parents=True)
    artifacts = []
    for precision in precisions:
        payload = tiny_onnx(config, precision=precision, output=output)
        artifact = onnx_artifact(payload, f"onnx/{precision}.onnx", config, precision=precision, output=output)
        artifacts.append(artifact)
        write_bytes(folder / artifact.path, payload)
    if plan is not None:
        artifacts.append(plan_artifact(plan, config=config, output=output, **plan_changes))
        write_bytes(folder / artifacts[-1].path, plan)
    replay = golden_bytes(golden or golden_of(config))
    write_bytes(folder / GOLDEN_NAME, replay)
    finish_bundle(folder, manifest_of(artifacts, config, HashedFile(GOLDEN_NAME, sha256_bytes(replay))))
    return folder
