"""Exported files: the same pictures as PyTorch, the promised interface, and the same bytes every time."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import exporters.onnx
from exporters.cost import model_cost
from sagan_deploy.errors import ConfigError
from sagan_deploy.export import baked, export_generator, onnx_artifact
from sagan_deploy.files import sha256_bytes
from sagan_deploy.model.inference import InferenceOptions
from tests.exports import export_once
from tests.generators import CONFIGS, TINY, inputs, tiny_checkpoint


def run(payload, config, count):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    feeds = dict(zip(("z", "labels"), inputs(config, count, torch.float32), strict=False))
    return session.run(["images"], {name: value.numpy() for name, value in feeds.items()})[0]


def reference(checkpoint, count):
    """The training form in float64: it shares no code with the exported form."""
    z, *rest = inputs(checkpoint.config, count, torch.float32)
    return checkpoint.generator().double()(z.double(), *rest).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_file_draws_the_same_pictures(name):
    checkpoint = tiny_checkpoint(CONFIGS[name])
    exported = export_once(checkpoint)
    for count in (1, 5):
        images = run(exported.payload, checkpoint.config, count)
        expected = reference(checkpoint, count)
        assert images.shape == expected.shape
        assert np.linalg.norm(images - expected) / np.linalg.norm(expected) < 3e-6


@pytest.mark.parametrize("attention", ["fused", "decomposed"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_layout_and_precision_is_the_same_network(attention, precision):
    checkpoint = tiny_checkpoint()
    exported = export_once(checkpoint, InferenceOptions(precision=precision, attention=attention))
    images, expected = run(exported.payload, TINY, 3), reference(checkpoint, 3)
    # ONNX Runtime's CPU computes half precision in float32, so this says that the file is right, not how it rounds.
    assert np.linalg.norm(images - expected) / np.linalg.norm(expected) < (3e-6 if precision == "fp32" else 5e-3)
    model = onnx.load_from_string(exported.payload)
    floats = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    assert floats == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT}


def test_differences_and_winograd_are_the_same_network_with_fewer_multiplications():
    checkpoint = tiny_checkpoint()
    plain, fast = (
        export_generator(checkpoint, InferenceOptions(upsample_conv=upsample_conv, conv=conv)).payload
        for upsample_conv, conv in (("plain", "direct"), ("differences", "winograd"))
    )
    for count in (1, 3):
        images, expected = run(fast, TINY, count), reference(checkpoint, count)
        assert np.linalg.norm(images - expected) / np.linalg.norm(expected) < 3e-6
    assert model_cost(fast).multiplications < model_cost(plain).multiplications / 1.8


@pytest.mark.parametrize("name", CONFIGS)
def test_every_generator_takes_the_short_way_to_onnx(name, monkeypatch):
    def long_way(*_):
        raise AssertionError("the module itself was given to torch.onnx: it is traced again")

    write = exporters.onnx._write
    monkeypatch.setattr(
        exporters.onnx,
        "_write",
        lambda given, *rest: long_way() if isinstance(given, nn.Module) else write(given, *rest),
    )
    assert export_generator(tiny_checkpoint(CONFIGS[name])).payload


def test_the_interface_is_what_was_promised():
    exported = export_once(tiny_checkpoint(), InferenceOptions(precision="fp16"))
    graph = onnx.load_from_string(exported.payload).graph
    shapes = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "z": (onnx.TensorProto.FLOAT, ["n", 8]),
        "labels": (onnx.TensorProto.INT64, ["n"]),
        "images": (onnx.TensorProto.FLOAT, ["n", 3, 16, 16]),
    }
    artifact = onnx_artifact(exported, "g.onnx")
    assert [(t.name, t.shape) for t in (*artifact.inputs, *artifact.outputs)] == [
        ("z", ("n", 8)), ("labels", ("n",)), ("images", ("n", 3, 16, 16))
    ]  # fmt: skip
    assert artifact.sha256 == sha256_bytes(exported.payload)


def test_uint8_images_leave_as_the_last_node():
    checkpoint = tiny_checkpoint()
    exported = export_once(checkpoint, InferenceOptions(output="uint8"))
    codes = run(exported.payload, TINY, 3)
    expected = np.rint(reference(checkpoint, 3) * 127.5 + 127.5).transpose(0, 2, 3, 1)
    assert codes.dtype == np.uint8
    assert codes.shape == (3, 16, 16, 3)
    # A value that lies on a rounding boundary may fall to either side in float32.
    assert np.abs(codes - expected).max() <= 1
    assert (codes != expected).mean() < 1e-3
    assert onnx.load_from_string(exported.payload).graph.node[-1].op_type == "Cast"


def test_the_file_explains_itself():
    checkpoint = dataclasses.replace(tiny_checkpoint(), sha256="ab" * 32)
    exported = export_once(checkpoint)
    found = {entry.key: entry.value for entry in onnx.load_from_string(exported.payload).metadata_props}
    assert found == exported.metadata
    assert json.loads(found["sagan_deploy.config"])["widths"] == [32, 24, 16]
    assert json.loads(found["sagan_deploy.class_names"]) == ["class 0", "class 1", "class 2"]
    assert found["sagan_deploy.checkpoint_sha256"] == "ab" * 32
    assert [step["step"] for step in json.loads(found["sagan_deploy.provenance"])] == ["test", "export"]


def test_stages_name_values_that_hold_what_the_training_form_computes():
    checkpoint = tiny_checkpoint()
    exported = export_once(checkpoint)
    stages = json.loads(exported.metadata["sagan_deploy.stages"])
    assert list(stages) == ["stem", "stages.0"]  # the last norm is folded into the last stage
    model = onnx.load_from_string(exported.payload)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in stages.values())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    z, labels = inputs(TINY, 2, torch.float32)
    values = session.run(list(stages.values()), {"z": z.numpy(), "labels": labels.numpy()})
    generator, seen = checkpoint.generator(), {}
    for path in stages:
        generator.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: seen.update({path: out}))
    generator(z, labels)
    for path, value in zip(stages, values, strict=True):
        np.testing.assert_allclose(value, seen[path].numpy(), rtol=1e-3, atol=1e-4)


def test_the_training_form_keeps_the_layers_and_loses_only_spectral_norm():
    checkpoint = tiny_checkpoint()
    plain = export_once(checkpoint, form="training")
    images, expected = run(plain.payload, TINY, 3), reference(checkpoint, 3)
    assert np.linalg.norm(images - expected) / np.linalg.norm(expected) < 3e-6
    types = [node.op_type for node in onnx.load_from_string(plain.payload).graph.node]
    assert types.count("Resize") == 4
    assert "Div" not in types
    assert not any("parametrizations" in name for name in baked(checkpoint.generator()).state_dict())


def test_equal_checkpoints_give_equal_bytes_in_every_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.generators import tiny_checkpoint;"
        "from sagan_deploy.export import export_generator;"
        "Path(sys.argv[1]).write_bytes(export_generator(tiny_checkpoint()).payload)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
    payload = (tmp_path / "a").read_bytes()
    assert payload == export_generator(tiny_checkpoint()).payload
    assert payload != export_generator(tiny_checkpoint(seed=1)).payload
    assert str(tmp_path.home()).encode() not in payload


@pytest.mark.parametrize(
    ("options", "form", "opset"),
    [
        (InferenceOptions(precision="fp16"), "training", None),
        (InferenceOptions(output="uint8"), "training", None),
        (InferenceOptions(), "inference", 11),
        (InferenceOptions(precision="bf16"), "inference", 20),
        (InferenceOptions(), "inference", 99),
    ],
)
def test_contradicting_options_are_refused(options, form, opset):
    with pytest.raises(ConfigError):
        export_generator(tiny_checkpoint(), options, form=form, opset=opset)


def test_bfloat16_exports_valid_files_without_float32_weights():
    exported = export_once(tiny_checkpoint(), InferenceOptions(precision="bf16"))
    model = onnx.load_from_string(exported.payload)
    assert exported.opset == 22
    weights = {t.data_type for t in model.graph.initializer if len(t.dims) == 4 and t.dims[0] > 1}
    assert weights == {onnx.TensorProto.BFLOAT16}
