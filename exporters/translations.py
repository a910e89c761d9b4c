"""Operators that torch.onnx writes with more nodes than they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def translations() -> dict[Any, Callable[..., Any]]:
    """For `torch.onnx.export(custom_translation_table=…)`."""
    import torch

    return {torch.ops.aten.conv2d.default: _conv2d}


def _conv2d(
    input: Any,  # noqa: A002, the operator's own name
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """A convolution without a bias as one node. torch makes a bias of zeros, four nodes each that go again later: for
    a network of hundreds of such convolutions that is most of its graph.
    """
    from onnxscript import opset18

    inputs = (input, weight) if bias is None else (input, weight, bias)
    pads, strides, dilations = [*padding, *padding], list(stride), list(dilation)
    kernel = [int(size) for size in weight.shape[2:]]
    return opset18.Conv(*inputs, kernel_shape=kernel, pads=pads, strides=strides, dilations=dilations, group=groups)
