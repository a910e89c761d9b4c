"""ONNX bytes: the same function, the same every time, readable, and refused with one line when they cannot be."""

import hashlib
import logging
import os
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import exporters.onnx
from exporters.capture import NotPlain, capture
from exporters.errors import InvalidOnnx, NotExportable, SpecError
from exporters.onnx import add_metadata, export_onnx, stage_outputs
from exporters.specs import OnnxSpec
from tests.exporters.models import PATHS, SPEC, PlainAttention, exported, inputs, network


@pytest.fixture(scope="module")
def result():
    return exported("fused", torch.float32)


@pytest.fixture(scope="module")
def graph(result):
    return onnx.load_from_string(result.payload).graph


def run(payload, feed, names=None):
    session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    return session.run(names, {name: tensor.numpy() for name, tensor in feed.items()})


@pytest.mark.parametrize("count", [1, 3])
def test_computes_what_torch_computes(result, count):
    feed = inputs(count)
    with torch.no_grad():
        expected = network()(**feed).numpy()
    np.testing.assert_allclose(run(result.payload, feed)[0], expected, atol=2e-6)


def test_facts(result, graph):
    model = onnx.load_from_string(result.payload)
    assert (result.opset, result.ir_version, result.nodes) == (20, model.ir_version, len(graph.node))
    assert [entry.version for entry in model.opset_import] == [20]
    assert model.producer_name == "exporters"
    assert model.producer_version == f"torch {torch.__version__.split('+')[0]}"


def test_equal_bytes_in_another_process_that_stays_silent(result):
    program = (
        "import hashlib, torch; from tests.exporters.models import export_now; "
        "print(hashlib.sha256(export_now('fused', torch.float32).payload).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(result.payload).hexdigest()]
    assert done.stderr == ""


def test_nothing_of_this_process_is_inside(result):
    for trace in (
        b"File ",
        b"pkg.torch",
        b"__main__",
        b"models.py",
        b"torch.ops",
        b"tests.",
        b"num_users",
        b"object at",
    ):
        assert trace not in result.payload


def test_names_say_where_a_node_comes_from(graph):
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {"stem/Gemm", "stages.0/Resize", "stages.1.conv/Conv", "stages.1.attention/MatMul_1", "tail/Conv"} <= set(
        names
    )
    for node in graph.node:
        (entry,) = node.metadata_props
        assert entry.key == "module"
        assert node.name.startswith(f"{entry.value}/{node.op_type}" if entry.value else node.op_type)
        for output in node.output:
            assert output == "images" or output.split(".")[0] == node.name.split(".")[0]


def test_weights_keep_their_names_and_constants_get_one(graph):
    constants = {tensor.name for tensor in graph.initializer} - set(network().state_dict())
    assert "stages.0/Resize.scales" in constants
    assert all("/" in name or name[0].isupper() for name in constants)


def test_nodes_are_sorted(graph):
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        assert set(node.input) <= known, node.name
        known |= set(node.output)


def test_the_batch_is_free_under_one_name(graph):
    dims = [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)]
    assert dims == ["n", "n", "n"]


def test_equal_modules_give_equal_bytes_without_a_word(result, capfd, recwarn, caplog):
    assert export_onnx(network(), inputs(3), SPEC).payload == result.payload
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


def test_the_short_way_is_taken_and_writes_the_same_graph(monkeypatch):
    seen, write = [], exporters.onnx._write

    def watched(module, *rest):
        seen.append(type(module).__name__)
        return write(module, *rest)

    def unwilling(*_):
        raise RuntimeError("no capture")

    def known(attributes):
        return sorted(str(attribute) for attribute in attributes if attribute.name != "allowzero")

    def facts(payload):
        graph = onnx.load_from_string(payload).graph
        # torch writes Reshape with allowzero in one way only; without a 0 in a shape it says nothing.
        assert all(
            0 not in onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if "shape" in tensor.name
        )
        nodes = [
            (node.op_type, node.name, tuple(node.input), tuple(node.output), known(node.attribute))
            for node in graph.node
        ]
        return nodes, sorted((tensor.name, tensor.raw_data) for tensor in graph.initializer)

    monkeypatch.setattr(exporters.onnx, "_write", watched)
    short = export_onnx(network(dtype=torch.float16), inputs(), SPEC).payload
    monkeypatch.setattr(exporters.onnx, "capture", unwilling)
    assert facts(short) == facts(export_onnx(network(dtype=torch.float16), inputs(), SPEC).payload)
    assert seen[0] == "ExportedProgram"
    assert seen[-1] == type(network()).__name__


