"""The builder's report, read and judged."""

import pytest

from exporters.errors import FusionMismatch, PrecisionMismatch
from exporters.specs import ShapeRange
from exporters.tensorrt.layers import LayerReport, Operand

TENSOR = "{{ Name: {}, Dimensions: [{}], Strides: [1], StrideOrder: [0], Datatype: {}, Format: (NHWC) }}"


def tensor(name, shape, dtype):
    return TENSOR.format(name, shape, dtype)


def layer(name, kind, inputs=(), constants=(), nodes=(), symbol=7, tactic="__t_0xab"):
    parts = (", ".join(part) for part in (inputs, constants, [tensor(f"__mye{symbol}", "-1,4", "Half")]))
    given, fixed, made = (f"[ {part}]" if part else "[]" for part in parts)
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {given}, Constants: {fixed}, Outputs: {made}, "
        f"TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
    )


IO = (
    "\nI/O Tensors:\n"
    " Name: z, IOMode: Input, DataType: Float, Dimensions: [-1,8], Location: Device, IsShapeInferenceIO: false, "
    "ProfileInfo: [ { MinShape: [1,8], OptShape: [4,8], MaxShape: [8,8], Format: Row major linear FP32 format }]\n"
    " Name: images, IOMode: Output, DataType: UInt8, Dimensions: [-1,4,4,3], Location: Device, "
    "IsShapeInferenceIO: false, ProfileInfo: [ { Format: Row major linear UINT8 format (kLINEAR) }]\n"
    "\nEngine Metadata:\n Multi-Device: Disabled"
)
WEIGHT = tensor("w", "16,4,3,3", "Half")
SCALAR = tensor("s", "1", "Float")
CONV = layer(
    "up/Conv_U9_myl0_4", "correlation", [tensor("x", "-1,4", "Half")], [WEIGHT, SCALAR], ["up/Conv", "up/Relu"]
)
MHA = layer("_gemm_mha_v2_myl0_11", "kgen", [tensor("q", "-1,64,16", "Half")], nodes=["a/MatMul", "a/Softmax"])


def report(*layers, io=IO):
    return LayerReport.parse(["something else", "Layers:\n" + "\n".join(layers) + "\n" + io])


def test_reads_everything():
    found = report(CONV, MHA)
    conv, mha = found.layers
    assert (conv.name, conv.kind, conv.tactic) == ("up/Conv_U9_myl0_4", "correlation", "__t_0xab")
    assert conv.nodes == ("up/Conv", "up/Relu")
    assert conv.inputs == (Operand("x", "float16", (-1, 4)),)
    assert conv.constants == (Operand("w", "float16", (16, 4, 3, 3)), Operand("s", "float32", (1,)))
    assert mha.is_fused_attention
    z, images = found.io
    assert (z.name, z.is_input, z.dtype, z.shape) == ("z", True, "float32", (-1, 8))
    assert z.profiles == (ShapeRange((1, 8), (4, 8), (8, 8)),)
    assert (images.name, images.is_input, images.dtype, images.shape) == ("images", False, "uint8", (-1, 4, 4, 3))


def test_reads_lines_without_constants_and_tactic():
    """The form of older classic builders, as documentation shows it."""
    line = (
        "Name: __myl_Fc_myl0_0, LayerType: gemm, Inputs: [ { Name: x, Location: Device, Dimensions: [1,8], "
        "Format/Datatype: Half }], Outputs: [ { Name: y, Dimensions: [1,4], Format/Datatype: Half }], "
        "ParameterType: Fc, StreamId: 0, Metadata: [ONNX Layer: fc/Gemm]"
    )
    (found,) = report(line).layers
    assert found.inputs == (Operand("x", "float16", (1, 8)),)
    assert found.nodes == ("fc/Gemm",)
    assert found.multiplies


def test_no_report():
    found = LayerReport.parse(["a", "b"])
    assert found.layers == found.io == ()
    assert found.fused_attention == 0
    with pytest.raises(PrecisionMismatch, match="fp16 is unproven"):
        found.check_precision("fp16")


@pytest.mark.parametrize(
    "wrong",
    [
        layer("c_U1", "correlation", [tensor("x", "-1,4", "Half")], [tensor("w", "16,4,3,3", "Float")], ["c/Conv"]),
        layer("c_U1", "deconv", [tensor("x", "-1,4", "Float")], [WEIGHT], ["c/Conv"]),
        layer("__myl_MoveFcAdd_myl0_1", "runtime_fusion", [], [tensor("w", "8,4", "BFloat16")], ["c/Conv"]),
        layer("_gemm_mha_v2_myl0_2", "kgen", [tensor("q", "-1,4", "Float")], nodes=["c/Conv"]),
    ],
)
def test_another_type_is_a_mismatch(wrong):
    report(CONV, MHA).check_precision("fp16")
    with pytest.raises(
        PrecisionMismatch, match=r"fp16 was asked for, but 1 of 2 .*: 'c/Conv' reads (float32|bfloat16)"
    ):
        report(CONV, wrong).check_precision("fp16")


def test_what_may_be_float_in_a_half_plan():
    first = layer("__myl_CastFc_myl0_1", "runtime_fusion", [tensor("z", "-1,8", "Float")], [WEIGHT], ["stem/Gemm"])
    bias = layer("c_U1", "correlation", [], [WEIGHT, tensor("b", "1,16,1,1", "Float"), SCALAR], ["c/Conv"])
    softmax = layer("__myl_Soft_myl0_3", "kgen", [tensor("a", "-1,8", "Float")], nodes=["a/Softmax"])
    report(first, CONV, bias, softmax).check_precision("fp16")


def test_fused_attention_per_profile():
    two = IO.replace("8,8], Format: Row major linear FP32 format }]", "8,8], Format: F }, { " + "MinShape: [1,8], "
                     "OptShape: [4,8], MaxShape: [16,8], Format: F }]")  # fmt: skip
    found = report(MHA, CONV, MHA.replace("myl0", "myl1"), io=two)
    assert (found.profiles, found.fused_attention) == (2, 1)
    found.check_fused_attention(1)
    with pytest.raises(FusionMismatch, match=r"2 fused attention kernels .* the plan has 2 in 2 profile"):
        found.check_fused_attention(2)
    with pytest.raises(FusionMismatch, match="1 fused attention"):
        report(CONV).check_fused_attention(1)


def test_a_node_may_be_called_mha():
    innocent = layer("self_mha.query/Conv_U9_myl0_4", "correlation", nodes=["self_mha.query/Conv"])
    assert report(innocent).fused_attention == 0


def test_digest_ignores_the_compilers_symbol_numbers_and_nothing_else():
    def digest(**changes):
        return report(layer(**({"name": "n", "kind": "kgen", "nodes": ["a"]} | changes))).digest

    assert digest(symbol=7) == digest(symbol=8, name="m")
    assert len({digest(), digest(kind="gemm"), digest(nodes=["b"]), digest(tactic="u"), digest(inputs=[WEIGHT])}) == 5
