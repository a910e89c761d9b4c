"""What an origin is, and what a translation of its tensors says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sagan_deploy.checkpoints.parts import Part
from sagan_deploy.checkpoints.settings import Assumption, Settings, Value
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.config import GeneratorConfig


@dataclass(frozen=True)
class Translation:
    """The network that a file describes, and where each of its tensors lies.

    `ignored` are names that no image depends on; `facts` are findings that the config does not show;
    `check` is what a user should know before trusting the pictures.
    """

    config: GeneratorConfig
    parts: tuple[Part, ...]
    ignored: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    check: tuple[str, ...] = ()


@dataclass(frozen=True)
class OriginConfig:
    """What an origin's own config file says: settings, and fields of the network that the weights must confirm."""

    settings: Mapping[str, Value]
    confirms: Mapping[str, int]


@dataclass(frozen=True)
class Origin:
    """A public implementation.

    Attributes:
        name: what ``--from`` takes.
        title: the repository.
        recognises: whether the names of these tensors are this origin's.
        assume: what its files do not tell, with the values taken when nobody says.
        translate: reads the config out of names and shapes.
        read_config: what the origin's own config file says; None for an origin without one.
    """

    name: str
    title: str
    recognises: Callable[[Source], bool]
    assume: Callable[[Source], Mapping[str, Assumption]]
    translate: Callable[[Source, Settings], Translation]
    read_config: Callable[[Mapping[str, Any]], OriginConfig] | None = None


EVAL_STORED = Assumption("stored", "eval() uses the stored u and v")
RELU = {
    "activation": Assumption("relu", "the original's default"),
    "activation_slope": Assumption(0.2, "only leaky_relu has one"),
}
RGB = {"channel_order": Assumption("rgb", "the original trains on RGB")}
EPS_1E_5 = Assumption(1e-5, "torch's default, which the original keeps")


def chosen(settings: Settings) -> dict[str, Any]:
    """The fields of a config that come from settings alone."""
    return {
        "activation": settings["activation"],
        "final_activation": settings["activation"],
        "activation_slope": settings["activation_slope"] if settings["activation"] == "leaky_relu" else 0.2,
        "norm_eps": settings["norm_eps"],
        "final_norm_eps": settings["final_norm_eps"] if "final_norm_eps" in settings else settings["norm_eps"],
        "spectral_norm": False,  # it is folded into the weights
    }
