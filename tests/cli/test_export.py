"""`sagan-deploy export`."""

import json

import onnx
import pytest

from sagan_deploy.checkpoints.native import save_checkpoint
from sagan_deploy.files import sha256
from tests import exports
from tests.generators import tiny_checkpoint


@pytest.fixture(autouse=True, scope="module")
def shared_exports():
    with exports.shared():
        yield


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())


def test_it_writes_the_file_and_tells_its_facts(program, checkpoint, tmp_path):
    out = tmp_path / "g.onnx"
    done = program("export", checkpoint, "--out", out, "--precision", "fp16", "--output", "uint8", "--json")
    assert done.code == 0
    facts = json.loads(done.out)
    assert facts["sha256"] == sha256(out)
    assert (facts["precision"], facts["attention"], facts["opset"]) == ("fp16", "fused", 20)
    assert onnx.load(out).graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_an_existing_file_is_kept_without_force(program, checkpoint, tmp_path):
    out = tmp_path / "g.onnx"
    out.write_text("mine")
    refused = program("export", checkpoint, "--out", out)
    assert refused.code == 4
    assert refused.err.count("\n") == 1
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--form", "training", "--precision", "fp16"), 2), (("--opset", "3"), 2), (("--precision", "int3"), 2)],
)
def test_contradictions_are_usage_errors(program, checkpoint, tmp_path, options, code):
    done = program("export", checkpoint, "--out", tmp_path / "g.onnx", *options)
    assert done.code == code
    assert not (tmp_path / "g.onnx").exists()


def test_int8_is_calibrated_exported_and_told(program, checkpoint, tmp_path):
    out = tmp_path / "g.int8.onnx"
    done = program("export", checkpoint, "--out", out, "--precision", "int8", "--calibration-latents", 8, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["precision"] == "int8"
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(out).graph.node)
    refused = program("export", checkpoint, "--out", tmp_path / "t.onnx", "--precision", "fp8", "--form", "training")
    assert refused.code == 2


def test_mixed_precision_names_its_float32_parts(program, checkpoint, tmp_path):
    out = tmp_path / "g.mixed.onnx"
    done = program("export", checkpoint, "--out", out, "--precision", "mixed", "--float32", "tail", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["precision"] == "mixed"
    refused = program("export", checkpoint, "--out", tmp_path / "x.onnx", "--float32", "tail")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "take none" in refused.err
    searched = program("export", checkpoint, "--out", tmp_path / "s.onnx", "--precision", "mixed", "--json")
    assert (searched.code, json.loads(searched.out)["precision"]) == (0, "fp16")
    assert "no part needs float32, and the file is fp16" in searched.err
    assert (
        program("export", checkpoint, "--out", out, "--force", "--precision", "mixed", "--float32", "stages.7").code
        == 2
    )
