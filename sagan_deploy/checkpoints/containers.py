"""Where in a file the generator's tensors are: below a key, behind a prefix, beside a discriminator."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sagan_deploy.checkpoints.reading import OpenedFile

_STATE_KEYS = ("G_state_dict", "model_state_dict", "state_dict", "ema_state_dict", "generator", "g_ema", "netG", "G")
_WRAPPERS = ("module.", "_orig_mod.")
_NETWORKS = ("generator_ema.", "generator.")


@dataclass(frozen=True)
class Candidate:
    """A dictionary of tensors that may be a generator's.

    `place` says where it lay, `prefix` what was cut off its names, `others` counts tensors of other networks beside it.
    """

    place: str
    tensors: Mapping[str, Tensor]
    prefix: str = ""
    others: int = 0

    @property
    def averaged(self) -> bool:
        """Whether its place says that these are averaged (EMA) weights."""
        return "ema" in f"{self.place}{self.prefix}".lower()


def candidates(opened: OpenedFile) -> Iterator[Candidate]:
    """Every dictionary of tensors in a file, with and without the prefixes that training adds."""
    content = opened.content
    if not isinstance(content, Mapping):
        return
    places = [("", content), *((key, content[key]) for key in _STATE_KEYS if isinstance(content.get(key), Mapping))]
    for place, value in places:
        tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
        if tensors:
            yield from _unwrapped(Candidate(place, tensors))


def _unwrapped(candidate: Candidate) -> Iterator[Candidate]:
    """The candidate, and what is left below each prefix that all of it or a network of it has."""
    if not candidate.tensors:
        return
    yield candidate
    for wrapper in _WRAPPERS:
        # Only in front of every name: the word is also inside the names of one origin.
        if all(key.startswith(wrapper) or key == "n_averaged" for key in candidate.tensors):
            yield from _unwrapped(_below(candidate, wrapper))
    for network in _NETWORKS:
        yield from _unwrapped(_below(candidate, network))


def _below(candidate: Candidate, prefix: str) -> Candidate:
    tensors = {key.removeprefix(prefix): t for key, t in candidate.tensors.items() if key.startswith(prefix)}
    others = candidate.others + len(candidate.tensors) - len(tensors)
    return Candidate(candidate.place, tensors, candidate.prefix + prefix, others)


def says_ema(name: str) -> bool:
    """Whether a file's name says that it holds averaged weights: G_ema.pth, model=G_ema-best-..."""
    return re.search(r"(?i)(?<![a-z])ema(?![a-z])", name.replace("_", " ")) is not None


def foreign(content: Any, name: str) -> str | None:
    """What a PyTorch file without a known generator is, as far as that can be seen, and what to give instead."""
    if not isinstance(content, Mapping):
        return f"holds a {type(content).__name__}, not named tensors; give the file with the generator's weights"
    if not any(isinstance(value, (Tensor, Mapping)) for value in content.values()):
        return "holds no tensors; give the file with the generator's weights"
    if {"state", "param_groups"} <= set(content):
        return "is an optimizer's state; give the generator's weights (G_ema.pth or G.pth, for example)"
    if isinstance(content.get("config"), Mapping) and "itr" in content:
        return "holds a run's options and no weights; give G_ema.pth or G.pth before it"
    keys = [key for place in (content, *(content.get(k) for k in _STATE_KEYS)) if isinstance(place, Mapping)
            for key in map(str, place)]  # fmt: skip
    if _is_discriminator(keys, name):
        return "is a discriminator; those are not imported, give the generator's file"
    if any(key.startswith("trunk.") for key in keys):
        return "is Lornatang/SAGAN-PyTorch's, which is not supported"
    return None


def _is_discriminator(keys: list[str], name: str) -> bool:
    if re.search(r"(?i)(^|[_=/-])(net)?d([-_.]|isc)", name):
        return True
    sign = r"(module\.)?(opt_block1|linear1|embedding|embed|pre_conv|l_y|discriminator|snlinear1|l\d\.0\.module)\b"
    return any(re.match(sign, key) for key in keys)
