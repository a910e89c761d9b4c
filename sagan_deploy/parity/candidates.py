"""Files as candidates: what each declares, and how it is run here."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.bundle import CorruptError, find_manifest, is_bundle, open_bundle, sidecar_path
from sagan_deploy.bundle.manifest import Artifact
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.files import read_bytes, sha256_bytes
from sagan_deploy.filetypes import detect
from sagan_deploy.optional import require
from sagan_deploy.parity.policy import Precision

if TYPE_CHECKING:
    from sagan_deploy.runtime import RuntimeGenerator

Draw = Callable[[NDArray[np.float32], NDArray[np.int64] | None], NDArray[Any]]
_ELEMENT_TYPES = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}


@dataclass(frozen=True)
class Candidate:
    """A file that claims to draw what a checkpoint draws, and what it declares about itself.

    `stages` maps module paths to the ONNX values that hold their outputs. `onnx_sha256` is the ONNX file that a plan
    was built from, `batches` are the sizes that it was built for.
    """

    path: Path
    kind: Literal["onnx", "plan"]
    payload: bytes = field(repr=False)
    precision: Precision
    output: Literal["float", "uint8"]
    attention: Literal["fused", "decomposed"]
    checkpoint_sha256: str
    z_type: Literal["float32", "float16"] = "float32"
    stages: dict[str, str] = field(default_factory=dict)
    onnx_sha256: str = ""
    batches: tuple[int, ...] = ()
    provenance: tuple[dict[str, Any], ...] = ()
    artifact: Artifact | None = field(default=None, repr=False)  # the manifest's entry of a plan
    float32_parts: tuple[str, ...] = ()  # of mixed precision
    images_type: str = ""  # declared by an ONNX file; what emulates half precision gives out float32 whatever it says
    device: str | None = None  # the GPU that runs it; None: the first one for plans, for ONNX files the CPU

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return sha256_bytes(self.payload)

    @property
    def quantisation(self) -> dict[str, Any]:
        """How the file was quantised, for int8 and fp8; empty for the others."""
        return next((step for step in self.provenance if step.get("step") == "quantise"), {})

    @functools.cached_property
    def executable(self) -> bytes:
        """What ONNX Runtime runs for an ONNX file: itself, or its half precision written out."""
        from sagan_deploy.parity.emulation import emulated

        return self.payload if self.precision == "fp32" else emulated(self.payload)

    @property
    def arithmetic(self) -> str:
        """What files share that round alike: the precision, and for quantised ones how they were calibrated."""
        return f"{self.precision} {json.dumps(self.quantisation, sort_keys=True)}"

    @property
    def how(self) -> str:
        """What runs it, in words."""
        if self.kind == "plan":
            return "TensorRT on the GPU"
        if self.device is not None:
            return f"ONNX Runtime on {self.device}"
        if self.precision == "fp32":
            return "ONNX Runtime on the CPU"
        if self.quantisation:
            return f"{self.precision} convolutions, and true fp16 rounding of the rest, emulated on the CPU"
        return f"true {self.precision} rounding after every operation, emulated on the CPU"


def open_candidates(path: Path) -> list[Candidate]:
    """The candidates in a file or bundle; a bundle's hashes are checked first.

    Raises:
        InputError: another kind of file, or one that this project did not make.
    """
    path = Path(path)
    if is_bundle(path):
        bundle = open_bundle(path)
        bundle.verify_hashes()
        return [c for artifact in bundle.manifest.artifacts for c in open_candidates(bundle.file_path(artifact))]
    kind = detect(path)
    if kind == "plan":
        return [_open_plan(path)]
    if kind != "onnx":
        raise InputError(
            f"{path} is a {kind}; parity judges .onnx files, .plan files and bundles against a checkpoint."
        )
    return [_open_onnx(path)]


def _open_onnx(path: Path) -> Candidate:
    onnx = require("onnx", "export")
    payload = read_bytes(path)
    try:
        model = onnx.load_from_string(payload)
    except Exception as error:  # protobuf's DecodeError lives in a package that is not ours to name
        raise InputError(f"{path} is no whole ONNX file ({error}). Export it again.") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        return Candidate(
            path=path,
            kind="onnx",
            payload=payload,
            precision=metadata["sagan_deploy.precision"],
            output=metadata["sagan_deploy.output"],
            attention=metadata["sagan_deploy.attention"],
            checkpoint_sha256=metadata["sagan_deploy.checkpoint_sha256"],
            z_type="float16" if _type_of(model.graph.input, "z") == "float16" else "float32",
            stages=json.loads(metadata["sagan_deploy.stages"]),
            provenance=tuple(json.loads(metadata["sagan_deploy.provenance"])),
            float32_parts=tuple(json.loads(metadata.get("sagan_deploy.float32_parts", "[]"))),
            images_type=_type_of(model.graph.output, "images"),
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} lacks the metadata of this project ({error}). Export it with: sagan-deploy export"
        ) from error


def _open_plan(path: Path) -> Candidate:
    found = find_manifest(path)
    if found is None or found[1].plan is None:
        raise InputError(f"{sidecar_path(path)} is missing: it says what {path.name} is. Build the plan again.")
    manifest, artifact = found
    assert artifact.plan is not None
    payload = read_bytes(path)
    if sha256_bytes(payload) != artifact.sha256:
        raise InputError(f"{path} is not the plan that its manifest describes: the hashes differ. Build it again.")
    return Candidate(
        path=path,
        kind="plan",
        payload=payload,
        precision=artifact.precision,
        output=artifact.output,
        attention=artifact.attention,
        checkpoint_sha256=manifest.checkpoint_sha256 or "",
        z_type="float16" if artifact.inputs[0].dtype == "float16" else "float32",
        onnx_sha256=artifact.plan.onnx_sha256,
        provenance=tuple(manifest.provenance),
        artifact=artifact,
        batches=tuple(sorted({shape[0] for profile in artifact.plan.profiles for shape in profile["z"].values()})),
    )


def _type_of(values: Iterable[Any], name: str) -> str:
    """The element type of an input or output as NumPy calls it; empty where it has no such value or type."""
    onnx = require("onnx", "export")
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return str(onnx.helper.tensor_dtype_to_np_dtype(kinds[name])) if kinds.get(name) else ""


@contextlib.contextmanager
def opened(candidate: Candidate) -> Iterator[Draw]:
    """The candidate as a function from latents and labels to images, as honestly as this machine can run it.

    Raises:
        MissingError: it cannot be run here.
        InputError: its engine refuses it.
    """
    if candidate.kind == "plan":
        with _load_plan(candidate.path, candidate.device) as generator:
            yield generator
    elif candidate.device is not None:
        from sagan_deploy.runtime import load

        with load(candidate.path, backend="onnxruntime", device=candidate.device) as generator:
            yield generator
    else:
        yield _open_session(candidate)


def _load_plan(path: Path, device: str | None) -> RuntimeGenerator:
    from sagan_deploy.runtime import load

    try:
        return load(path, backend="tensorrt", device=device)
    except CorruptError:
        raise
    except InputError as error:
        # A plan for another GPU, version or system is right where it belongs; it cannot be judged here.
        raise MissingError(str(error)) from error


def _open_session(candidate: Candidate) -> Draw:
    onnxruntime = require("onnxruntime", "onnxruntime")
    from sagan_deploy.parity.emulation import session_options

    payload, options = candidate.executable, onnxruntime.SessionOptions()
    if candidate.precision != "fp32":
        options = session_options()
    options.log_severity_level = 4  # errors are raised, and told there
    try:
        session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base
        first = str(error).strip().splitlines()[0]
        raise InputError(f"ONNX Runtime refuses {candidate.path}: {first}") from error
    z_type = np.float16 if "float16" in session.get_inputs()[0].type else np.float32

    def draw(z: NDArray[np.float32], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        feeds: dict[str, NDArray[Any]] = {"z": z.astype(z_type)}
        if labels is not None:
            feeds["labels"] = labels
        try:
            images: NDArray[Any] = session.run(["images"], feeds)[0]
        except Exception as error:  # ONNX Runtime's errors share no public base
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"ONNX Runtime fails on a batch of {len(z)}: {reason}") from error
        return images

    return draw


def share_in_declared_precision(candidate: Candidate) -> float:
    """Which share of an ONNX file's weights is stored in the type that it declares.

    A plan's precision was asserted from the builder's layer report when it was made, so it counts as whole.
    """
    if candidate.kind == "plan":
        return 1.0
    onnx = require("onnx", "export")
    if candidate.quantisation:
        from exporters.quantise import quantised_convolutions

        found = len(quantised_convolutions(candidate.payload))
        return min(1.0, found / max(1, int(candidate.quantisation["convolutions"])))
    tensors = onnx.load_from_string(candidate.payload).graph.initializer
    types = onnx.TensorProto.DataType
    floating = {types.Value(name) for name in _ELEMENT_TYPES.values()}
    # Scalars such as 127.5 and a Resize's scales belong to the head and to ONNX, not to the network.
    sizes = [(t.data_type, int(np.prod(t.dims))) for t in tensors if t.data_type in floating and len(t.dims) >= 2]
    if candidate.precision == "mixed":
        islands = tuple(candidate.float32_parts)
        right = [
            (types.FLOAT if t.name.startswith(islands) else types.FLOAT16) == t.data_type
            for t in tensors
            if t.data_type in floating and len(t.dims) >= 2 and t.name.startswith(("stem", "stages", "tail"))
        ]
        return sum(right) / len(right) if right else 0.0
    declared = types.Value(_ELEMENT_TYPES[candidate.precision])
    total = sum(size for _, size in sizes)
    return sum(size for kind, size in sizes if kind == declared) / total if total else 0.0
