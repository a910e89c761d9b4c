"""The manifest: what lies in a bundle, how it was made and how it was judged. A plan's sidecar is a manifest too.

Frozen values that check themselves when they are made, and one strict JSON form that round-trips.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from sagan_deploy.bundle.decode import ADDED, decode, parse_object
from sagan_deploy.bundle.kernels import Kernel
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

DType = Literal["float32", "float16", "int64", "uint8"]
Precision = Literal["fp32", "fp16", "bf16", "mixed", "int8", "fp8"]
Range = dict[str, tuple[int, ...]]  # {"min": shape, "opt": shape, "max": shape}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: the batch is the name ``"n"`` in its shape, `meaning` says what the numbers are."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class Verdict:
    """What parity said of an artifact where the bundle was made; `reason` explains anything but a pass."""

    status: Literal["passed", "failed", "not_run"]
    reason: str = ""


@dataclass(frozen=True)
class Limits:
    """How far an image may lie from its golden reference, per image; see `sagan_deploy.verify` for the defaults.

    An 8-bit image is first brought back to [−1, 1] and may be half a grey level further away: its own rounding.
    """

    rel_l2: float
    max_abs: float  # in units of the image range [-1, 1]

    def __post_init__(self) -> None:
        good = 0 <= self.rel_l2 < 1 and 0 <= self.max_abs < 2
        _check(good, f"{self} accept any image: 0 <= rel_l2 < 1 and 0 <= max_abs < 2 are needed")


@dataclass(frozen=True)
class PlanInfo:
    """What a TensorRT plan was built for and what it needs, as far as it can be known without a GPU.

    `flavour` is the package that runs it, `tensorrt_version` the only version that can. `profiles` holds, per profile
    and input, the shapes ``min``, ``opt`` and ``max``. Bytes are planned device memory. A plan with
    ``stripped`` weights gets them from the ONNX model of `onnx_sha256` where it is loaded.
    """

    flavour: Literal["tensorrt", "rtx"]
    tensorrt_version: str
    targets: tuple[str, ...]  # ("sm_89", "sm_120")
    compute_capabilities: tuple[tuple[int, int], ...]  # ((8, 9), (12, 0))
    profiles: tuple[dict[str, Range], ...]
    activation_bytes: int
    weight_bytes: int
    fused_attention: int
    layer_count: int
    layer_digest: str
    onnx_sha256: str
    build_os: str
    build_arch: str
    # Empty where an older version built the plan.
    profile_activation_bytes: tuple[int, ...] = field(default=(), metadata=ADDED)  # of each profile
    kernels: tuple[Kernel, ...] = field(default=(), metadata=ADDED)  # of the first profile
    weights: Literal["fixed", "refittable", "stripped"] = field(default="fixed", metadata=ADDED)

    def __post_init__(self) -> None:
        _check_hash("plan onnx_sha256", self.onnx_sha256)
        for name in ("activation_bytes", "weight_bytes", "fused_attention", "layer_count"):
            _check(getattr(self, name) >= 0, f"plan {name} (={getattr(self, name)}) must not be negative")
        _check(bool(self.profiles), "a plan must have at least one profile")
        for profile in self.profiles:
            for name, shapes in profile.items():
                _check_range(name, shapes)

    @property
    def max_batch(self) -> int:
        """The largest batch that some profile takes."""
        return max(profile["z"]["max"][0] for profile in self.profiles)

    @property
    def min_batch(self) -> int:
        """The smallest batch that some profile takes."""
        return min(profile["z"]["min"][0] for profile in self.profiles)


@dataclass(frozen=True)
class Artifact:
    """One file that draws images: an ONNX model or a TensorRT plan (`plan` tells the rest)."""

    path: str  # relative to the manifest, with forward slashes
    kind: Literal["onnx", "plan"]
    sha256: str
    size: int
    precision: Precision
    form: Literal["inference", "training"]
    attention: Literal["fused", "decomposed"]
    output: Literal["float", "uint8"]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    plan: PlanInfo | None
    verdict: Verdict
    limits: Limits | None = None  # None: the defaults of `precision`

    def __post_init__(self) -> None:
        check_path(self.path)
        _check_hash(f"{self.path} sha256", self.sha256)
        _check(self.size > 0, f"{self.path} size (={self.size}) must be positive")
        _check((self.plan is not None) == (self.kind == "plan"), f"{self.path}: only a plan must have plan facts")
        _check(len(self.outputs) == 1, f"{self.path} must have one output, not {len(self.outputs)}")
        names = tuple(tensor.name for tensor in self.inputs)
        _check(
            names in (("z",), ("z", "labels")), f"{self.path} has the inputs {names}; they must be z, or z and labels"
        )
        if self.plan is not None:
            for profile in self.plan.profiles:
                _check(
                    set(profile) == set(names),
                    f"{self.path}: a profile names {sorted(profile)}, the inputs are {names}",
                )


@dataclass(frozen=True)
class HashedFile:
    """A file of the bundle that is no artifact: golden images, reports."""

    path: str
    sha256: str

    def __post_init__(self) -> None:
        check_path(self.path)
        _check_hash(f"{self.path} sha256", self.sha256)


@dataclass(frozen=True)
class Manifest:
    """A whole bundle, or one plan and its sidecar.

    `provenance` is the chain of steps that made the weights, oldest first; `tools` names versions
    (``{"torch": "2.13.0"}``); `files` lists everything else in the folder except the manifest itself.
    """

    toolkit_version: str
    generator: GeneratorConfig
    class_names: tuple[str, ...]
    checkpoint_sha256: str | None
    provenance: tuple[dict[str, Any], ...]
    artifacts: tuple[Artifact, ...]
    golden: HashedFile | None
    tools: dict[str, str]
    files: tuple[HashedFile, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.checkpoint_sha256 is not None:
            _check_hash("checkpoint_sha256", self.checkpoint_sha256)
        _check(
            len(self.class_names) in (0, self.generator.num_classes),
            f"class_names lists {len(self.class_names)} names for {self.generator.num_classes} classes",
        )
        _check(bool(self.artifacts), "a manifest must list at least one artifact")
        paths = [file.path for file in self.hashed_files]
        repeated = sorted({path for path in paths if paths.count(path) > 1})
        _check(not repeated, f"the manifest lists {', '.join(repeated)} more than once")
        _check(MANIFEST_NAME not in paths, f"the manifest lists {MANIFEST_NAME}, which cannot hold its own hash")
        expected = ("z", "labels") if self.generator.conditional else ("z",)
        for artifact in self.artifacts:
            found = tuple(tensor.name for tensor in artifact.inputs)
            _check(found == expected, f"{artifact.path} takes {found}, the generator's config says {expected}")
            z, images = artifact.inputs[0].shape, artifact.outputs[0].shape
            shape = image_shape(self.generator, artifact.output)
            _check(
                z == ("n", self.generator.z_dim), f"{artifact.path} takes z {z}, the config has {self.generator.z_dim}"
            )
            _check(images == ("n", *shape), f"{artifact.path} gives images {images}, the config says {('n', *shape)}")
        outputs = {artifact.output for artifact in self.artifacts}
        _check(len(outputs) == 1, "float and uint8 images in one bundle: the caller could not know which one comes")

    @property
    def hashed_files(self) -> tuple[Artifact | HashedFile, ...]:
        """Everything in the folder that has a hash, in the order of the manifest."""
        golden = () if self.golden is None else (self.golden,)
        return (*self.artifacts, *golden, *self.files)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Indented JSON with a final newline; equal manifests give equal text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = MANIFEST_NAME) -> Manifest:
        """The inverse of `to_json`.

        Args:
            text: the content of a manifest or sidecar.
            name: the file, for messages.

        Raises:
            InputError: anything is off: no JSON, another schema, fields missing, unknown or of another type,
                a path that leaves the folder, parts that contradict each other.
        """
        values = parse_object(text, name)
        version = values.get("schema_version")
        if type(version) is not int:
            raise InputError(f"{name} is no manifest of this project: it has no schema_version.")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{name} has schema version {version}; this version of sagan-deploy reads {SCHEMA_VERSION}. "
                f"Update the older one of the two, or make the bundle again with: sagan-deploy deploy"
            )
        try:
            return decode(cls, values, name)
        except InputError as error:
            raise error if str(error).startswith(name) else InputError(f"{name}: {error}") from error


def image_shape(config: GeneratorConfig, output: Literal["float", "uint8"]) -> tuple[int, int, int]:
    """The shape of one image: channels first as float, last as uint8."""
    size, channels = config.image_size, config.image_channels
    return (channels, size, size) if output == "float" else (size, size, channels)


def check_path(path: str) -> None:
    """Refuse a path that is not a plain relative one with forward slashes: it could leave the bundle's folder."""
    parts = path.split("/")
    plain = not any(part in ("", ".", "..") for part in parts) and not re.search(r'[\x00-\x1f\\:*?"<>|]', path)
    _check(plain, f"the path {path!r} must be relative, stay inside the folder and use plain names and forward slashes")


def _check_hash(name: str, value: str) -> None:
    _check(re.fullmatch(r"[0-9a-f]{64}", value) is not None, f"{name} (={value!r}) must be a SHA-256 in 64 hex digits")


def _check_range(name: str, shapes: Range) -> None:
    _check(set(shapes) == {"min", "opt", "max"}, f"the profile of {name} has {sorted(shapes)}, not min, opt and max")
    low, best, high = shapes["min"], shapes["opt"], shapes["max"]
    good = len(low) == len(best) == len(high) >= 1 and all(
        1 <= a <= b <= c for a, b, c in zip(low, best, high, strict=True)
    )
    _check(good, f"the profile of {name} must have 1 <= min <= opt <= max in every axis, not {low}, {best}, {high}")


def _check(good: bool, problem: str) -> None:
    if not good:
        raise InputError(f"{problem}.")