def test_a_module_that_writes_in_place_takes_the_long_way():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, z):
            y = self.layer(z)
            y[:, 0] += 1
            return y

    module, z = InPlace().eval(), torch.randn(3, 8)
    with pytest.raises(NotPlain):
        capture(module, (torch.zeros(2, 8),), ({0: "n"},))
    payload = export_onnx(module, {"z": torch.zeros(2, 8)}, OnnxSpec(("z",), ("y",), {"z": {0: "n"}})).payload
    np.testing.assert_allclose(run(payload, {"z": z})[0], module(z).detach().numpy(), atol=1e-6)


class Mixed(nn.Module):
    """A product of two types, which torch casts by itself."""

    def forward(self, z):
        return z * z.double()


class Transposed(nn.Module):
    """A transposed convolution and casts, one of them to the type that is there."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, output_padding=1)
        self.plain = nn.Conv2d(3, 4, (3, 1), stride=(2, 1), padding=(1, 0), bias=False)

    def forward(self, z):
        x = self.up(z.view(-1, 2, 2, 2)).float()
        return self.plain(x.double().float()).sum(dim=(1, 2))


@pytest.mark.parametrize(("module", "short"), [(Mixed(), False), (Transposed(), True)])
def test_casts_and_transposed_convolutions_on_the_way_that_each_can_take(module, short, monkeypatch):
    seen, write = [], exporters.onnx._write
    monkeypatch.setattr(exporters.onnx, "_write", lambda *given: seen.append(type(given[0])) or write(*given))
    spec = OnnxSpec(("z",), ("y",), {"z": {0: "n"}})
    payload = export_onnx(module.eval(), {"z": torch.zeros(2, 8)}, spec).payload
    assert [kind is type(module) for kind in seen] == [not short]
    z = torch.randn(3, 8)
    np.testing.assert_allclose(run(payload, {"z": z})[0], module(z).detach().numpy(), atol=1e-5)


def test_a_convolution_without_a_bias_gets_none():
    payload = export_onnx(
        Transposed().eval(), {"z": torch.zeros(2, 8)}, OnnxSpec(("z",), ("y",), {"z": {0: "n"}})
    ).payload
    nodes = {node.op_type: node for node in onnx.load_from_string(payload).graph.node}
    assert len(nodes["Conv"].input) == 2
    found = {entry.name: list(entry.ints) for entry in nodes["Conv"].attribute if entry.ints}
    assert found == {"kernel_shape": [3, 1], "pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 1]}


def test_torch_makes_no_bias_of_zeros_that_must_go_again(monkeypatch):
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **named: export(*given, **named, optimize=False))
    layer = nn.Conv2d(2, 3, 1, bias=False).eval()
    payload = export_onnx(layer, {"z": torch.zeros(2, 2, 4, 4)}, OnnxSpec(("z",), ("y",), {"z": {0: "n"}})).payload
    assert [node.op_type for node in onnx.load_from_string(payload).graph.node] == ["Conv"]


def test_metadata():
    layer, spec = nn.Linear(8, 8).eval(), OnnxSpec(("z",), ("y",), {"z": {0: "n"}}, metadata={"b": "2", "a": "ä"})
    payload = export_onnx(layer, {"z": torch.zeros(2, 8)}, spec).payload
    more = add_metadata(payload, {"c": "3", "b": "two"})
    entries = [(entry.key, entry.value) for entry in onnx.load_from_string(more).metadata_props]
    assert entries == [("a", "ä"), ("b", "two"), ("c", "3")]
    assert add_metadata(more, {"b": "2"}) == add_metadata(payload, {"c": "3"})


def test_stage_outputs_hold_what_the_modules_return(result):
    module, feed, seen = network(), inputs(), {}
    for path in PATHS:
        module.get_submodule(path).register_forward_hook(lambda m, i, out, path=path: seen.setdefault(path, out))
    with torch.no_grad():
        module(**feed)
    outputs = stage_outputs(result.payload, PATHS)
    assert list(outputs) == list(PATHS)
    model = onnx.load_from_string(result.payload)
    for name in outputs.values():
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    for path, found in zip(PATHS, run(model.SerializeToString(), feed, list(outputs.values())), strict=True):
        np.testing.assert_allclose(found.reshape(-1), seen[path].numpy().reshape(-1), atol=2e-6, err_msg=path)


def test_stage_outputs_of_unknown_modules(result):
    with pytest.raises(InvalidOnnx, match=r"module 'stages.2'; it has nodes of: .*stages.1.conv"):
        stage_outputs(result.payload, ["stages.2"])
    with pytest.raises(InvalidOnnx, match="12 bytes are no ONNX model"):
        stage_outputs(b"\xff" * 12, ["stem"])


def test_a_module_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, z):
            return self.layer(torch.relu(self.layer(z)))

    payload = export_onnx(Twice().eval(), {"z": torch.zeros(2, 8)}, OnnxSpec(("z",), ("y",), {"z": {0: "n"}})).payload
    nodes = onnx.load_from_string(payload).graph.node
    assert [node.name for node in nodes] == ["layer/Gemm", "Relu", "layer/Gemm_1"]
    assert stage_outputs(payload, ["layer"]) == {"layer": "y"}


def test_half_weights_stay_half_and_resize_scales_float():
    graph = onnx.load_from_string(exported("fused", torch.float16).payload).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {types[name] for name in network().state_dict() if name in types} == {onnx.TensorProto.FLOAT16}
    assert types["stages.0/Resize.scales"] == onnx.TensorProto.FLOAT


def test_training_mode_is_refused():
    module = network()
    module.stages[1].conv.train()
    with pytest.raises(NotExportable, match=r"stages.1.conv is in training mode; call .eval\(\)"):
        export_onnx(module, inputs(), SPEC)


def test_mixed_types_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x))

    # The exporter folds the norm into the convolution and leaves float32 weights in a bfloat16 network.
    module, spec = Mixed().eval().bfloat16(), OnnxSpec(("x",), ("y",), {"x": {0: "n"}}, opset=22)
    module.norm.float()
    with pytest.raises(NotExportable, match=r"reads two types|torch cannot export"):
        export_onnx(module, {"x": torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)}, spec)


def test_bfloat16_needs_its_opset():
    with pytest.raises(SpecError, match="opset 22 or later, not 20"):
        export_onnx(network(dtype=torch.bfloat16), inputs(), SPEC)


@pytest.mark.parametrize("part", ["parameters", "file"])
def test_too_large(monkeypatch, part):
    size = sum(p.nbytes for p in network().parameters())
    monkeypatch.setattr(exporters.onnx, "MAX_BYTES", size - 1 if part == "parameters" else size + 1000)
    with pytest.raises(NotExportable, match="an ONNX model in one piece holds"):
        export_onnx(network(), inputs(), SPEC)


def test_what_onnx_cannot_say():
    class Branches(nn.Module):
        def forward(self, z):
            return z if z.sum() > 0 else -z

    with pytest.raises(NotExportable, match="torch cannot export Branches: ") as caught:
        export_onnx(Branches().eval(), {"z": torch.zeros(2, 8)}, OnnxSpec(("z",), ("y",), {"z": {0: "n"}}))
    assert "\n" not in str(caught.value)


def test_a_batch_that_the_module_fixes_is_refused():
    class Fixed(nn.Module):
        def forward(self, z):
            return z.reshape(2, -1) + z

    with pytest.raises(NotExportable, match=r"torch cannot export Fixed: Found .*conflicts.*: - .*z"):
        export_onnx(Fixed().eval(), {"z": torch.zeros(2, 8)}, OnnxSpec(("z",), ("y",), {"z": {0: "n"}}))


def test_an_axis_that_torch_fixed_quietly_is_refused(monkeypatch):
    made = onnx.load_from_string(exported("fused", torch.float32).payload)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    monkeypatch.setattr(exporters.onnx, "_translate", lambda *_: ir.from_proto(made))
    with pytest.raises(NotExportable, match="Network works for n = 2 only: the free axis 0 of z became fixed"):
        export_onnx(network(), inputs(), SPEC)


@pytest.mark.parametrize(
    ("feed", "words"),
    [({"z": torch.zeros(2, 8)}, "example_inputs are"), (inputs(1), "axis 0 is free, so it must exceed 1")],
)
def test_examples_that_do_not_fit(feed, words):
    with pytest.raises(SpecError, match=words):
        export_onnx(network(), feed, SPEC)


def test_the_other_attention_is_the_same_machinery():
    feed = inputs()
    payload = exported("plain", torch.float32).payload
    with torch.no_grad():
        expected = network(PlainAttention)(**feed).numpy()
    np.testing.assert_allclose(run(payload, feed)[0], expected, atol=2e-6)
