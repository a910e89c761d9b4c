"""What the kernels of a plan compute, in the words of the generator; judged by the graph that it was built from."""

import dataclasses
import json

import pytest

from exporters.tensorrt.layers import Layer, LayerReport, Operand
from sagan_deploy.bundle.decode import decode
from sagan_deploy.bundle.kernels import Kernel, grouped, kernels_of, types_of
from sagan_deploy.errors import InputError


def layer(name, nodes=(), reads=("float16",), weights=(), kind="kgen"):
    inputs = tuple(Operand(f"x{i}", dtype, (-1, 4)) for i, dtype in enumerate(reads))
    constants = tuple(Operand("w", dtype, shape) for dtype, shape in weights)
    return Layer(name, kind, inputs, constants, (), "", tuple(nodes))


def kernel(name, *nodes, role="other", reads=("float16",)):
    return Kernel(name, "kgen", reads, nodes, role)


def test_names_lose_the_numbers_of_the_compiler_and_nothing_else():
    names = {
        "stages.0.block.conv1.conv/Conv_3_U16_myl0_4": "stages.0.block.conv1.conv/Conv_3",
        "__myl_CastGathRelu_myl0_12": "CastGathRelu",
        "_gemm_mha_v2_myl0_18": "_gemm_mha_v2",
        "a.affine/Gemm+b.affine/Gemm_myl0_2": "a.affine/Gemm+b.affine/Gemm",
        "Conv_0 + Relu_1": "Conv_0 + Relu_1",  # classic TensorRT names its layers in other ways
        "x" * 500: "x" * 120,
    }
    made = kernels_of(LayerReport(tuple(layer(name) for name in names), ()))
    assert [found.name for found in made] == list(names.values())


def test_what_computes_nothing_is_no_kernel():
    idle = layer("__mye34401_myl0_22", reads=(), kind="signal")
    assert kernels_of(LayerReport((idle, layer("a/Relu_myl0_3", ["a/Relu"])), ())) == (
        Kernel("a/Relu", "kgen", ("float16",), ("a/Relu",), "other"),
    )


def test_types_are_those_of_inputs_and_weights_without_scalars_and_biases():
    weights = (("float16", (8, 4, 3, 3)), ("float32", (1,)), ("float32", (1, 8, 1, 1)))
    (made,) = kernels_of(LayerReport((layer("c", ["a/Conv"], weights=weights, kind="correlation"),), ()))
    assert (made.reads, made.role) == (("float16",), "product")
    (mixed,) = kernels_of(LayerReport((layer("c", ["a/Conv"], weights=(("int8", (8, 4)),)),), ()))
    assert mixed.reads == ("float16", "int8")


def test_a_kernel_belongs_to_its_main_node_or_to_the_module_with_most_nodes():
    named = kernel("stages.1.block.conv2/Conv", "tail.activation/Relu", "tail/Add", "stages.1.block.conv2/Conv")
    assert named.modules == ("stages.1.block.conv2", "tail.activation", "tail")
    assert list(grouped([named])) == ["stages.1.block"]
    most = kernel("ReshMulAdd", "stem/Reshape", "stages.0.block.affine/Mul", "stages.0.block.affine/Add")
    assert list(grouped([most])) == ["stages.0.block"]
    assert list(grouped([kernel("Cast", "Cast"), kernel("odd")])) == ["generator"]


def test_operators_are_named_once_and_moves_only_when_there_is_nothing_else():
    assert kernel("k", "a/Reshape_2", "a/Mul", "b/Mul_11", "a/Add").operators == ("Mul", "Add")
    assert kernel("k", "a/Reshape_2", "a/Transpose").operators == ("Reshape", "Transpose")
    assert kernel("k").operators == ()


def test_parts_stand_in_the_order_of_the_images():
    paths = ["tail", "stages.10.block", "stages.2.attention", "embedding", "stages.2.block", "stem", "other", ""]
    found = grouped(kernel("k", f"{path}/Add" if path else "Add") for path in paths)
    # Inside a stage the plan's own order holds.
    assert list(found) == (
        ["generator", "embedding", "stem", "stages.2.attention", "stages.2.block", "stages.10.block", "other", "tail"]
    )
    assert all(len(group) == 1 for group in found.values())


def test_types_of_a_part():
    assert types_of([kernel("a", reads=("int64", "float16")), kernel("b", reads=("float16",))]) == ("float16", "int64")


def test_json_round_trip_and_refusals():
    made = kernel("k", "a/MatMul", role="attention")
    values = json.loads(json.dumps(dataclasses.asdict(made)))
    assert decode(Kernel, values, "k") == made
    with pytest.raises(InputError, match="role"):
        decode(Kernel, values | {"role": "mystery"}, "k")


@pytest.fixture(scope="module")
def onnx_bytes():
    from sagan_deploy.checkpoints.native import checkpoint_of
    from sagan_deploy.model.generator import Generator
    from sagan_deploy.model.inference import InferenceOptions
    from tests.exports import export_once
    from tests.generators import TINY, lively

    made = checkpoint_of(lively(Generator(TINY)), class_names=("a", "b", "c"))
    return export_once(made, InferenceOptions(precision="fp16")).payload


def real_report(onnx_bytes, *batches):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    from exporters.specs import EngineSpec, ShapeRange
    from exporters.tensorrt.backend import load_backend
    from exporters.tensorrt.builder import build_engine
    from tests.generators import TINY

    def profile(*sizes):
        latents = ShapeRange(*((size, TINY.z_dim) for size in sizes))
        return {"z": latents, "labels": ShapeRange(*((size,) for size in sizes))}

    spec = EngineSpec(targets=("sm_89",), profiles=tuple(profile(*sizes) for sizes in batches))
    return build_engine(load_backend("rtx"), onnx_bytes, spec).layers


def test_a_real_plan_against_the_graph_that_it_was_built_from(onnx_bytes):
    import onnx

    report = real_report(onnx_bytes, (1, 2, 4))
    made = kernels_of(report)
    graph = onnx.load_from_string(onnx_bytes).graph
    modules = {node.name: node.metadata_props[0].value for node in graph.node}  # what the exporter says of each node
    for found in made:
        assert set(found.nodes) <= set(modules)
        assert set(found.modules) == {modules[node] for node in found.nodes}
    products = {node.name for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")}
    assert products <= {node for found in made if found.role == "product" for node in found.nodes}
    assert types_of(found for found in made if found.role == "product") == ("float16",)
    parts = grouped(made)
    assert list(parts) == [*("generator", "stem", "stages.0.block", "stages.0.attention", "stages.1.block", "tail")]
    (fused,) = [found for found in made if found.fused_attention]
    assert fused in parts["stages.0.attention"]
    assert {"MatMul", "Softmax"} <= set(fused.operators)
    assert sum(map(len, parts.values())) == len(made) < len(report.layers)
    # Another build numbers its symbols anew; what is kept of it stays the same.
    again = real_report(onnx_bytes, (1, 2, 4))
    assert kernels_of(again) == made


def test_of_several_profiles_the_first_one_is_kept(onnx_bytes):
    report = real_report(onnx_bytes, (1, 1, 2), (2, 8, 16))
    made = kernels_of(report)
    assert sum(found.is_fused_attention for found in report.layers) == 2
    assert sum(found.fused_attention for found in made) == 1
    assert not [found.name for found in made if "profile" in found.name]
    assert {node for found in made for node in found.nodes} == {node for row in report.layers for node in row.nodes}
