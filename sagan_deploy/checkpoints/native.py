"""Our checkpoint: one safetensors file with the generator's weights, and in its header all that explains them.

safetensors holds tensors and text and nothing that could run (no pickle). Equal content gives equal bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagan_deploy.config import GeneratorConfig, from_dict, to_dict
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes, sha256_bytes, write_bytes
from sagan_deploy.optional import require

if TYPE_CHECKING:
    from torch import Tensor

    from sagan_deploy.model.generator import Generator

FORMAT = "sagan-deploy/generator/1"
HEADER_KEY = "sagan_deploy"


@dataclass(frozen=True)
class Checkpoint:
    """A generator at rest.

    `provenance` is the chain of what made it: one JSON object per step, oldest first, each with a ``"step"``.
    `sha256` is the hash of the file it was read from, None for one that is not on disk.
    """

    config: GeneratorConfig
    state: dict[str, Tensor]
    class_names: tuple[str, ...] = ()
    provenance: tuple[dict[str, Any], ...] = ()
    sha256: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.class_names and len(self.class_names) != self.config.num_classes:
            raise ConfigError(
                f"class_names lists {len(self.class_names)} names, but num_classes is {self.config.num_classes}"
            )

    def generator(self) -> Generator:
        """The network with these weights, in evaluation mode, on the CPU.

        Its type is that of the weights: float32 for what was trained here, float64 for what was imported.
        """
        import torch

        from sagan_deploy.model.generator import Generator

        # Random initial values are drawn and thrown away; the caller's random state must not notice.
        with torch.random.fork_rng(devices=[]):
            generator = Generator(self.config)
        _check_state(self.state, generator.state_dict())
        if any(tensor.dtype == torch.float64 for tensor in self.state.values()):
            generator = generator.double()
        generator.load_state_dict(self.state)
        return generator.eval().requires_grad_(False)


def checkpoint_of(
    generator: Generator, *, class_names: tuple[str, ...] = (), provenance: tuple[dict[str, Any], ...] = ()
) -> Checkpoint:
    """A copy of a network's weights as a `Checkpoint`."""
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in generator.state_dict().items()}
    return Checkpoint(generator.config, state, class_names, provenance)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint in one step; an older file of that name stays whole if anything fails."""
    safetensors_torch = require("safetensors.torch", "export")
    header = {
        "format": FORMAT,
        "config": to_dict(checkpoint.config),
        "class_names": checkpoint.class_names,
        "provenance": checkpoint.provenance,
    }
    # One entry for all: safetensors writes several in an order that changes from process to process.
    return write_bytes(path, safetensors_torch.save(checkpoint.state, {HEADER_KEY: json.dumps(header)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and hold it against its own config.

    Raises:
        InputError: not a safetensors file of this project, truncated, of another shape than its config says,
            or with weights that are not finite.
    """
    require("torch", "export")
    safetensors_torch = require("safetensors.torch", "export")
    payload = read_bytes(Path(path))
    header = read_header(payload, str(path))
    try:
        state = safetensors_torch.load(payload)
    except Exception as error:  # the library's errors share no base that is documented
        raise InputError(f"{path} is not a whole safetensors file ({error}). Copy or train it again.") from error
    try:
        checkpoint = Checkpoint(
            config=from_dict(GeneratorConfig, header["config"]),
            state=state,
            class_names=tuple(header["class_names"]),
            provenance=tuple(header["provenance"]),
            sha256=sha256_bytes(payload),
        )
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} has a damaged header: {error}") from error
    _check_finite(path, state)
    return checkpoint


def read_header(payload: bytes, name: str) -> dict[str, Any]:
    """The header of a safetensors file of ours, without touching its tensors.

    Raises:
        InputError: the bytes are no safetensors file, or one of another project.
    """
    length = int.from_bytes(payload[:8], "little")
    try:
        if not 2 <= length <= len(payload) - 8:
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"][HEADER_KEY])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} is not a generator checkpoint (a .safetensors file with a header of this project). "
            f"Make one with: sagan-deploy train --help"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise InputError(f"{name} is a safetensors file of format {found!r}; this version reads {FORMAT!r}.")
    return header


def _check_state(state: dict[str, Tensor], expected: dict[str, Any]) -> None:
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise InputError(
            f"the weights do not belong to this config: missing {_some(missing)}; not known {_some(extra)}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}; the config asks for {tuple(expected[name].shape)}"
            )


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path} holds NaN or infinite values in {name}: the training diverged; use an older one.")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "nothing"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
