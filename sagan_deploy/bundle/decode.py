"""JSON into frozen dataclasses, strictly: every field present, none unknown, every value of its declared type."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, TypeVar, Union

from sagan_deploy.config import GeneratorConfig, from_dict
from sagan_deploy.errors import ConfigError, InputError

T = TypeVar("T")

ADDED = {"added": True}  # metadata of a field with a default that files of older versions lack


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object; NaN, infinities and repeated keys are refused, as they are no JSON or no single meaning.

    Raises:
        InputError: the text is no JSON object; the message starts with `name`.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} must hold a JSON object, not {_kind(value)}.")
    return value


def decode(cls: type[T], value: Any, where: str) -> T:
    """Build the dataclass `cls` from plain JSON values.

    Args:
        cls: a dataclass whose fields are dataclasses, scalars, ``Literal``, ``tuple[X, ...]``, ``tuple[X, Y]``,
            ``dict[str, X]``, ``Any`` and unions of those.
        value: what `parse_object` returned, or a part of it.
        where: the place in the file, for messages, for example ``"manifest.json artifacts[0]"``.

    Raises:
        InputError: a field is missing, unknown or of another type.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, not {_kind(value)}.")
    hints = typing.get_type_hints(cls)
    added = {item.name for item in dataclasses.fields(typing.cast(Any, cls)) if item.metadata.get("added")}
    missing = [name for name in hints if name not in value and name not in added]
    unknown = [name for name in value if name not in hints]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has the unknown field {', '.join(unknown)}"
        raise InputError(f"{where} {problem}. The file was edited or written by another version.")
    return cls(**{name: _decode(hint, value[name], f"{where} {name}") for name, hint in hints.items() if name in value})


def _decode(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is GeneratorConfig:
        try:
            return from_dict(GeneratorConfig, value)
        except (ConfigError, TypeError) as error:
            raise InputError(f"{where}: {error}.") from error
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object, not {_kind(value)}.")
        return {key: _decode(arguments[1], item, f"{where} {key!r}") for key, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} (={value!r}) must be one of {', '.join(map(str, arguments))}.")
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    return _decode_scalar(hint, value, where)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list, not {_kind(value)}.")
    variadic = arguments[1:] == (...,)
    if not variadic and len(value) != len(arguments):
        raise InputError(f"{where} must list {len(arguments)} values, not {len(value)}.")
    elements = arguments[:1] * len(value) if variadic else arguments
    return tuple(
        _decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(elements, value, strict=True))
    )


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [hint for hint in arguments if hint is not type(None)]
    if len(choices) == 1:
        return _decode(choices[0], value, where)
    for hint in choices:
        if type(value) is hint:
            return value
    raise InputError(f"{where} (={value!r}) must be of type {' or '.join(hint.__name__ for hint in choices)}.")


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # bool is an int to Python, not to a manifest
        raise InputError(f"{where} (={value!r}) must be of type {hint.__name__}, not {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated = [key for key in result if sum(key == other for other, _ in pairs) > 1]
        raise ValueError(f"the key {repeated[0]!r} appears more than once")
    return result
