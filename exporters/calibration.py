"""How large the values get that a model's convolutions read, measured by running it on a CPU.

Memory does not grow with the number of batches: magnitudes are counted in the 32,768 classes that the upper 16 bits of
a non-negative float32 have. A class is narrower than 1/128 of its value, so a percentile is right to 0.8 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import InvalidOnnx, SpecError
from exporters.quantise import convolution_inputs, read

_CLASSES = 2**15  # the sign bit is 0
_SHIFT = 16


def activation_ranges(
    onnx: bytes, inputs: Iterable[Mapping[str, NDArray[Any]]], percentile: float = 99.99
) -> dict[str, float]:
    """The magnitude that `percentile` percent of the values do not exceed, for every value a convolution reads.

    All elements of all batches count alike, the zeros behind a ReLU included.

    Args:
        onnx: a float16 or float32 model. ONNX Runtime computes both in float32 on a CPU.
        inputs: the batches, one mapping from input name to array each; they are read once, one after the other.
        percentile: 100 is the largest magnitude seen, exactly; less lets outliers saturate, for finer steps.

    Returns:
        Ranges by the name of the value, ready for `exporters.quantise.quantise`.

    Raises:
        InvalidOnnx: no ONNX model, one without convolutions, or one that computes values that are not finite.
        SpecError: there is no batch, or `percentile` is out of range.
    """
    if not 50.0 <= percentile <= 100.0:
        raise SpecError(f"percentile (={percentile}) must lie in 50..100; 100 is the largest magnitude")
    names = convolution_inputs(onnx)
    if not names:
        raise InvalidOnnx("this ONNX model has no convolution with constant weights: there is nothing to calibrate.")
    session = _session(onnx, names)
    counters = {name: MagnitudeCounter() for name in names}
    batches = 0
    for batch in inputs:
        batches += 1
        for name, values in zip(names, session.run(list(names), dict(batch)), strict=True):
            try:
                counters[name].add(values)
            except ValueError as error:
                raise InvalidOnnx(f"{name!r} has {error} in batch {batches}: no scale fits that.") from error
    if not batches:
        raise SpecError("there is no batch to calibrate on; give at least one")
    return {name: counter.percentile(percentile) for name, counter in counters.items()}


class MagnitudeCounter:
    """Counts magnitudes of any size in a fixed amount of memory."""

    def __init__(self) -> None:
        self.counts = np.zeros(_CLASSES, np.int64)
        self.largest = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Count an array of float16 or float32 values.

        Raises:
            ValueError: a value is not finite; nothing is counted then.
        """
        magnitudes = np.abs(values, dtype=np.float32).ravel()
        if not magnitudes.size:
            return
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise ValueError("values that are not finite")
        self.largest = max(self.largest, largest)
        self.counts += np.bincount(magnitudes.view(np.uint32) >> _SHIFT, minlength=_CLASSES)

    def percentile(self, percent: float) -> float:
        """The upper end of the class where so many percent are reached, never above the largest magnitude."""
        if percent == 100.0 or not self.counts.any():
            return self.largest
        reached = np.cumsum(self.counts)
        index = int(np.searchsorted(reached, percent / 100.0 * reached[-1]))
        end = np.array([(index + 1) << _SHIFT], np.uint32).view(np.float32)[0]
        return min(float(end), self.largest)


def _session(onnx: bytes, names: tuple[str, ...]) -> Any:
    """The model with more outputs, and without optimisations, which could remove what is to be looked at."""
    import onnxruntime

    model = read(onnx)
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(_value_info(model, [name for name in names if name not in given]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _value_info(model: Any, names: list[str]) -> list[Any]:
    from onnx import helper, shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    return [helper.make_tensor_value_info(name, types[name], None) for name in names]
