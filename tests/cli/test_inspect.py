"""`sagan-deploy inspect`: what a file is, by its content, without running it."""

import contextlib
import json

import pytest

from sagan_deploy.bundle.bundle import sidecar_path
from sagan_deploy.bundle.kernels import Kernel
from sagan_deploy.errors import InputError
from sagan_deploy.inspection import inspect_file, kernel_facts, plan_kernels
from sagan_deploy.onnx_header import read_onnx_header
from tests.tiny_models import CONFIG, NAMES, make_bundle, manifest_of, plan_artifact, plan_bytes, tiny_onnx


@pytest.fixture
def checkpoint(tmp_path):
    from sagan_deploy.checkpoints.native import checkpoint_of, save_checkpoint
    from sagan_deploy.model.generator import Generator

    made = checkpoint_of(Generator(CONFIG), class_names=NAMES, provenance=({"step": "train", "steps": 5},))
    return save_checkpoint(tmp_path / "weights", made)  # no suffix: the content decides


def test_bundle(tmp_path, program):
    outcome = program("inspect", make_bundle(tmp_path / "b", plan=plan_bytes()), "--json")
    found = json.loads(outcome.out)
    assert found["kind"] == "bundle"
    assert [a["path"] for a in found["artifacts"]] == ["onnx/fp32.onnx", "onnx/fp16.onnx", "engines/sm_89.plan"]
    assert found["artifacts"][2]["targets"] == ["sm_89"]
    assert found["artifacts"][2]["fused_attention"] == 1
    assert found["artifacts"][0]["inputs"] == ["z float32 [n, 8]", "labels int64 [n]"]
    assert found["classes"] == list(NAMES)
    assert found["provenance"] == [{"step": "train", "steps": 5}]


def test_bundle_for_people(tmp_path, program):
    outcome = program("inspect", make_bundle(tmp_path / "b", plan=plan_bytes()))
    assert outcome.code == 0
    for part in ("TensorRT for RTX 1.7.1.116", "fused attention: 1", "not_run: no GPU", "red, green, blue"):
        assert part in outcome.out


def test_checkpoint(checkpoint):
    found = inspect_file(checkpoint).to_dict()
    assert found["kind"] == "checkpoint"
    assert found["config"]["z_dim"] == 8
    assert found["provenance"] == [{"step": "train", "steps": 5}]
    import torch

    from sagan_deploy.checkpoints.native import load_checkpoint

    state = load_checkpoint(checkpoint).state
    assert found["tensors"] == len(state)
    assert found["values"]["F32"] == sum(t.numel() for t in state.values() if t.dtype == torch.float32)


def test_onnx(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(tiny_onnx(precision="fp16", output="uint8"))
    found = inspect_file(path).to_dict()
    assert (found["kind"], found["precision"], found["output"]) == ("onnx", "fp16", "uint8")
    assert found["outputs"] == ["images uint8 [n, 8, 8, 3]"]
    assert found["origin"] == "sagan-deploy 0.1.0"
    assert found["image"] == "8x8, 3 channels"


def test_the_header_agrees_with_the_onnx_package():
    import onnx

    payload = tiny_onnx()
    header, model = read_onnx_header(payload, "m.onnx"), onnx.load_from_string(payload)
    assert (header.ir_version, header.opset) == (model.ir_version, model.opset_import[0].version)
    assert header.metadata == {p.key: p.value for p in model.metadata_props}
    assert header.producer == "tests"
    assert sum(header.operators.values()) == len(model.graph.node)
    assert header.operators["Gather"] == 1
    sizes = [onnx.numpy_helper.to_array(t).size for t in model.graph.initializer]
    assert header.parameters == sum(sizes)


def test_the_header_of_a_model_with_big_and_odd_dimensions():
    from onnx import TensorProto, helper

    shape = ["batch", None, 1 << 40]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [])
    graph = helper.make_graph([helper.make_node("Odd", ["x"], ["y"], domain="my.domain")], "g", [value], [out])
    opsets = [helper.make_opsetid("my.domain", 99), helper.make_opsetid("", 17)]
    header = read_onnx_header(helper.make_model(graph, opset_imports=opsets).SerializeToString(), "m")
    assert header.inputs[0].shape == ("batch", "?", 1 << 40)
    assert (header.outputs[0].dtype, header.outputs[0].shape) == ("bfloat16", ())
    assert header.opset == 17


