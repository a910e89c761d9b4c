"""Optional packages: imported where they are used, and named with their install line when absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from sagan_deploy.errors import MissingError

# Which extra brings what, for imports that nobody asked `require` for.
EXTRAS = {
    "openvino": "openvino",
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "jinja2": "export",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "cuda": "rtx",
    "robohash": "quickstart",
    "webdataset": "webdataset",
    "tensorboard": "tensorboard",
    "datasets": "datasets",
}


def install_line(error: ImportError) -> str | None:
    """What to say of a package that cannot be imported, or None when it belongs to no extra."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return (
        f"the package {package!r} cannot be imported here ({error}). "
        f"Install it with: pip install 'sagan-deploy[{EXTRAS[package]}]'"
    )


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of this project brings it.

    Args:
        module: the import name, for example ``"torch"``.
        extra: the extra in ``pyproject.toml`` that installs it.

    Raises:
        MissingError: the package is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise MissingError(
            f"the package {module!r} cannot be imported here ({error}). "
            f"Install it with: pip install 'sagan-deploy[{extra}]'"
        ) from error
