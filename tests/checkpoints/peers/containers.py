"""The dictionaries around a state: module prefixes, torch's metadata, optimiser states."""

from collections import OrderedDict

import torch
from torch import Tensor

State = dict[str, Tensor]

BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "weight_u", "weight_v")


def parallel(state: State, wanted: bool = True) -> State:
    """The state as DataParallel would have saved it: one more `module.` before every key."""
    return OrderedDict((f"module.{key}", value) for key, value in state.items()) if wanted else state


def alone(state: State) -> State:
    """The state without DataParallel's prefix, of which only the first `module.` is one."""
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def under(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def with_metadata(state: State) -> State:
    """An ordered dict that carries versions per module, as `state_dict()` leaves them."""
    ordered = OrderedDict(state)
    versions: dict[str, dict] = {"": {"version": 1}}
    for key in ordered:
        parts = key.split(".")[:-1]
        for length in range(1, len(parts) + 1):
            versions.setdefault(".".join(parts[:length]), {"version": 1})
        if key.endswith(".running_mean"):
            versions[".".join(parts)] = {"version": 2}
        if key.endswith(".weight_v"):
            versions[".".join(parts)]["spectral_norm"] = {"weight.version": 1}
    ordered._metadata = OrderedDict(versions)
    return ordered


def parameters(state: State) -> list[str]:
    return [key for key in state if not key.endswith(BUFFERS)]


def adam(state: State, filled: bool, rate: float = 2e-4, betas: tuple[float, float] = (0.0, 0.9)) -> dict:
    """Adam's state dict for the parameters of this state, before or after its first steps."""
    names = parameters(state)
    slots = {}
    if filled:
        for number, name in enumerate(names):
            zeros = torch.zeros_like(state[name])
            slots[number] = {"step": torch.tensor(1000.0), "exp_avg": zeros + 1e-3, "exp_avg_sq": zeros + 1e-6}
    group = {"lr": rate, "betas": betas, "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    return {"state": slots, "param_groups": [{**group, "params": list(range(len(names)))}]}
