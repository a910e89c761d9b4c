"""The JSON Schema (draft 2020-12) of ``report.json``, derived from the dataclasses that the report is made of.

The published file lies beside this module; ``python -m sagan_deploy.reports.schema`` prints what it must hold.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from importlib.resources import files
from typing import Any, Literal, Union

from sagan_deploy.parity import evidence, report
from sagan_deploy.parity.report import SCHEMA_VERSION, ParityReport

FILE_NAME = "parity-report.schema.json"
#: What `ParityReport.to_dict` leaves out: pictures, arrays, and what the manifest says already.
_LEFT_OUT = {"ParityReport": ("arrays",), "Leg": ("pictures", "maps", "artifact")}
#: What it adds to a type: properties whose values follow from the others.
_ADDED: dict[str, dict[str, Any]] = {"Gate": {"passed": bool, "margin": float}}
_NUMBER = {
    "description": "JSON has no NaN and no infinities; these strings are read back by Python's float().",
    "anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}],
}
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"$ref": "#/$defs/number"},
    type(None): {"type": "null"},
    Any: {},
}


def published() -> str:
    """The schema as it lies in the package."""
    return files("sagan_deploy.reports").joinpath(FILE_NAME).read_text("utf-8")


def derived() -> dict[str, Any]:
    """The schema that follows from the dataclasses of a report."""
    definitions: dict[str, Any] = {"number": _NUMBER}
    body = _object(ParityReport, definitions)
    body["properties"] = {
        "schema": {"const": SCHEMA_VERSION, "description": "It grows when a reader of the old form would misread it."},
        "passed": {"type": "boolean", "description": "No leg failed, and at least one ran."},
        **body["properties"],
    }
    body["required"] = ["schema", "passed", *body["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:sagan-deploy:parity-report:{SCHEMA_VERSION}",
        "title": "Parity report of sagan-deploy",
        **body,
        "$defs": dict(sorted(definitions.items())),
    }


def to_text() -> str:
    """`derived` as the content of the published file."""
    return json.dumps(derived(), indent=2, ensure_ascii=False) + "\n"


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """An object with all fields of a dataclass and no others."""
    hints = typing.get_type_hints(kind, {**vars(report), **vars(evidence)})
    names = [f.name for f in dataclasses.fields(kind) if f.name not in _LEFT_OUT.get(kind.__name__, ())]
    properties = {name: _schema(hints[name], definitions) for name in names}
    properties |= {name: _schema(hint, definitions) for name, hint in _ADDED.get(kind.__name__, {}).items()}
    return {
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}  # its own fields may name it
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        items = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if origin is dict:
        keys = {"propertyNames": {"pattern": "^-?[0-9]+$"}} if arguments[0] is int else {}
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions), **keys}
    raise TypeError(f"{hint!r} has no place in JSON")


if __name__ == "__main__":
    import sys

    sys.stdout.write(to_text())
