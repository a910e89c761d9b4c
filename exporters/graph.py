"""Making torch's ONNX graph readable and reproducible: names that say where a node comes from, and nothing else.

torch numbers its values (``val_13``) and notes Python source lines and object reprs on every node. Here each node is
called after the module that computes it and its operator (``stages.0.attention/MatMul_1``), each value after the node
that makes it, each constant after its first use (``stages.0.attention/Reshape.shape``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from exporters.errors import NotExportable

MODULE_KEY = "module"  # node metadata: dotted path of the torch module that computes the node, "" for the root
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"

# Operators whose floating inputs must have one type.
_COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def tidy(model: Any, parameter_names: Iterable[str], opset: int) -> None:
    """Rename nodes, values and constants of an `onnx_ir.Model` in place and drop what torch noted on them.

    Args:
        model: the exporter's result; sorted topologically afterwards.
        parameter_names: names of the module's parameters and buffers; they are kept.
        opset: the model's, to look up what an operator calls its inputs.
    """
    graph = model.graph
    graph.sort()
    modules = _module_paths(graph)
    kept = set(parameter_names)
    taken = {value.name for value in (*graph.inputs, *graph.outputs)} | kept
    _name_nodes(graph, modules, taken)
    _name_constants(graph, kept, taken, opset)
    model.metadata_props.clear()
    model.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    for node in graph:
        node.doc_string = None
        node.metadata_props.clear()
        node.metadata_props[MODULE_KEY] = modules[node]
        for value in node.outputs:
            _forget(value)
    for value in (*graph.inputs, *graph.initializers.values()):
        _forget(value)


def check_dtypes(model: Any) -> None:
    """Refuse mixed types, the usual trace of a half-done conversion, in words that name both sides.

    Raises:
        NotExportable: a convolution or matrix product reads two floating types, or a Resize has scales that are not
            float32; the message names the node.
    """
    import onnx_ir as ir

    for node in model.graph:
        types = {value.name: value.dtype for value in node.inputs if value is not None and value.dtype is not None}
        if node.op_type in _COMPUTE and len(set(types.values())) > 1:
            listed = ", ".join(f"{name} {dtype.name}" for name, dtype in types.items())
            raise NotExportable(
                f"the node {node.name!r} ({node.op_type}) reads two types: {listed}. "
                f"Convert the whole module before the export, weights folded by the exporter included."
            )
        if node.op_type == "Resize" and len(node.inputs) > 2 and node.inputs[2] is not None:
            scales = node.inputs[2]
            if scales.dtype not in (None, ir.DataType.FLOAT):
                raise NotExportable(f"the node {node.name!r} (Resize) has {scales.dtype.name} scales, not FLOAT.")


def _module_paths(graph: Any) -> dict[Any, str]:
    """For every node the dotted path of its module; a node the optimizer made inherits it from what it reads."""
    paths: dict[Any, str] = {}
    for node in graph:
        scopes = node.metadata_props.get(_SCOPES_KEY)
        if scopes is not None:
            *modules, _ = ast.literal_eval(scopes)
            paths[node] = modules[-1] if modules else ""
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        paths[node] = next((paths[maker] for maker in makers if maker is not None), "")
    return paths


def _name_nodes(graph: Any, modules: dict[Any, str], taken: set[str]) -> None:
    outputs = set(graph.outputs)
    for node in graph:
        node.name = _unique(f"{modules[node]}/{node.op_type}" if modules[node] else node.op_type, taken)
        for index, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = node.name if index == 0 else f"{node.name}.{index}"


def _name_constants(graph: Any, kept: set[str], taken: set[str], opset: int) -> None:
    names: dict[Any, str] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            constant = value is not None and value.is_initializer() and value.name not in kept
            if constant and value not in names:
                names[value] = _unique(f"{node.name}.{_formal_name(node, index, opset)}", taken)
    # In the order of use, parameters first: torch's own order of constants follows its optimizer's.
    parameters = [value for name, value in graph.initializers.items() if name in kept]
    graph.initializers.clear()
    for value in parameters:
        graph.register_initializer(value)
    for value, name in names.items():
        value.name = name
        graph.register_initializer(value)


def _formal_name(node: Any, index: int, opset: int) -> str:
    """What the operator's documentation calls this input, for example ``scales``."""
    import onnx.defs

    try:
        formal = onnx.defs.get_schema(node.op_type, opset, node.domain).inputs
    except onnx.defs.SchemaError:
        return f"input{index}"
    return str(formal[index].name) if index < len(formal) - 1 else f"{formal[-1].name}{index - len(formal) + 1 or ''}"


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _forget(value: Any) -> None:
    value.metadata_props.clear()
    value.doc_string = None
