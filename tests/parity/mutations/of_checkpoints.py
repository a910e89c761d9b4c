"""Mutations of what an exporter makes of a checkpoint: the file holds the weights of a slightly wrong network.

The wrong network goes through the same inference form as the right one, and its weights replace those of the exported
file by name. So they can also be judged at the algebra leg, as a mistake in the folding itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from sagan_deploy.checkpoints.native import Checkpoint

Wrong = Callable[[Checkpoint], Checkpoint]


def changed(checkpoint: Checkpoint, change: Callable[[dict[str, Tensor]], None], **config: object) -> Checkpoint:
    """A copy whose weights `change` may write to, with some fields of the config replaced."""
    state = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
    change(state)
    return dataclasses.replace(checkpoint, state=state, config=dataclasses.replace(checkpoint.config, **config))


def _names(state: dict[str, Tensor], part: str, suffix: str) -> list[str]:
    found = [name for name in state if part in name and name.endswith(suffix)]
    assert found, (part, suffix)
    return found


def _scaled(part: str, suffix: str, factor: float) -> Wrong:
    def wrong(checkpoint: Checkpoint) -> Checkpoint:
        def change(state: dict[str, Tensor]) -> None:
            for name in _names(state, part, suffix):
                state[name] *= factor

        return changed(checkpoint, change)

    return wrong


def epsilon(value: float) -> Wrong:
    """Batch norm folded with another ε."""
    return lambda checkpoint: changed(checkpoint, lambda _: None, norm_eps=value, final_norm_eps=value)


def gamma(factor: float) -> Wrong:
    """Attention's γ times a factor; 0 drops it."""
    return _scaled("attention", "gamma", factor)


def attention_scale(scale: str) -> Wrong:
    """The other convention: scores divided by √d, or not."""

    def wrong(checkpoint: Checkpoint) -> Checkpoint:
        assert checkpoint.config.attention.scale != scale
        attention = dataclasses.replace(checkpoint.config.attention, scale=scale)
        return changed(checkpoint, lambda _: None, attention=attention)

    return wrong


dropped_bias = _scaled("stages.0", "conv1.bias", 0.0)
dropped_last_bias = _scaled("tail.conv", "bias", 0.0)
dropped_mean = _scaled("stages.1", "norm2.statistics.running_mean", 0.0)
sigma_off = _scaled("stages.0.block.conv1", "weight.0._u", 1.01)  # σ = uᵀWv
all_sigmas_off = _scaled("", "weight.0._u", 1.0002)


def sigma_forgotten(checkpoint: Checkpoint) -> Checkpoint:
    """W instead of W/σ in one layer."""

    def change(state: dict[str, Tensor]) -> None:
        path = "stages.0.block.conv1.parametrizations.weight"
        weight, u, v = state[f"{path}.original"], state[f"{path}.0._u"], state[f"{path}.0._v"]
        state[f"{path}.0._u"] = u / torch.dot(u, weight.flatten(1) @ v)

    return changed(checkpoint, change)


def stale(drift: float) -> Wrong:
    """The weights of an earlier moment: every tensor has moved by a share of its own spread since."""

    def wrong(checkpoint: Checkpoint) -> Checkpoint:
        source = torch.Generator().manual_seed(5)

        def change(state: dict[str, Tensor]) -> None:
            for name in _names(state, "", "original"):
                state[name] += drift * state[name].std() * torch.randn(state[name].shape, generator=source)

        return changed(checkpoint, change)

    return wrong


def table_rows(change_rows: Callable[[Tensor], None], part: str = "stages.1.block.norm1") -> Wrong:
    """A change of the rows of one norm's class tables."""

    def wrong(checkpoint: Checkpoint) -> Checkpoint:
        def change(state: dict[str, Tensor]) -> None:
            for name in (*_names(state, part, "gain.weight"), *_names(state, part, "shift.weight")):
                change_rows(state[name])

        return changed(checkpoint, change)

    return wrong


def embedding_rows(change_rows: Callable[[Tensor], None]) -> Wrong:
    """A change of the rows of the embedding."""

    def wrong(checkpoint: Checkpoint) -> Checkpoint:
        return changed(checkpoint, lambda state: change_rows(state["embedding.weight"]))

    return wrong


def swap(first: int, second: int) -> Callable[[Tensor], None]:
    """Two rows change places."""

    def change(table: Tensor) -> None:
        table[[first, second]] = table[[second, first]]

    return change


def scale(row: int, factor: float) -> Callable[[Tensor], None]:
    """One row times a factor."""

    def change(table: Tensor) -> None:
        table[row] *= factor

    return change


def louder_scores(checkpoint: Checkpoint) -> Checkpoint:
    """No mistake but a network that half precision cannot hold: attention scores beyond 65504."""
    return _scaled("attention.query", "weight.0._u", 1e-5)(checkpoint)
