"""`sagan-deploy parity` on real files: 0 for the right one, 1 for each that was broken on purpose."""

import dataclasses

import onnx
import pytest

from sagan_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from sagan_deploy.model.inference import InferenceOptions
from tests.exports import export_once
from tests.generators import tiny_checkpoint
from tests.parity.test_judge import attention_scale, one_tap, weaker_gamma


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("mutations") / "g.safetensors", tiny_checkpoint())


@pytest.fixture(scope="module")
def exported(path):
    checkpoint = load_checkpoint(path)
    return {output: export_once(checkpoint, InferenceOptions(output=output)).payload for output in ("float", "uint8")}


def truncating_head(model):
    next(node for node in model.graph.node if node.op_type == "Round").op_type = "Floor"


@pytest.mark.parametrize(
    ("output", "mutate"),
    [
        ("float", one_tap),
        ("float", attention_scale),
        ("float", weaker_gamma),
        ("uint8", truncating_head),
        ("float", None),
        ("uint8", None),
    ],
    ids=["tap", "attention scale", "gamma", "truncating head", "right float", "right uint8"],
)
def test_a_broken_file_exits_with_1(program, path, exported, tmp_path, output, mutate):
    model = onnx.load_from_string(exported[output])
    if mutate is not None:
        mutate(model)
    file = tmp_path / "g.onnx"
    file.write_bytes(model.SerializeToString())
    done = program("parity", path, file, "--count", 6)
    assert done.code == (0 if mutate is None else 1), done.err


def test_another_epsilon_exits_with_1(program, path, tmp_path):
    checkpoint = load_checkpoint(path)
    wrong = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, norm_eps=1e-3))
    file = tmp_path / "g.onnx"
    file.write_bytes(export_once(wrong).payload)
    assert program("parity", path, file, "--count", 6).code == 1
