"""What an import may be told with ``--set``: names, values, and what each is assumed to be when nobody says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sagan_deploy.errors import ConfigError

Value = str | int | float


@dataclass(frozen=True)
class Setting:
    """`parse` turns text or a number into the value, or raises ValueError with what it should be.

    `alternatives` are the values that a failed check tries in turn.
    """

    meaning: str
    parse: Callable[[Any], Value]
    alternatives: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Assumption:
    """A setting of an origin that its files do not tell: what is taken when nobody says, and why."""

    default: Value | None
    why: str


def _choice(*choices: str) -> Callable[[Any], Value]:
    def parse(value: Any) -> Value:
        text = str(value).lower().replace("-", "_")
        # torch's class names say the same: LeakyReLU, GELU.
        for choice in choices:
            if text.replace("_", "") == choice.replace("_", ""):
                return choice
        raise ValueError(f"one of {', '.join(choices)}")

    return parse


def _number(rule: str, accept: Callable[[float], bool]) -> Callable[[Any], Value]:
    def parse(value: Any) -> Value:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(rule) from None
        if isinstance(value, bool) or not math.isfinite(number) or not accept(number):
            raise ValueError(rule)
        return number

    return parse


def _whole(rule: str, accept: Callable[[int], bool]) -> Callable[[Any], Value]:
    number = _number(rule, lambda n: n == int(n) and accept(int(n)))
    return lambda value: int(number(value))


_POSITIVE = _number("a positive number such as 1e-5", lambda n: n > 0)

# What people use first; one that fits ends the search.
_TRUNCATIONS = (0.4, 0.5, 0.7, 0.8, 1.0, *(round(0.01 * i, 2) for i in range(101)))

SETTINGS: dict[str, Setting] = {
    "norm_eps": Setting("ε of batch norm", _POSITIVE, (1e-5, 1e-4, 1e-3, 2e-5, 1e-6)),
    "final_norm_eps": Setting("ε of the last batch norm", _POSITIVE, (1e-5, 1e-4, 1e-3, 2e-5, 1e-6)),
    "activation": Setting(
        "the activation", _choice("relu", "leaky_relu", "elu", "gelu"), ("relu", "leaky_relu", "elu", "gelu")
    ),
    "activation_slope": Setting("leaky_relu's negative slope", _POSITIVE, (0.1, 0.2, 0.01)),
    "gain_offset": Setting(
        "what is added to the gain tables of conditional batch norm", _whole("0 or 1", lambda n: n in (0, 1)), (0, 1)
    ),
    "channel_order": Setting("the order in which the network draws", _choice("rgb", "bgr"), ("rgb", "bgr")),
    "attention_map": Setting(
        "whether the attention map is transposed before it weighs the values",
        _choice("standard", "untransposed"),
        ("standard", "untransposed"),
    ),
    "spectral_norm": Setting(
        "stored: divide by what the file holds, as eval() does; iterate: after one power iteration",
        _choice("stored", "iterate"),
        ("stored", "iterate"),
    ),
    "truncation": Setting(
        "whose batch norm statistics to take, 0 to 1",
        _number("a number from 0 to 1", lambda n: 0 <= n <= 1),
        _TRUNCATIONS,
    ),
    "depth": Setting("blocks per resolution", _whole("a whole number from 1", lambda n: n >= 1)),
    "resolution": Setting("height and width of the image", _whole("a number of pixels", lambda n: n >= 8)),
    "weights": Setting("which weights of a file that holds both", _choice("ema", "raw"), ("ema", "raw")),
}


class Settings:
    """The settings of one import, and where each came from.

    Reading one notes that it was used; one that was given and never used is an error of the user, found at the end.
    """

    def __init__(
        self, given: Mapping[str, Value], configured: Mapping[str, Value], assumptions: Mapping[str, Assumption]
    ) -> None:
        self.given, self.configured, self.assumptions = dict(given), dict(configured), dict(assumptions)
        self.used: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self.given:
            found: Any = self.given[name]
        elif name in self.configured:
            found = self.configured[name]
        elif name in self.assumptions:
            found = self.assumptions[name].default
        else:
            raise KeyError(name)
        self.used[name] = found
        return found

    def __contains__(self, name: str) -> bool:
        return name in self.given or name in self.configured or name in self.assumptions

    def told(self, name: str) -> Any | None:
        """What the user or the origin's own config says, or None: for what the file can tell too."""
        return self[name] if name in self.given or name in self.configured else None

    def assumed(self) -> dict[str, tuple[Value, str]]:
        """What was used though nobody said it: value and reason, by name."""
        return {
            name: (value, self.assumptions[name].why)
            for name, value in self.used.items()
            if name not in self.given and name not in self.configured and value is not None
        }


def parse_settings(pairs: Mapping[str, Any]) -> dict[str, Value]:
    """Checked values by name.

    Raises:
        ConfigError: an unknown name or an impossible value.
    """
    values = {}
    for name, value in pairs.items():
        if name not in SETTINGS:
            raise ConfigError(f"--set knows no {name!r}. It knows: {', '.join(SETTINGS)}")
        try:
            values[name] = SETTINGS[name].parse(value)
        except ValueError as error:
            raise ConfigError(f"--set {name}={value} must be {error}") from None
    return values
