"""Mutations of what a file does with finished images, and of its inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.parity.mutations.surgery import (
    NotThere,
    behind_images,
    constant,
    in_row,
    node_of,
    output_shape,
    replace_input,
    tensor_of,
)

_ROW = 3


def _sizes(model: onnx.ModelProto) -> tuple[int, int]:
    _, _, height, width = output_shape(model)
    return height, width


def _tile(model: onnx.ModelProto) -> np.ndarray:
    area = np.zeros(_sizes(model), bool)
    area[4:8, 4:8] = True
    return area


def _pixel(model: onnx.ModelProto) -> np.ndarray:
    area = np.zeros(_sizes(model), bool)
    area[5, 6] = True
    return area


def _value_in_row(model: onnx.ModelProto, value: float, area: np.ndarray) -> None:
    constant(model, "mutation.value", np.float32(value))
    behind_images(model, *in_row(model, _ROW, area, "mutation.value"))


def zeroed_tile(model: onnx.ModelProto) -> None:
    _value_in_row(model, 0.0, _tile(model))


def nan_pixel(model: onnx.ModelProto) -> None:
    _value_in_row(model, float("nan"), _pixel(model))


def infinite_pixel(model: onnx.ModelProto) -> None:
    _value_in_row(model, float("inf"), _pixel(model))


def minus_infinite_pixel(model: onnx.ModelProto) -> None:
    _value_in_row(model, -float("inf"), _pixel(model))


def shifted_image(model: onnx.ModelProto) -> None:
    width = _sizes(model)[1]
    columns = constant(model, "mutation.shift", np.roll(np.arange(width), 1))
    everywhere = np.ones(_sizes(model), bool)
    rolled = helper.make_node("Gather", ["right", columns], ["m.rolled"], axis=3)
    behind_images(model, rolled, *in_row(model, _ROW, everywhere, "m.rolled"))


def bad_row(model: onnx.ModelProto) -> None:
    factor = constant(model, "mutation.factor", np.float32(0.98))
    everywhere = np.ones(_sizes(model), bool)
    scaled = helper.make_node("Mul", ["right", factor], ["m.scaled"])
    behind_images(model, scaled, *in_row(model, _ROW, everywhere, "m.scaled"))


def row_of_its_neighbour(model: onnx.ModelProto) -> None:
    """The row after _ROW is drawn in its place, as a wrong stride would."""
    rows = [constant(model, f"mutation.{name}", np.array([value])) for name, value in (("from", 1), ("to", 2**31))]
    last = [constant(model, f"mutation.{name}", np.array([value])) for name, value in (("end", -1), ("all", 2**31))]
    axis = constant(model, "mutation.axis", np.array([0]))
    everywhere = np.ones(_sizes(model), bool)
    behind_images(
        model,
        helper.make_node("Slice", ["right", *rows, axis], ["m.rest"]),
        helper.make_node("Slice", ["right", *last, axis], ["m.last"]),
        helper.make_node("Concat", ["m.rest", "m.last"], ["m.next"], axis=0),
        *in_row(model, _ROW, everywhere, "m.next"),
    )


def leak(share: float):
    """Every image gets a share of the mean of its batch."""

    def mutate(model: onnx.ModelProto) -> None:
        axis = constant(model, "mutation.axis", np.array([0]))
        part = constant(model, "mutation.share", np.float32(share))
        rest = constant(model, "mutation.rest", np.float32(1 - share))
        behind_images(
            model,
            helper.make_node("ReduceMean", ["right", axis], ["m.mean"], keepdims=1),
            helper.make_node("Mul", ["m.mean", part], ["m.leak"]),
            helper.make_node("Mul", ["right", rest], ["m.own"]),
            helper.make_node("Add", ["m.own", "m.leak"], ["images"]),
        )

    return mutate


def other_range(factor: float):
    """All pixels times a factor."""

    def mutate(model: onnx.ModelProto) -> None:
        by = constant(model, "mutation.factor", np.float32(factor))
        behind_images(model, helper.make_node("Mul", ["right", by], ["images"]))

    return mutate


def swapped_colours(model: onnx.ModelProto) -> None:
    order = constant(model, "mutation.colours", np.array([2, 1, 0]))
    axis = 1 if output_shape(model)[1] == 3 else 3
    behind_images(model, helper.make_node("Gather", ["right", order], ["images"], axis=axis))


def channels_last(model: onnx.ModelProto) -> None:
    """The memory of (n, h, w, c) under the shape of (n, c, h, w)."""
    shape = constant(model, "mutation.shape", np.array([0, *output_shape(model)[1:]]))
    behind_images(
        model,
        helper.make_node("Transpose", ["right"], ["m.turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["m.turned", shape], ["images"]),
    )


def transposed_images(model: onnx.ModelProto) -> None:
    """Rows and columns change places."""
    perm = [0, 1, 3, 2] if output_shape(model)[1] == 3 else [0, 2, 1, 3]
    behind_images(model, helper.make_node("Transpose", ["right"], ["images"], perm=perm))


def other_layout(model: onnx.ModelProto) -> None:
    """(n, h, w, c) where (n, c, h, w) was promised."""
    behind_images(model, helper.make_node("Transpose", ["right"], ["images"], perm=[0, 2, 3, 1]))
    dims = model.graph.output[0].type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims]
    for dim, size in zip(dims[1:], (sizes[2], sizes[3], sizes[1]), strict=True):
        dim.dim_value = size


def half_images(model: onnx.ModelProto) -> None:
    """float16 where float32 was promised."""
    behind_images(model, helper.make_node("Cast", ["right"], ["images"], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def other_name(model: onnx.ModelProto) -> None:
    behind_images(model, helper.make_node("Identity", ["right"], ["image"]))
    model.graph.output[0].name = "image"


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def fixed_reshape(model: onnx.ModelProto) -> None:
    """The batch of the example ended up in a Reshape; the inputs still claim to be free."""
    reshape = node_of(model, "Reshape")
    tensor = tensor_of(model, reshape.input[1])
    sizes = onnx.numpy_helper.to_array(tensor).copy()
    sizes[0] = 2
    tensor.CopyFrom(onnx.numpy_helper.from_array(sizes, tensor.name))


def rounding(operator: str):
    """Another operator than Round in the 8-bit head."""

    def mutate(model: onnx.ModelProto) -> None:
        node_of(model, "Round", last=True).op_type = operator

    return mutate


def labels_off_by_one(model: onnx.ModelProto, classes: int) -> None:
    one, count = constant(model, "mutation.one", np.array(1)), constant(model, "mutation.count", np.array(classes))
    nodes = [
        helper.make_node("Add", ["labels", one], ["m.next"]),
        helper.make_node("Mod", ["m.next", count], ["m.label"]),
    ]
    replace_input(model, "labels", nodes, "m.label")


def label_ignored(model: onnx.ModelProto, classes: int) -> None:
    zero = constant(model, "mutation.zero", np.array(0))
    replace_input(model, "labels", [helper.make_node("Mul", ["labels", zero], ["m.label"])], "m.label")


def label_limited(model: onnx.ModelProto, classes: int) -> None:
    """The last class draws the one before it."""
    last = constant(model, "mutation.last", np.array(classes - 2))
    replace_input(model, "labels", [helper.make_node("Min", ["labels", last], ["m.label"])], "m.label")


def one_label_for_all(model: onnx.ModelProto, classes: int) -> None:
    """Every image of a batch is drawn with the first label."""
    first = constant(model, "mutation.first", np.array([0]))
    nodes = [
        helper.make_node("Gather", ["labels", first], ["m.first"]),
        helper.make_node("Shape", ["labels"], ["m.shape"]),
        helper.make_node("Expand", ["m.first", "m.shape"], ["m.label"]),
    ]
    replace_input(model, "labels", nodes, "m.label")


def latents_reversed(model: onnx.ModelProto) -> None:
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    order = constant(model, "mutation.order", np.arange(size)[::-1].copy())
    replace_input(model, "z", [helper.make_node("Gather", ["z", order], ["m.z"], axis=1)], "m.z")


def latent_sign(model: onnx.ModelProto) -> None:
    replace_input(model, "z", [helper.make_node("Neg", ["z"], ["m.z"])], "m.z")


def latents_clipped(model: onnx.ModelProto) -> None:
    """Latents cut at ±2.5, which few normal numbers reach."""
    low, high = (constant(model, f"mutation.{name}", np.float32(v)) for name, v in (("low", -2.5), ("high", 2.5)))
    replace_input(model, "z", [helper.make_node("Clip", ["z", low, high], ["m.z"])], "m.z")


def swapped_chunks(model: onnx.ModelProto) -> None:
    """The first two chunks of the latent change places."""
    for node in model.graph.node:
        if node.op_type == "Split" and (node.input[0] == "z" or "Cast" in node.input[0]):
            node.output[0], node.output[1] = node.output[1], node.output[0]
            return
    raise NotThere("a latent in chunks")
