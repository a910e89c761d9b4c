"""Optional packages: imported where they are used, and named with their install line when absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from sagan_deploy.errors import MissingError


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
