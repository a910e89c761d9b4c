"""Whether a TensorRT plan fits this machine, answered from its first bytes and its manifest, before CUDA is touched."""

from __future__ import annotations

import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.bundle.manifest import Artifact, Manifest, PlanInfo
from sagan_deploy.errors import InputError
from sagan_deploy.files import sha256_bytes
from sagan_deploy.filetypes import PLAN_MAGIC

Flavour = Literal["tensorrt", "rtx"]
HEADER_BYTES = 28
PRODUCT = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}


@dataclass(frozen=True)
class PlanHeader:
    """What NVIDIA's own tools read from the first bytes of a plan."""

    flavour: Flavour
    version: tuple[int, int, int, int]  # major, minor, patch, build; one byte each

    @property
    def version_text(self) -> str:
        """The version with dots."""
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Machine:
    """This side of the comparison. Version and capability are asked for only when the earlier checks passed."""

    version: Callable[[Flavour], str]
    capability: Callable[[], tuple[int, int]]
    os: str = field(default_factory=lambda: platform.system().lower())
    arch: str = field(default_factory=lambda: platform.machine().lower())


def read_header(payload: bytes, name: str) -> PlanHeader:
    """Flavour and version of a plan.

    Raises:
        InputError: the bytes are no TensorRT plan.
    """
    flavour = PLAN_MAGIC.get(payload[:4])
    if flavour is None or len(payload) < HEADER_BYTES:
        raise InputError(
            f"{name} is no TensorRT plan: it begins with {payload[:4]!r} and has {len(payload)} bytes; a plan begins "
            f"with 'ftrt' or 'vtrt'. {rebuild_command()}"
        )
    version = struct.unpack_from("4B", payload, 24)
    return PlanHeader("rtx" if flavour == "rtx" else "tensorrt", version)


def preflight(payload: bytes, name: str, manifest: Manifest, artifact: Artifact, machine: Machine) -> None:
    """Compare a plan with this machine: kind, version, GPU, operating system, hash, inputs and outputs, in that order.

    Raises:
        InputError: they do not belong together; the message names both sides and the command that rebuilds.
        MissingError: the TensorRT package or the GPU is missing (from `machine`).
    """
    plan = artifact.plan
    if plan is None:
        raise InputError(f"{name} is listed as {artifact.kind}, not as a plan.")
    rebuild = rebuild_command(manifest, artifact)
    header = read_header(payload, name)
    if len(payload) != artifact.size:
        raise CorruptError(
            f"{name} has {len(payload)} bytes, its manifest says {artifact.size}: it is damaged. {rebuild}"
        )
    if header.flavour != plan.flavour:
        raise InputError(
            f"{name} is a plan of {PRODUCT[header.flavour]}, its manifest says {PRODUCT[plan.flavour]}. {rebuild}"
        )
    _check_version(name, header, plan, machine, rebuild)
    _check_capability(name, plan, machine, rebuild)
    # RTX engines are the same on Linux and Windows; classic ones belong to the system they were built on.
    if plan.flavour == "tensorrt" and (plan.build_os, plan.build_arch) != (machine.os, machine.arch):
        raise InputError(
            f"{name} was built on {plan.build_os} {plan.build_arch}; this is {machine.os} {machine.arch}. {rebuild}"
        )
    found = sha256_bytes(payload)
    if found != artifact.sha256:
        raise CorruptError(
            f"{name} has the SHA-256 {found[:16]}…, its manifest says {artifact.sha256[:16]}…: it is damaged. {rebuild}"
        )
    _check_profiles(name, manifest, plan, rebuild)


def rebuild_command(manifest: Manifest | None = None, artifact: Artifact | None = None, target: str = "local") -> str:
    """The command that makes a plan for this machine, as the last sentence of a message."""
    onnx, flavour = "model.onnx", ""
    if artifact is not None and artifact.plan is not None and manifest is not None:
        flavour = f" --flavour {artifact.plan.flavour}"
        sources = [a.path for a in manifest.artifacts if a.sha256 == artifact.plan.onnx_sha256]
        onnx = sources[0] if sources else onnx
    return f"Build one that fits: sagan-deploy build {onnx} --out model.plan --target {target}{flavour}"


def _check_version(name: str, header: PlanHeader, plan: PlanInfo, machine: Machine, rebuild: str) -> None:
    if header.version != _version_bytes(plan.tensorrt_version):
        raise InputError(
            f"{name} says it is of version {header.version_text}, its manifest says {plan.tensorrt_version}. {rebuild}"
        )
    installed = machine.version(plan.flavour)
    if installed != plan.tensorrt_version:
        raise InputError(
            f"{name} was built with {PRODUCT[plan.flavour]} {plan.tensorrt_version}; this machine has {installed}, "
            f"and a plan runs with its own version only. {rebuild}"
        )


def _check_capability(name: str, plan: PlanInfo, machine: Machine, rebuild: str) -> None:
    major, minor = machine.capability()
    if (major, minor) not in plan.compute_capabilities:
        raise InputError(
            f"{name} was built for {', '.join(plan.targets)}; the GPU of this machine is sm_{major}{minor}. "
            f"{rebuild.replace('--target local', f'--target sm_{major}{minor}')}"
        )


def _check_profiles(name: str, manifest: Manifest, plan: PlanInfo, rebuild: str) -> None:
    for profile in plan.profiles:
        for bound in ("min", "opt", "max"):
            batch, *width = profile["z"][bound]
            agree = width == [manifest.generator.z_dim] and profile.get("labels", {bound: (batch,)})[bound] == (batch,)
            if not agree:
                raise InputError(f"{name} has a profile that its inputs cannot fill: {profile}. {rebuild}")


def _version_bytes(version: str) -> tuple[int, ...]:
    return tuple(int(part) % 256 for part in version.split(".") if part.isdigit())
