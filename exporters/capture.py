"""A module as a `torch.export` program that takes the short way to ONNX where there is one.

On its way to ONNX every program is traced a second time, to break up operators that ONNX has not. For a network of
which ONNX has every operator that changes nothing and is half of the export's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def capture(module: nn.Module, examples: tuple[Tensor, ...], free: tuple[Mapping[int, str] | None, ...]) -> Any:
    """The module as a ``torch.export.ExportedProgram`` that is not traced again.

    torch.onnx refuses one that calls an operator it can only write in parts; the module itself is then the way.

    Args:
        module: in evaluation mode.
        examples: its arguments.
        free: for each argument the free axes and their names, or None.

    Raises:
        NotPlain: it writes in place or branches, or calls an operator that torch breaks up.
        Exception: whatever else stops torch.
    """
    import torch
    from torch.fx.experimental import _config

    axes = tuple(None if names is None else dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in free)
    # As torch's ONNX exporter does it: an axis of 1 is an axis like any other.
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(module, examples, dynamic_shapes=axes, strict=False)
    _check_plain(program)
    _cast_plainly(program.graph_module.graph)
    program.run_decompositions = _Nothing(program)
    return program


class NotPlain(Exception):
    """A program that must be traced again."""


class _Nothing:
    """In place of a program's `run_decompositions`: the same program, when nothing of it is to be broken up."""

    def __init__(self, program: Any) -> None:
        self._program = program

    def __call__(self, table: Mapping[Any, Any]) -> Any:
        for node in self._program.graph_module.graph.nodes:
            if node.op == "call_function" and node.target in table:
                raise NotPlain(str(node.target))
        return self._program


def _check_plain(program: Any) -> None:
    """Tracing again would also turn writes in place into copies, so there must be none, nor branches and loops."""
    import torch

    if len(list(program.graph_module.modules())) > 1:
        raise NotPlain("it has branches")
    for node in program.graph_module.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            raise NotPlain(str(target))


def _cast_plainly(graph: Any) -> None:
    """Casts as ONNX knows them, and none where the type stays: what tracing again would have made of ``aten.to``."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not aten.to.dtype:
            continue
        source, dtype = node.args[:2]
        if source.meta["val"].dtype == dtype:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        else:
            node.target, node.args, node.kwargs = aten._to_copy.default, (source,), {"dtype": dtype}
