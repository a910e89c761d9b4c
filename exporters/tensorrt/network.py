"""What TensorRT made of an ONNX model, and whether a build of it can be what was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exporters.errors import BadProfile, InvalidOnnx, PrecisionMismatch, UnsupportedTarget
from exporters.specs import EngineSpec, Precision, Profile
from exporters.targets import Capability, Flavour, Target

_DTYPE: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
_COMPUTE = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
# The first compute capability with instructions for a data type.
_SINCE: dict[str, Capability] = {"BF16": (8, 0), "FP8": (8, 9), "FP4": (10, 0)}


def check_network(network: Any, spec: EngineSpec, targets: Sequence[Target], flavour: Flavour) -> None:
    """Refuse before the build what the build would refuse later, less clearly or not at all.

    Raises:
        InvalidOnnx: the model computes nothing.
        PrecisionMismatch: its convolutions and matrix products read another type than the recipe's.
        UnsupportedTarget: a target has no instructions for one of its types.
        BadProfile: the profiles do not fit its inputs.
    """
    # The parser takes an empty file for an empty model.
    if not network.num_layers or not network.num_outputs:
        raise InvalidOnnx("this ONNX model has no nodes or no outputs: there is nothing to build.")
    if spec.precision is not None:
        _check_precision(network, spec.precision)
    _check_dtypes(network, targets)
    if flavour == "rtx":
        _check_turing(network, targets)
    _check_profiles(network, spec.profiles)


def _check_precision(network: Any, precision: Precision) -> None:
    compute = [layer for layer in _layers(network) if layer.type.name in _COMPUTE]
    wrong = [layer for layer in compute if layer.get_input(0).dtype.name != _DTYPE[precision]]
    if wrong:
        layer = wrong[0]
        raise PrecisionMismatch(
            f"{precision} was asked for, but {len(wrong)} of {len(compute)} convolutions and matrix products of the "
            f"ONNX model read another type, {layer.name!r} for one reads {layer.get_input(0).dtype.name}. "
            f"The precision of a plan is that of its ONNX model: export it with {precision}."
        )


def _check_dtypes(network: Any, targets: Sequence[Target]) -> None:
    used = {layer.get_output(i).dtype.name for layer in _layers(network) for i in range(layer.num_outputs)}
    for dtype, since in _SINCE.items():
        lacking = [target.name for target in targets if target.compute_capability < since]
        if dtype in used and lacking:
            raise UnsupportedTarget(
                f"{', '.join(lacking)} cannot compute in {dtype}, which this ONNX model uses; "
                f"it needs sm_{since[0]}{since[1]} or later. Leave the target out, or export in fp16 or fp32."
            )


def _check_turing(network: Any, targets: Sequence[Target]) -> None:
    """TensorRT for RTX 1.7 has no float32 matrix product for Turing, and says so late and in internal terms."""
    products = (layer for layer in _layers(network) if layer.type.name == "MATRIX_MULTIPLY")
    float32 = [layer.name for layer in products if layer.get_input(0).dtype.name == "FLOAT"]
    turing = [target.name for target in targets if target.compute_capability < (8, 0)]
    if float32 and turing:
        raise UnsupportedTarget(
            f"TensorRT for RTX has no float32 matrix product for {', '.join(turing)}, and {float32[0]!r} is one. "
            f"Leave the target out, or export in fp16."
        )


def _check_profiles(network: Any, profiles: Sequence[Profile]) -> None:
    inputs = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    free = {name for name, shape in inputs.items() if -1 in shape}
    if free and not profiles:
        raise BadProfile(f"the inputs {', '.join(sorted(free))} have free sizes; a profile must say which they take.")
    for profile in profiles:
        unknown, missing = sorted(set(profile) - set(inputs)), sorted(free - set(profile))
        if unknown or missing:
            problem = f"names {', '.join(unknown)}" if unknown else f"forgets {', '.join(missing)}"
            raise BadProfile(f"a profile {problem}; the inputs of the ONNX model are {', '.join(inputs)}.")
        for name, shapes in profile.items():
            for shape in (shapes.min, shapes.opt, shapes.max):
                _check_shape(name, shape, inputs[name])


def _check_shape(name: str, shape: tuple[int, ...], declared: tuple[int, ...]) -> None:
    fits = len(shape) == len(declared) and all(b in (-1, a) for a, b in zip(shape, declared, strict=True))
    if not fits:
        raise BadProfile(f"a profile gives {name} the shape {shape}; the ONNX model declares {declared} (-1 is free).")


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))
