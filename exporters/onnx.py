"""`export_onnx`: any torch module to ONNX bytes that are checked, readable and the same every time."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporters.capture import capture
from exporters.errors import InvalidOnnx, NotExportable, SpecError
from exporters.graph import MODULE_KEY, check_dtypes, tidy
from exporters.specs import OnnxSpec
from exporters.translations import translations

if TYPE_CHECKING:
    from torch import Tensor, nn

PRODUCER = "exporters"
# A protocol buffer holds less than 2 GiB, and so does an ONNX model in one piece.
MAX_BYTES = 2**31 - 1
_BFLOAT16_OPSET = 22  # the first one in which Conv takes bfloat16


@dataclass(frozen=True)
class OnnxResult:
    """An ONNX model: its bytes, the versions it is written in and how many nodes it has."""

    payload: bytes
    opset: int
    ir_version: int
    nodes: int


def export_onnx(module: nn.Module, example_inputs: Mapping[str, Tensor], spec: OnnxSpec) -> OnnxResult:
    """Write a module as ONNX.

    Equal modules give equal bytes: no file names, addresses or counters of the process end up in them. Every node
    carries the dotted path of its module as metadata ``module``.

    Args:
        module: in evaluation mode. It is not changed.
        example_inputs: one tensor per name of `spec.input_names`, in that order, with at least 2 along free axes
            (torch treats 1 as a special size).
        spec: names, free axes, opset and metadata.

    Raises:
        NotExportable: the module is in training mode, does something that ONNX has not, or exceeds 2 GB.
        InvalidOnnx: the result breaks the rules of ONNX.
        SpecError: `example_inputs` and `spec` do not belong together.
    """
    _check_inputs(example_inputs, spec)
    _check_module(module, spec)
    model = _translate(module, tuple(example_inputs.values()), spec)
    _check_axes(model, module, spec)
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    tidy(model, names, spec.opset)
    check_dtypes(model)
    _check_size(sum(value.const_value.nbytes for value in model.graph.initializers.values()))
    return _serialize(model, spec)


def add_metadata(onnx: bytes, metadata: Mapping[str, str]) -> bytes:
    """The model with more key and value strings; an existing key gets the new value.

    Raises:
        InvalidOnnx: the bytes are no ONNX model.
    """
    model = _parse(onnx)
    values = {entry.key: entry.value for entry in model.metadata_props} | dict(metadata)
    _write_metadata(model, values)
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def stage_outputs(onnx: bytes, paths: Sequence[str]) -> dict[str, str]:
    """For every module path the name of the ONNX value that holds the module's output.

    That is the last value made inside the module (or inside its children) and read outside of it, or given out by
    the graph. The model must come from `export_onnx`.

    Raises:
        InvalidOnnx: the bytes are no ONNX model, or no node of it belongs to a path.
    """
    graph = _parse(onnx).graph
    modules = [_module_of(node) for node in graph.node]
    readers: dict[str, list[str | None]] = {value.name: [None] for value in graph.output}
    for node, module in zip(graph.node, modules, strict=True):
        for name in node.input:
            readers.setdefault(name, []).append(module)
    found = {}
    for path in paths:
        values = [
            name
            for node, module in zip(graph.node, modules, strict=True)
            if _inside(module, path)
            for name in node.output
            if any(not _inside(reader, path) for reader in readers.get(name, ()))
        ]
        if not values:
            known = ", ".join(sorted({module for module in modules if module})) or "none at all"
            raise InvalidOnnx(f"no node of this ONNX model belongs to the module {path!r}; it has nodes of: {known}.")
        found[path] = values[-1]
    return found


def _check_inputs(example_inputs: Mapping[str, Tensor], spec: OnnxSpec) -> None:
    if tuple(example_inputs) != spec.input_names:
        raise SpecError(f"example_inputs are {tuple(example_inputs)}, the spec has the inputs {spec.input_names}")
    for name, axes in spec.dynamic_axes.items():
        shape = tuple(example_inputs[name].shape)
        for axis in axes:
            if not 0 <= axis < len(shape) or shape[axis] < 2:
                raise SpecError(f"the example of {name} has shape {shape}; axis {axis} is free, so it must exceed 1")


def _check_module(module: nn.Module, spec: OnnxSpec) -> None:
    import torch

    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise NotExportable(f"{training[0]} is in training mode; call .eval() before the export.")
    tensors = [*module.parameters(), *module.buffers()]
    if spec.opset < _BFLOAT16_OPSET and any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        raise SpecError(f"a bfloat16 module needs opset {_BFLOAT16_OPSET} or later, not {spec.opset}")
    _check_size(sum(tensor.nbytes for tensor in tensors))


def _check_axes(model: Any, module: nn.Module, spec: OnnxSpec) -> None:
    """Free axes must have stayed free; depending on how they are given, torch fixes one without a word."""
    for value in model.graph.inputs:
        for index, axis in spec.dynamic_axes.get(value.name, {}).items():
            if isinstance(size := value.shape[index], int):
                raise NotExportable(
                    f"{type(module).__name__} works for {axis} = {size} only: the free axis {index} of {value.name} "
                    f"became fixed. Look for the example's batch in reshape or expand."
                )


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise NotExportable(
            f"the weights are {size / 1e9:.2f} GB; an ONNX model in one piece holds {MAX_BYTES / 1e9:.2f} GB. "
            f"Export in half precision or with fewer channels."
        )


def _translate(module: nn.Module, examples: tuple[Tensor, ...], spec: OnnxSpec) -> Any:
    import torch

    free = tuple(dict(spec.dynamic_axes.get(name, {})) or None for name in spec.input_names)
    with torch.no_grad(), _quiet_torch():
        # What the short way does not take, torch's long one takes, or explains better.
        with contextlib.suppress(Exception):
            return _write(capture(module, examples, free), examples, free, spec)
        try:
            return _write(module, examples, free, spec)
        except torch.onnx.errors.OnnxExporterError as error:
            raise NotExportable(f"torch cannot export {type(module).__name__}: {_reason(error)}") from error


def _write(module: Any, examples: tuple[Tensor, ...], free: tuple[Any, ...], spec: OnnxSpec) -> Any:
    import torch

    program = torch.onnx.export(
        module,
        examples,
        dynamo=True,
        verbose=False,
        input_names=list(spec.input_names),
        output_names=list(spec.output_names),
        dynamic_shapes=free,
        opset_version=spec.opset,
        external_data=False,
        custom_translation_table=translations(),
    )
    return program.model  # type: ignore[union-attr]


def _reason(error: Exception) -> str:
    """The first line of what went wrong inside torch, and the line that it announces with a colon."""
    cause = error.__cause__ or error
    first, *rest = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    return f"{first} {rest[0]}" if first.endswith(":") and rest else first


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Drop what torch 2.13 says about itself during a good export; anything else still speaks."""

    def no_torchvision(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.addFilter(no_torchvision)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # Two inputs share the axis on purpose; with two different names the warning would be worth reading.
            same_name = r"# The axis name: (\w+) will not be used, since it shares .* with another axis: \1\."
            warnings.filterwarnings("ignore", same_name, UserWarning)
            yield
    finally:
        registration.removeFilter(no_torchvision)


def _serialize(model: Any, spec: OnnxSpec) -> OnnxResult:
    import onnx
    import onnx_ir as ir
    import torch

    proto = ir.to_proto(model)
    proto.producer_name, proto.producer_version = PRODUCER, "torch " + torch.__version__.split("+")[0]
    _write_metadata(proto, spec.metadata)
    payload = proto.SerializeToString(deterministic=True)
    _check_size(len(payload))
    try:
        onnx.checker.check_model(payload, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidOnnx(f"torch wrote an invalid ONNX model: {str(error).strip().splitlines()[0]}") from error
    return OnnxResult(payload, spec.opset, proto.ir_version, len(proto.graph.node))


def _write_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])


def _parse(onnx: bytes) -> Any:
    import onnx as package
    from google.protobuf.message import DecodeError

    try:
        return package.load_from_string(onnx)
    except DecodeError as error:
        raise InvalidOnnx(f"these {len(onnx)} bytes are no ONNX model ({error}).") from error


def _module_of(node: Any) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")


def _inside(module: str | None, path: str) -> bool:
    return module is not None and (module == path or module.startswith(path + "."))


__all__ = ["MODULE_KEY", "PRODUCER", "OnnxResult", "add_metadata", "export_onnx", "stage_outputs"]
