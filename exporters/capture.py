"""A module as a `torch.export` program that takes the short way to ONNX where there is one.

On its way to ONNX every program is traced a second time, to break up operators that ONNX has not, and run a third time,
to write out implicit casts. For a network that needs neither this changes nothing and is half of the export's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        NotPlain: it writes in place or branches, mixes types without a cast, or calls an operator that torch breaks up.
        Exception: whatever else stops torch.
    """
    import torch
    from torch.fx.experimental import _config

    axes = tuple(None if names is None else dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in free)
    # As torch's ONNX exporter does it: an axis of 1 is an axis like any other.
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(module, examples, dynamic_shapes=axes, strict=False)
    _check_plain(program)
    _check_types(program.graph_module.graph)
    _rewrite(program.graph_module.graph)
    program.run_decompositions = _Nothing(program)
    # What torch's pass for implicit casts walks over. There are none, and it would run the whole program to see that.
    program.graph_module.modules = tuple
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


def _check_types(graph: Any) -> None:
    """Torch casts the arguments of an operator to their common type, ONNX does not: here they must have one."""
    import torch

    aten = torch.ops.aten
    lookups = (aten.index_select.default, aten.embedding.default)  # by numbers, which are no operands
    for node in graph.nodes:
        if node.op != "call_function" or node.target in lookups:
            continue
        values = [argument.meta.get("val") for argument in node.all_input_nodes]
        types = {value.dtype for value in values if isinstance(value, torch.Tensor)}
        if len(types) > 1:
            raise NotPlain(f"{node.target} of {', '.join(sorted(map(str, types)))}")


def _rewrite(graph: Any) -> None:
    """What tracing again would have made of a cast and of a transposed convolution, and no remarks about types."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten.to.dtype:
            source, dtype = node.args[:2]
            if source.meta["val"].dtype == dtype:
                node.replace_all_uses_with(source)
                graph.erase_node(node)
            else:
                node.target, node.args, node.kwargs = aten._to_copy.default, (source,), {"dtype": dtype}
        elif node.target is aten.conv_transpose2d.input:
            node.target, node.args = aten.convolution.default, _convolution(*node.args, **node.kwargs)
            node.kwargs = {}
        elif node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def _convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
) -> tuple[Any, ...]:
    """The arguments of ``aten.convolution`` from those of ``aten.conv_transpose2d``."""
    return x, weight, bias, list(stride), list(padding), list(dilation), True, list(output_padding), groups
