"""The state of a run in one safetensors file, replaced whole: a kill at any moment leaves the last good one.

It holds the networks, the average and Adam's moments; random numbers need none, as they follow from seed and step.
Nothing in it could run when it is read (no pickle).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sagan_deploy.config import DiscriminatorConfig, GeneratorConfig, TrainConfig, from_dict, to_dict
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes
from sagan_deploy.optional import require
from sagan_deploy.presets import Preset
from sagan_deploy.training.trainer import Trainer

FORMAT = "sagan-deploy/training/1"
STATE_NAME = "training.safetensors"
_HEADER_KEY = "sagan_deploy_training"
_SCALING = "loss_scaling"
# These may change between sessions of one run: they decide when to stop and what to write, not what is learned.
_FREE = {
    "compile",
    "deterministic",
    "steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep",
    "watch",
    "standing_batches",
    "evaluate_every",
}


@dataclass(frozen=True)
class RunState:
    """Where a run stands after `step` steps, and what it is a run of.

    `total` and `minutes` are its plan (see `schedule.Plan`), `elapsed` its seconds so far, `source` and
    `fingerprint` its data.
    """

    preset: Preset
    step: int
    total: int | None
    minutes: float | None
    elapsed: float
    source: str
    fingerprint: str
    best: float | None = None  # the classifier Fréchet distance of best.safetensors
    history: tuple[dict[str, Any], ...] = ()  # the provenance of the generator it began with


def state_bytes(state: RunState, trainer: Trainer) -> bytes:
    """The run as the bytes of a file."""
    header = {"format": FORMAT, **dataclasses.asdict(state), "preset": _preset_dict(state.preset)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(trainer).items()}
    # safetensors refuses tensors that share memory; on the CPU none of these do.
    payload: bytes = require("safetensors.torch", "train").save(tensors, {_HEADER_KEY: json.dumps(header)})
    return payload


def read_run(path: Path) -> RunState:
    """What a run is and where it stands, without its tensors.

    Raises:
        InputError: not a training state of this project, truncated or damaged.
    """
    return run_of(read_header(path), path=path)


def read_header(path: Path) -> bytes:
    """The header of a state, for `run_of`.

    Raises:
        InputError: not a training state of this project, truncated or damaged.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= path.stat().st_size - 8:
                raise ValueError(f"its header claims {length} bytes")
            header = stream.read(length)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist, so there is no run to resume. Start one without --resume.") from error
    except _DAMAGES as error:
        raise InputError(f"{path} is not a training state ({error}). Start again without --resume.") from error
    run_of(header, path=path)
    return header


def run_of(header: bytes, *, path: Path) -> RunState:
    """What a header says; `path` is named in errors."""
    try:
        values = json.loads(json.loads(header)["__metadata__"][_HEADER_KEY])
        if values.pop("format") != FORMAT:
            raise ValueError(f"this version reads {FORMAT!r}")
        parsed = {"preset": _preset_from(values["preset"]), "history": tuple(values.get("history", ()))}
        return RunState(**values | parsed)
    except _DAMAGES as error:
        raise InputError(f"{path} is not a training state ({error}). Start again without --resume.") from error


