"""What this machine can do: packages, driver and GPUs, the commands that therefore work, and what to install.

Nothing that is missing or broken stops the examination: it is what the examination is for.
"""

from __future__ import annotations

import importlib
import platform
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

Status = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for; `fix` is the command that brings or repairs it, empty when there is none."""

    name: str
    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Ability:
    """A command, whether it works here, and the names of the findings that stand in its way."""

    command: str
    works: bool
    lacks: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found, and what follows from it."""

    findings: tuple[Finding, ...]
    abilities: tuple[Ability, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken; what is only missing is no illness."""
        return all(finding.status != "problem" for finding in self.findings)


@dataclass(frozen=True)
class _Package:
    name: str  # of the distribution
    module: str
    extra: str


_PACKAGES = (
    _Package("torch", "torch", "export"),
    _Package("safetensors", "safetensors", "export"),
    _Package("onnx", "onnx", "export"),
    _Package("onnx-ir", "onnx_ir", "export"),
    _Package("onnxscript", "onnxscript", "export"),
    _Package("jinja2", "jinja2", "export"),
    _Package("robohash", "robohash", "quickstart"),
    _Package("tensorrt-rtx", "tensorrt_rtx", "rtx"),
    _Package("tensorrt", "tensorrt", "tensorrt"),
    _Package("cuda-bindings", "cuda.bindings.runtime", "rtx"),
)
_EXPORT = ("torch", "safetensors", "onnx", "onnx-ir", "onnxscript")

# Every command, and what it cannot do without.
_NEEDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("quickstart", (*_EXPORT, "jinja2", "onnxruntime", "robohash")),
    ("train", ("torch", "safetensors")),
    ("export", _EXPORT),
    ("build --flavour rtx", ("tensorrt-rtx",)),
    ("build --flavour tensorrt", ("tensorrt", "cuda-bindings", "GPU")),
    ("parity", (*_EXPORT, "jinja2", "onnxruntime")),
    ("deploy", (*_EXPORT, "jinja2", "onnxruntime")),
    ("verify, generate, bench with ONNX", ("onnxruntime",)),
    ("verify, generate, bench with an RTX plan", ("tensorrt-rtx", "cuda-bindings", "GPU")),
    ("verify, generate, bench with a TensorRT plan", ("tensorrt", "cuda-bindings", "GPU")),
    ("generate, bench with a checkpoint", ("torch", "safetensors")),
    ("inspect, targets, doctor", ()),
)


def examine() -> Diagnosis:
    """Look at this machine."""
    findings = [
        Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_package(package) for package in _PACKAGES),
        _onnxruntime(),
        *_cuda(),
    ]
    good = {finding.name for finding in findings if finding.status == "ok"}
    abilities = (
        Ability(command, lacks == (), lacks)
        for command, needs in _NEEDS
        for lacks in [tuple(name for name in needs if name not in good)]
    )
    return Diagnosis(tuple(findings), tuple(abilities))


def _package(package: _Package) -> Finding:
    fix = f"pip install 'sagan-deploy[{package.extra}]'"
    module, error = _import(package.module)
    if module is not None:
        return Finding(package.name, "ok", _version(module, package.name))
    # A distribution that is there and cannot be imported is broken; one that is not there is only missing.
    if isinstance(error, ModuleNotFoundError) and error.name in _parents(package.module):
        return Finding(package.name, "missing", "not installed", fix)
    return Finding(package.name, "problem", f"installed, but it cannot be imported: {_first_line(error)}", fix)


def _onnxruntime() -> Finding:
    """ONNX Runtime comes as several distributions of one module that overwrite each other's files."""
    installed = sorted(name for name in _distributions() if name.startswith("onnxruntime") and "-ep-" not in name)
    module, error = _import("onnxruntime")
    if len(installed) > 1:
        return Finding(
            "onnxruntime",
            "problem",
            f"{' and '.join(installed)} are installed over each other",
            f"pip uninstall --yes {' '.join(installed)}; pip install 'sagan-deploy[onnxruntime]'",
        )
    fix = "pip install 'sagan-deploy[onnxruntime]'"
    if not installed and module is None and isinstance(error, ModuleNotFoundError):
        return Finding("onnxruntime", "missing", "not installed (for CUDA take the extra onnxruntime-gpu)", fix)
    if not hasattr(module, "InferenceSession"):
        # Uninstalling one of two leaves a folder without its main parts, which Python imports as an empty package.
        reason = _first_line(error) if error is not None else "parts of it were uninstalled with another one"
        fix = f"pip uninstall --yes {' '.join(installed) or 'onnxruntime'}; {fix}"
        return Finding("onnxruntime", "problem", f"it cannot be used: {reason}", fix)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in module.get_available_providers())
    return Finding("onnxruntime", "ok", f"{_version(module, 'onnxruntime')} ({', '.join(installed)}; {providers})")


def _cuda() -> list[Finding]:
    from exporters.gpu import driver_cuda_version, local_gpus
    from exporters.targets import sm_name

    try:
        gpus, reason = local_gpus()
        version = driver_cuda_version()
    except Exception as error:
        return [Finding("GPU", "problem", f"asking for the GPUs failed: {_first_line(error)}")]
    driver_fix = "install the NVIDIA driver: https://www.nvidia.com/drivers"
    if version is None:
        driver = Finding("NVIDIA driver", "missing", reason or "none found", driver_fix)
    else:
        driver = Finding("NVIDIA driver", "ok", f"runs CUDA up to {version[0]}.{version[1]}")
    if not gpus:
        return [driver, Finding("GPU", "missing", reason)]
    listed = (f"{gpu.name} ({sm_name(gpu.compute_capability)}, {gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in gpus)
    return [driver, Finding("GPU", "ok", "; ".join(listed))]


def _import(module: str) -> tuple[Any, Exception | None]:
    # What a package says while it is imported is its own business here; that it can be imported is the question.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module), None
        except Exception as error:
            return None, error


def _version(module: Any, distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "version unknown"))


def _distributions() -> Iterable[str]:
    return {str(item.metadata["Name"] or "").lower().replace("_", "-") for item in metadata.distributions()}


def _parents(module: str) -> tuple[str, ...]:
    parts = module.split(".")
    return tuple(".".join(parts[: end + 1]) for end in range(len(parts)))


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
