"""Which of their tensors become which of ours: a translation is a list of parts.

Each part knows the names that it needs, so that everything missing and everything left over can be listed before
anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sagan_deploy.checkpoints.source import Source
from sagan_deploy.checkpoints.spectral import SpectralNorm, effective_weight, stored_names

State = Mapping[str, Tensor]
Edit = Callable[[Tensor], Tensor]  # applied to a weight and to a bias alike: both have their outputs in dimension 0


@dataclass(frozen=True)
class Part:
    """`needs` must be there, `may` belongs to the part where it is there; `build` gives our names and tensors."""

    needs: tuple[str, ...]
    build: Callable[[State], dict[str, Tensor]]
    may: tuple[str, ...] = ()


def same(tensor: Tensor) -> Tensor:
    """Leave it as it is."""
    return tensor


def layer(source: Source, ours: str, theirs: str, mode: SpectralNorm, *, bias: bool = True, edit: Edit = same) -> Part:
    """A convolution or linear layer: W/σ and, with `bias`, its bias."""
    weights, biases = stored_names(source.tensors, theirs), (_bias_of(source, theirs),) if bias else ()

    def build(state: State) -> dict[str, Tensor]:
        built = {f"{ours}.weight": edit(effective_weight(state, theirs, mode))}
        return built | {f"{ours}.bias": edit(state[key].double()) for key in biases}

    return Part((*weights, *biases), build, _spectral_extras(source, theirs))


def table(source: Source, ours: str, theirs: str, mode: SpectralNorm, *, edit: Edit = same) -> Part:
    """An embedding (or a linear layer on one-hot vectors, with `edit` = `transposed`)."""
    return layer(source, ours, theirs, mode, bias=False, edit=edit)


def split_table(ours: str, theirs: str, gain_offset: int) -> Part:
    """One embedding (classes, 2C) that holds gains, then shifts: a conditional norm's two tables."""
    key = f"{theirs}.weight"

    def build(state: State) -> dict[str, Tensor]:
        gain, shift = state[key].double().chunk(2, dim=1)
        return {f"{ours}.gain.weight": gain + gain_offset, f"{ours}.shift.weight": shift}

    return Part((key,), build)


def value(ours: str, theirs: str, edit: Edit = same) -> Part:
    """One tensor."""
    return Part((theirs,), lambda state: {ours: edit(state[theirs].double())})


def scalar(ours: str, theirs: str) -> Part:
    """A single number, stored as [] or as [1]."""
    return value(ours, theirs, lambda tensor: tensor.reshape(()) if tensor.numel() == 1 else tensor)


def statistics(ours: str, theirs: str, *, names: tuple[str, str] = ("running_mean", "running_var")) -> Part:
    """Batch norm's mean and variance per channel, and torch's count of batches, which nothing reads."""
    mean, variance = (f"{theirs}.{name}" for name in names)
    count = f"{theirs}.num_batches_tracked"

    def build(state: State) -> dict[str, Tensor]:
        return {
            f"{ours}.running_mean": state[mean].double(),
            f"{ours}.running_var": state[variance].double(),
            f"{ours}.num_batches_tracked": state.get(count, torch.zeros((), dtype=torch.int64)),
        }

    return Part((mean, variance), build, (count,))


def batch_norm(ours: str, theirs: str) -> list[Part]:
    """A BatchNorm2d with its own gain and bias."""
    names = ("weight", "bias")
    return [statistics(ours, theirs), *(value(f"{ours}.{name}", f"{theirs}.{name}") for name in names)]


def transposed(tensor: Tensor) -> Tensor:
    """(a, b) → (b, a)."""
    return tensor.T.contiguous()


def plus(offset: int) -> Edit:
    """Add the 1 that an origin adds in its forward pass."""
    return lambda tensor: tensor + offset


def chain(*edits: Edit) -> Edit:
    """One after the other."""

    def edit(tensor: Tensor) -> Tensor:
        for step in edits:
            tensor = step(tensor)
        return tensor

    return edit


def in_order(channel_order: str) -> Edit:
    """The image's channels as RGB: reverses the outputs of a last layer that draws BGR."""
    return same if channel_order == "rgb" else lambda tensor: tensor.flip(0)


def from_height_width_channels(width: int) -> Edit:
    """Outputs of a linear layer seen as (h, w, c) put into the order (c, h, w)."""

    def edit(tensor: Tensor) -> Tensor:
        rows = tensor.reshape(width, width, -1, *tensor.shape[1:])
        return rows.movedim(2, 0).reshape(tensor.shape)

    return edit


def account(source: Source, parts: Iterable[Part], ignored: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Names that the parts need and the source lacks, and names in the source that nothing has a use for."""
    parts = list(parts)
    needed = {key for part in parts for key in part.needs}
    known = needed | {key for part in parts for key in part.may} | set(ignored)
    return sorted(needed - set(source.tensors)), sorted(set(source.tensors) - known)


def _bias_of(source: Source, layer: str) -> str:
    wrapped = f"{layer}.module.bias"
    return wrapped if wrapped in source else f"{layer}.bias"


def _spectral_extras(source: Source, layer: str) -> tuple[str, ...]:
    """What training logged beside the layer: singular values, and the vectors of further ones."""
    logs = (f"{layer}.{name}{i}" for i in range(_TRACKED) for name in ("u", "sv"))
    return tuple(key for key in logs if key in source)


_TRACKED = 16