def read_state(path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """A run and its tensors, for `restore`.

    Raises:
        InputError: not a training state of this project, truncated or damaged.
    """
    read_run(path)  # a missing file is named as such
    return parse_state(read_bytes(path), path=path)


def parse_state(payload: bytes, *, path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """`read_state` of bytes that were read from `path` already."""
    length = int.from_bytes(payload[:8], "little")
    try:
        if not 2 <= length <= len(payload) - 8:
            raise ValueError(f"its header claims {length} bytes")
    except _DAMAGES as error:
        raise InputError(f"{path} is not a training state ({error}). Start again without --resume.") from error
    state = run_of(payload[8 : 8 + length], path=path)
    try:
        tensors: dict[str, Tensor] = require("safetensors.torch", "train").load(payload)
    except InputError:
        raise
    except Exception as error:  # what safetensors raises for damaged tensors has no documented base
        raise InputError(f"{path} is not whole ({error}). Start again without --resume.") from error
    return state, tensors


_DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError)


def restore(trainer: Trainer, tensors: dict[str, Tensor], *, path: Path) -> None:
    """Put the tensors of `read_state` into a trainer of the same preset.

    Raises:
        InputError: they belong to other networks.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = tensor
    try:
        for name, network in _networks(trainer).items():
            network.load_state_dict(parts.pop(name))
        for name, (optimizer, network) in _optimizers(trainer).items():
            _restore_adam(optimizer, network, parts.pop(name, {}))
        if trainer.scaler.is_enabled():
            scaling = parts.pop(_SCALING)
            trainer.scaler.load_state_dict(
                trainer.scaler.state_dict() | {name: tensor.item() for name, tensor in scaling.items()}
            )
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} does not fit the networks of its own header: {error}") from error
    if parts:
        raise InputError(f"{path} holds tensors that no network has: {', '.join(sorted(parts))}")


def check_same_run(state: RunState, preset: Preset, fingerprint: str, *, path: Path) -> None:
    """Refuse to continue a run with other networks, settings or data than it began with.

    Raises:
        ConfigError: names every setting that differs, with both values.
    """
    before, now = _flat(_preset_dict(state.preset)), _flat(_preset_dict(preset))
    differ = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(set(before) | set(now))
        if before.get(name) != now.get(name) and name.removeprefix("train.") not in _FREE
    ]
    if differ:
        raise ConfigError(f"{path} is a run with other settings: {'; '.join(differ)}. Resume with the same ones.")
    if state.fingerprint != fingerprint:
        raise ConfigError(f"{path} is a run on other images ({state.source}). Resume with the same --data.")


def is_finite(trainer: Trainer) -> bool:
    """Whether no weight of either network is NaN or infinite."""
    # The average follows the generator, so the two networks tell it all. A sum is finite only if every term is.
    parameters = [*trainer.generator.parameters(), *trainer.discriminator.parameters()]
    return all(math.isfinite(float(parameter.detach().abs().sum())) for parameter in parameters)


def digest(trainer: Trainer) -> str:
    """A hash of all that a step changes: equal in all processes of a run, or something is wrong."""
    found = hashlib.sha256()
    for name, tensor in sorted(_tensors(trainer).items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _networks(trainer: Trainer) -> dict[str, nn.Module]:
    return {"generator": trainer.generator, "discriminator": trainer.discriminator, "ema": trainer.ema.generator}


def _optimizers(trainer: Trainer) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
    return {
        "generator_adam": (trainer.generator_optimizer, trainer.generator),
        "discriminator_adam": (trainer.discriminator_optimizer, trainer.discriminator),
    }


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part, net in _networks(trainer).items():
        found |= {f"{part}/{name}": tensor for name, tensor in net.state_dict().items()}
    for part, (optimizer, network) in _optimizers(trainer).items():
        for name, parameter in network.named_parameters():
            for moment, tensor in optimizer.state.get(parameter, {}).items():
                found[f"{part}/{name}/{moment}"] = tensor
    if trainer.scaler.is_enabled():
        values = trainer.scaler.state_dict()
        found |= {f"{_SCALING}/{name}": torch.tensor(values[name]) for name in ("scale", "_growth_tracker")}
    return found


def _restore_adam(optimizer: torch.optim.Optimizer, network: nn.Module, saved: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        found = {moment: saved.pop(f"{name}/{moment}", None) for moment in ("step", "exp_avg", "exp_avg_sq")}
        moments = {moment: tensor for moment, tensor in found.items() if tensor is not None}
        if not moments:
            continue  # Adam keeps none for a weight that never had a gradient
        if len(moments) < len(found) or moments["exp_avg"].shape != parameter.shape:
            raise KeyError(f"Adam's moments of {name} are not whole")
        # The moments take the layout of their parameter, as Adam makes them: the fused step walks both side by side.
        optimizer.state[parameter] = {
            "step": moments["step"].to(parameter.device),
            "exp_avg": torch.empty_like(parameter).copy_(moments["exp_avg"]),
            "exp_avg_sq": torch.empty_like(parameter).copy_(moments["exp_avg_sq"]),
        }
    if saved:
        raise KeyError(f"Adam's moments of {sorted(saved)[0]} belong to no weight")


def _preset_dict(preset: Preset) -> dict[str, Any]:
    parts = ("generator", "discriminator", "train")
    return {name: to_dict(getattr(preset, name)) for name in parts}


def _preset_from(values: dict[str, Any]) -> Preset:
    return Preset(
        from_dict(GeneratorConfig, values["generator"]),
        from_dict(DiscriminatorConfig, values["discriminator"]),
        from_dict(TrainConfig, values["train"]),
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
