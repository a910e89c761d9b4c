"""Which names of TensorRT a source file uses, found in its syntax tree.

Objects of TensorRT are untyped in Python, so their types are inferred here: from the variable names that the sources
use for them, and from what their methods and attributes give.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODULE = "<module>"

# Variables (and attributes, for what an object keeps) that hold TensorRT objects.
VARIABLES = {
    "trt": MODULE,
    "_trt": MODULE,
    "module": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "made": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "first": "ParserError",
    "known": "ComputeCapability",
    "severity": "ILogger.Severity",
    "plan": "IHostMemory",
    "runtime": "Runtime",
    "_runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "bits": "EngineInvalidityDiagnostics",
    "cache": "ITimingCache",
    "refitter": "Refitter",
    "filler": "OnnxParserRefitter",
}

# What a method returns or an attribute holds.
GIVES = {
    "create_network": "INetworkDefinition",
    "create_builder_config": "IBuilderConfig",
    "create_optimization_profile": "IOptimizationProfile",
    "build_serialized_network": "IHostMemory",
    "get_layer": "ILayer",
    "get_input": "ITensor",
    "get_output": "ITensor",
    "get_error": "ParserError",
    "code": "ErrorCode",
    "dtype": "DataType",
    "type": "LayerType",
    "get_tensor_dtype": "DataType",
    "deserialize_cuda_engine": "ICudaEngine",
    "create_execution_context": "IExecutionContext",
}


@dataclass(frozen=True)
class Use:
    """One name of one TensorRT class, or of the module."""

    owner: str
    name: str
    line: int


def uses(source: str, without: frozenset[str] = frozenset()) -> set[Use]:
    """The TensorRT names in a source text; `without` lists variables that mean something else in it."""
    return set(_Scan(without).uses(ast.parse(source)))


def untyped(source: str) -> set[str]:
    """Parameters annotated `Any`: in the files of the exporter each of them must be a TensorRT object."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    arguments = (argument for function in functions for argument in (*function.args.args, *function.args.kwonlyargs))
    return {a.arg for a in arguments if isinstance(a.annotation, ast.Name) and a.annotation.id == "Any"}


def check(found: set[Use], inventory: dict[str, str], guarded: set[tuple[str, str]]) -> list[str]:
    """The uses that an inventory (class name to its names, with spaces) does not have and no guard protects."""
    missing = []
    for use in sorted(found, key=lambda use: use.line):
        owner, _, nested = use.owner.partition(".")
        # Names of nested enums stand with their outer class; names like __init__ belong to every class.
        if nested or use.name.startswith("__"):
            continue
        names = inventory if use.owner == MODULE else inventory.get(owner, "").split()
        if use.name not in names and (use.owner, use.name) not in guarded:
            missing.append(f"line {use.line}: {use.owner}.{use.name}")
    return missing


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


class _Scan:
    def __init__(self, without: frozenset[str]) -> None:
        self._variables = {name: kind for name, kind in VARIABLES.items() if name not in without}

    def uses(self, tree: ast.AST) -> Iterator[Use]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (owner := self._type(node.value)) is not None:
                yield Use(owner, node.attr, node.lineno)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("hasattr", "getattr")
            ):
                owner = self._type(node.args[0])
                if owner is not None and isinstance(node.args[1], ast.Constant):
                    yield Use(owner, str(node.args[1].value), node.lineno)

    def _type(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._variables.get(node.id)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, ast.Attribute):
            owner = self._type(node.value)
            if owner == MODULE:
                return node.attr
            if owner is not None:
                return GIVES.get(node.attr)
            # backend.trt, self._engine: what holds it is ours, the attribute's name says what it is.
            return self._variables.get(node.attr) if node.attr.startswith("_") or node.attr == "trt" else None
        return None

    def _called(self, node: ast.Call) -> str | None:
        if isinstance(node.func, ast.Attribute):
            owner = self._type(node.func.value)
            return node.func.attr if owner == MODULE else GIVES.get(node.func.attr) if owner is not None else None
        return None