def test_a_foreign_onnx_is_still_explained(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx(metadata={"author": "somebody"}))
    found = inspect_file(path).to_dict()
    assert found["origin"] == "another exporter"
    assert found["metadata"] == {"author": "somebody"}
    assert "config" not in found


def test_plan_with_and_without_its_sidecar(tmp_path):
    plan = tmp_path / "m.plan"
    plan.write_bytes(plan_bytes())
    found = inspect_file(plan).to_dict()
    assert found["engine"] == "TensorRT for RTX 1.7.1.116"
    assert "m.plan.json is missing" in found["sidecar"]
    sidecar_path(plan).write_text(manifest_of([plan_artifact(plan_bytes(), "m.plan")]).to_json())
    assert inspect_file(plan).to_dict()["artifacts"][0]["batch"] == ["1 to 4, best at 2"]
    plan.write_bytes(plan_bytes(body=b"other!"))
    with pytest.raises(InputError, match="SHA-256"):
        inspect_file(plan)


def test_a_foreign_plan_says_what_its_first_bytes_say(tmp_path):
    """Bytes as TensorRT for RTX 1.7.1 wrote them for sm_86 and sm_89."""
    plan = tmp_path / "m.plan"
    payload = bytearray(plan_bytes(body=b"engine"))
    payload[32], payload[56:60] = 0b1100, (98304).to_bytes(4, "little")
    plan.write_bytes(payload)
    found = inspect_file(plan).to_dict()
    assert (found["targets"], found["weight_bytes"]) == (["sm_86", "sm_89"], 98304)
    assert "damage" not in found
    plan.write_bytes(payload[:-1])
    assert "70 bytes, the file has 69" in inspect_file(plan).to_dict()["damage"]
    plan.write_bytes(payload[:30])  # all that can be read of it is who made it
    assert list(inspect_file(plan).facts) == ["engine", "sidecar"]


def kernels():
    return (
        Kernel("tail/Conv", "correlation", ("float16",), ("tail/Conv",), "product"),
        Kernel("stages.0.attention/Conv", "correlation", ("float16",), ("stages.0.attention/Conv",), "product"),
        Kernel("_gemm_mha_v2", "kgen", ("float16",), ("stages.0.attention/MatMul",), "attention"),
        Kernel("CastGath", "kgen", ("float32", "int64"), ("Cast", "Gather"), "other"),
    )


def test_kernels_per_part_of_the_generator():
    found = kernel_facts(kernels())
    assert list(found) == ["generator", "stages.0.attention", "tail"]
    assert found["generator"]["types"] == ["float32", "int64"]
    assert (found["stages.0.attention"]["fused_attention"], found["tail"]["fused_attention"]) == (1, 0)
    assert found["stages.0.attention"]["kernels"][1] == {
        "name": "_gemm_mha_v2",
        "kind": "kgen",
        "reads": ["float16"],
        "nodes": ["stages.0.attention/MatMul"],
        "role": "attention",
    }


def test_kernels_for_people():
    import io

    from rich.console import Console

    from sagan_deploy.cli.inspect import _table

    artifact = {"path": "m.plan", "layers": 7, "kernels": kernel_facts(kernels())}
    stream = io.StringIO()
    Console(file=stream, width=120).print(_table({"artifacts": [artifact]}))
    assert "artifacts 1 kernels" in stream.getvalue()
    for line in (
        "generator: 1 kernel, float32, int64",
        "stages.0.attention: 2 kernels, float16, fused attention in _gemm_mha_v2",
        "tail: 1 kernel, float16 ",
        "layers: 7",
    ):
        assert line in stream.getvalue()
    assert "nodes" not in stream.getvalue()  # that is what --json is for


def test_plan_inside_a_bundle_shows_itself_only(tmp_path):
    folder = make_bundle(tmp_path / "b", plan=plan_bytes())
    artifacts = inspect_file(folder / "engines/sm_89.plan").to_dict()["artifacts"]
    assert [a["path"] for a in artifacts] == ["engines/sm_89.plan"]


