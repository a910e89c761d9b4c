"""Every class of a file is looked at, though few are drawn; and an image does not depend on its neighbours."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.parity.batches import between_batches
from sagan_deploy.parity.cases import Case, classes_are_told_by_numbers, make_cases
from sagan_deploy.parity.classes import class_rows
from sagan_deploy.parity.gates import Drawn
from sagan_deploy.parity.policy import Limit, Policy
from sagan_deploy.presets import preset
from tests.generators import tiny_generator

CLASSES = 100
MANY = GeneratorConfig(z_dim=8, num_classes=CLASSES, widths=(12, 8, 4), norm="class_table")


@pytest.fixture(scope="module")
def generator():
    return tiny_generator(MANY)


def folded(norm):
    """Scales and shifts of a norm, in NumPy from the definition of batch norm: [classes, 2c]."""
    statistics = norm.statistics
    mean, variance = statistics.running_mean.double().numpy(), statistics.running_var.double().numpy()
    scale = norm.gain.weight.double().numpy() / np.sqrt(variance + statistics.eps)
    return np.concatenate((scale, norm.shift.weight.double().numpy() - mean * scale), axis=1)


def lookups(tables, one_table, indices=()):
    """A graph that fetches the tables by label, and adds what it fetched to z; `indices` change the labels first."""
    sizes = [table.shape[1] for table in tables]
    names = [f"rows.{i}" for i in range(len(tables))]
    weights = (
        {"tables": np.concatenate(tables, axis=1)}
        if one_table
        else {f"t.{n}": t for n, t in zip(names, tables, strict=True)}
    )
    weights = {name: table.astype(np.float32) for name, table in weights.items()}
    source, nodes = "labels", []
    for op, value in indices:
        weights[f"i.{op}"] = np.array(value)
        nodes.append(helper.make_node(op, [source, f"i.{op}"], [f"l.{op}"]))
        source = f"l.{op}"
    if one_table:
        weights["sizes"] = np.array(sizes)
        nodes.append(helper.make_node("Gather", ["tables", source], ["all"]))
        nodes.append(helper.make_node("Split", ["all", "sizes"], names, axis=1))
    else:
        nodes += [helper.make_node("Gather", [f"t.{name}", source], [name]) for name in names]
    nodes += [helper.make_node("Add", [name, "z"], [f"images.{name}"]) for name in names]
    graph = helper.make_graph(
        nodes,
        "lookups",
        [helper.make_tensor_value_info("labels", TensorProto.INT64, ["n"]),
         helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info(f"images.{name}", TensorProto.FLOAT, ["n", size])
         for name, size in zip(names, sizes, strict=True)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def tables(generator):
    norms = [norm for stage in generator.stages for norm in (stage.block.norm1, stage.block.norm2)]
    return [folded(norm) for norm in norms]


@pytest.mark.parametrize("one_table", [False, True])
def test_right_rows_are_as_far_off_as_float32_rounds(generator, tables, one_table):
    rows = class_rows(lookups(tables, one_table), generator)
    assert 0 < rows.error <= Policy().class_rows("fp32", rows.layers, rows.terms).value < 3e-7


def swap(table):
    table[[41, 57]] = table[[57, 41]]


def scale(table):
    table[41] *= 1.05


def stale(table):
    table[41] += 0.05


def half(table):
    table[41] = table[41].astype(np.float16)


@pytest.mark.parametrize("one_table", [False, True])
@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize(("change", "precision"), [(swap, "bf16"), (scale, "bf16"), (stale, "fp16"), (half, "fp32")])
def test_one_wrong_row_in_one_layer_is_named(generator, tables, change, precision, number, one_table):
    wrong = [table.copy() for table in tables]
    change(wrong[number])
    rows = class_rows(lookups(wrong, one_table), generator)
    assert rows.error > Policy().class_rows(precision, rows.layers, rows.terms).value
    assert rows.where.startswith(("class 41 ", "class 57 "))


@pytest.mark.parametrize("indices", [[("Min", 98)], [("Max", 1)], [("Add", 1), ("Min", 99)]])
def test_labels_that_are_changed_before_the_lookup_are_followed(generator, tables, indices):
    assert class_rows(lookups(tables, False, indices), generator).error > 0.1


def test_labels_that_go_elsewhere_are_never_a_pass(generator, tables):
    model = onnx.load_from_string(lookups(tables, False))
    model.graph.node.append(helper.make_node("Cast", ["labels"], ["l"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Mul", ["z", "l"], ["y"]))
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    assert class_rows(model.SerializeToString(), generator).error > 0.1  # a number that no channel explains
    model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["z", "labels"], ["y"], axis=1))
    assert np.isnan(class_rows(model.SerializeToString(), generator).error)


def test_few_classes_are_drawn_one_by_one():
    few = dataclasses.replace(MANY, num_classes=7)
    assert not classes_are_told_by_numbers(few)
    pool, cases = make_cases(few, seed=0, count=2)
    drawn = {int(pool.labels[row]) for case in cases for row in case.rows}
    assert drawn == set(range(7))
    assert {row for case in cases for row in case.rows} == set(range(len(pool)))
    assert classes_are_told_by_numbers(preset("sagan128").generator)
    assert "other classes" not in {case.name for case in make_cases(preset("sagan128").generator, seed=0, count=2)[1]}
    assert not classes_are_told_by_numbers(dataclasses.replace(MANY, num_classes=0, norm="batch"))


def test_a_row_that_differs_between_batches_is_named():
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    order = Drawn(Case("normal", (0, 1, 2)), images)
    turned = images[::-1].copy()
    permuted = Drawn(Case("permuted", (2, 1, 0)), turned)
    assert between_batches([order, permuted], Limit(1e-4, "")).value == 0
    turned[0] *= 1.001
    gate = between_batches([order, permuted], Limit(1e-4, ""))
    assert (gate.case, gate.image, gate.passed) == ("permuted", 0, False)
    assert gate.value == pytest.approx(1e-3, rel=1e-3)
    turned[2, 0, 0, 0] = np.nan
    assert not between_batches([order, permuted], Limit(1e9, "")).passed


def test_eight_bit_rows_may_round_to_the_next_code_and_no_further():
    codes = np.full((1, 8, 8, 3), 100, np.uint8)
    first = Drawn(Case("normal", (0,)), codes)
    assert between_batches([first, Drawn(Case("again", (0,)), codes + 1)], Limit(1e-6, "")).passed
    assert not between_batches([first, Drawn(Case("again", (0,)), codes + 2)], Limit(1e-3, "")).passed
