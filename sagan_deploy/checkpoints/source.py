"""The tensors of somebody else's generator, by name, and what can be asked of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sagan_deploy.checkpoints.spectral import stored_names
from sagan_deploy.errors import InputError


@dataclass(frozen=True)
class Source:
    """A state dict under the names of its origin. `name` is the file's, for messages."""

    name: str
    tensors: Mapping[str, Tensor]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def any(self, pattern: str) -> bool:
        """Whether some name matches the regular expression from its start."""
        return any(re.match(pattern, key) for key in self.tensors)

    def numbers(self, pattern: str) -> list[int]:
        """The distinct integers that the pattern's first group takes, in order."""
        return sorted({int(found[1]) for key in self.tensors if (found := re.match(pattern, key))})

    def shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        """The shape of one tensor.

        Raises:
            InputError: it is missing or has another number of dimensions.
        """
        if key not in self.tensors:
            raise InputError(f"{self.name} has no {key}, without which the network's shape is unknown.")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise InputError(f"{self.name}: {key} has shape {shape}; expected {dimensions} dimensions, none empty.")
        return shape

    def weight_shape(self, layer: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a layer's weight, in whatever form its spectral norm is stored."""
        return self.shape(stored_names(self.tensors, layer)[0], dimensions)

    def consecutive(self, pattern: str, first: int, what: str) -> list[int]:
        """`numbers`, which must count up from `first` without a gap.

        Raises:
            InputError: none at all, or one is missing between others.
        """
        numbers = self.numbers(pattern)
        if not numbers or numbers != list(range(first, first + len(numbers))):
            raise InputError(f"{self.name} holds the {what} {numbers or 'none'}; expected {first}, {first + 1}, ...")
        return numbers