def test_a_truncated_model_is_refused_or_has_fewer_metadata():
    payload = tiny_onnx()
    whole = read_onnx_header(payload, "m.onnx")
    accepted = 0
    for size in range(0, len(payload), 7):
        try:
            header = read_onnx_header(payload[:size], "m.onnx")
        except InputError:
            continue
        accepted += 1
        assert header.inputs == whole.inputs
        assert len(header.metadata) < len(whole.metadata)
    assert accepted < 10


@pytest.mark.parametrize("cut", [4, 8, 100, 1000, -1])
def test_truncated_checkpoints(checkpoint, program, cut):
    checkpoint.write_bytes(checkpoint.read_bytes()[:cut])
    outcome = program("inspect", checkpoint)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x89PNG\r\n\x1a\n" + bytes(30), b"PK\x03\x04" + bytes(30), b"vtrt", b"\x08\x0a\x12\x05abc" + bytes(20)],
    ids=["empty", "png", "zip", "plan", "onnx"],
)
def test_foreign_and_broken_files(tmp_path, program, payload):
    path = tmp_path / "x.onnx"
    path.write_bytes(payload)
    outcome = program("inspect", path)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (4, "", 1)


def test_random_damage_never_breaks_the_reader():
    import random

    chance = random.Random(0)
    payload = tiny_onnx()
    for _ in range(500):
        broken = bytearray(payload)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        with contextlib.suppress(InputError):
            read_onnx_header(bytes(broken), "m.onnx")


def test_a_number_of_more_than_64_bits_is_no_number():
    with pytest.raises(InputError, match="no whole ONNX model"):
        read_onnx_header(b"\x08" + b"\xff" * 12 + b"\x01" + tiny_onnx()[2:], "m.onnx")


def test_a_damaged_bundle_is_not_described(tmp_path, program):
    folder = make_bundle(tmp_path / "b")
    (folder / "README.md").write_text("changed")
    assert program("inspect", folder).code == 4


def test_inspecting_loads_no_heavy_package(tmp_path):
    import subprocess
    import sys

    folder = make_bundle(tmp_path / "b", plan=plan_bytes())
    code = f"""
import sys
from sagan_deploy.inspection import inspect_file
inspect_file({str(folder)!r}); inspect_file({str(folder / "onnx/fp32.onnx")!r})
print([m for m in ("torch", "onnx", "onnxruntime", "tensorrt_rtx", "safetensors") if m in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_the_kernels_of_a_plan_in_a_bundle(tmp_path, program):
    folder = make_bundle(tmp_path / "b", plan=plan_bytes(), kernels=kernels())
    found = json.loads(program("inspect", folder, "--json").out)["artifacts"][2]["kernels"]
    assert found == kernel_facts(kernels())
    assert "fused attention in _gemm_mha_v2" in program("inspect", folder / "engines/sm_89.plan").out


def test_a_manifest_of_an_older_version_has_no_kernels(tmp_path):
    plan = tmp_path / "m.plan"
    plan.write_bytes(plan_bytes())
    values = manifest_of([plan_artifact(plan_bytes(), "m.plan")]).to_dict()
    for added in ("kernels", "profile_activation_bytes"):
        del values["artifacts"][0]["plan"][added]
    sidecar_path(plan).write_text(json.dumps(values))
    (artifact,) = inspect_file(plan).to_dict()["artifacts"]
    assert "kernels" not in artifact
    assert artifact["targets"] == ["sm_89"]


def test_the_kernels_of_a_plan_by_its_path(tmp_path):
    kernels = (
        Kernel("b", "correlation", ("float16",), ("tail.conv/Conv",), "product"),
        Kernel("a", "gemm", ("float16",), ("stem.linear/Gemm",), "product"),
    )
    folder = make_bundle(tmp_path / "b", plan=plan_bytes(), kernels=kernels)
    found = plan_kernels(folder / "engines/sm_89.plan")
    assert [(part, [kernel.name for kernel in group]) for part, group in found.items()] == [
        ("stem", ["a"]), ("tail", ["b"]),
    ]  # fmt: skip
    alone = tmp_path / "alone.plan"
    alone.write_bytes(plan_bytes())
    assert plan_kernels(alone) == {}
