"""The Triton model repository, judged by Triton's own protocol buffer, the onnx package and ONNX Runtime."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from sagan_deploy.bundle.bundle import CorruptError, finish_bundle, open_bundle
from sagan_deploy.bundle.manifest import TensorInfo
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import sha256
from sagan_deploy.triton import check_out, write_triton
from sagan_deploy.triton.config import ModelConfig
from tests.tiny_models import (
    CONFIG,
    UNCONDITIONAL,
    make_bundle,
    manifest_of,
    onnx_artifact,
    plan_artifact,
    plan_bytes,
    profile,
    tensor_infos,
    tiny_onnx,
)

CLASSIC = {"flavour": "tensorrt", "tensorrt_version": "10.13.3.9"}


@functools.cache
def proto():
    """`tritonclient.grpc.model_config_pb2` without its package, whose import demands grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None, "the tests need Triton's definition: pip install --no-deps tritonclient"
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(model: Path):
    """Its config as Triton reads it, after the rules that Triton checks when it loads a model."""
    config = text_format.Parse((model / "config.pbtxt").read_text(), proto().ModelConfig())
    assert config.name == model.name
    files = set(config.cc_model_filenames.values()) | {config.default_model_filename} - {""}
    assert {path.name for path in (model / "1").iterdir()} == files
    assert all(0 < size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size)
    inputs = {tensor.name: tensor for tensor in config.input}
    for warmup in config.model_warmup:
        assert warmup.batch_size <= config.max_batch_size
        assert set(warmup.inputs) == set(inputs)
        for name, sample in warmup.inputs.items():
            assert (sample.data_type, list(sample.dims)) == (inputs[name].data_type, list(inputs[name].dims))
            assert sample.WhichOneof("input_data_type") == "zero_data"
    return config


def models(repository: Path) -> list[str]:
    return sorted(path.name for path in repository.iterdir() if path.is_dir())


def numpy_type(data_type: int) -> np.dtype:
    names = {"FP32": "float32", "FP16": "float16", "INT64": "int64", "UINT8": "uint8"}
    return np.dtype(names[proto().DataType.Name(data_type).removeprefix("TYPE_")])


def inside(tensor) -> list[int]:
    """The shape that reaches the model behind the batch."""
    return list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)


def classic_bundle(folder, *plans, config=CONFIG):
    """An ONNX model and plans, each (path, plan facts and artifact changes)."""
    payload = tiny_onnx(config)
    files = {"onnx/fp32.onnx": payload}
    artifacts = [onnx_artifact(payload, "onnx/fp32.onnx", config)]
    for path, changes in plans:
        files[path] = plan_bytes(b"ftrt", (10, 13, 3, 9), path.encode())
        artifacts.append(plan_artifact(files[path], path, config, **(CLASSIC | changes)))
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    finish_bundle(folder, manifest_of(artifacts, config))
    return folder


def gpu(*capabilities, **changes):
    names = tuple(f"sm_{major}{minor}" for major, minor in capabilities)
    return {"targets": names, "compute_capabilities": tuple(capabilities), **changes}


@pytest.mark.parametrize("config", [CONFIG, UNCONDITIONAL], ids=["classes", "unconditional"])
@pytest.mark.parametrize("output", ["float", "uint8"])
def test_a_config_is_what_the_onnx_package_and_onnx_runtime_say_of_the_model(tmp_path, config, output):
    import onnx
    import onnxruntime

    out = write_triton(make_bundle(tmp_path / "b", config, output=output), tmp_path / "r", device="cpu")
    assert models(out) == ["generator_onnx"]
    made, path = parsed(out / "generator_onnx"), out / "generator_onnx/1/model.onnx"
    assert (made.platform, made.backend) == ("onnxruntime_onnx", "onnxruntime")
    graph = onnx.load(path).graph
    for tensors, values in ((made.input, graph.input), (made.output, graph.output)):
        assert [tensor.name for tensor in tensors] == [value.name for value in values]
        for tensor, value in zip(tensors, values, strict=True):
            kind = value.type.tensor_type
            assert numpy_type(tensor.data_type) == onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            assert inside(tensor) == [size.dim_value for size in kind.shape.dim[1:]]
            assert all(size > 0 for size in tensor.dims)  # a request has no empty shape
    session = onnxruntime.InferenceSession(path)
    (images,) = made.output
    for warmup in made.model_warmup:
        shapes = {tensor.name: [warmup.batch_size, *inside(tensor)] for tensor in made.input}
        feed = {tensor.name: np.zeros(shapes[tensor.name], numpy_type(tensor.data_type)) for tensor in made.input}
        (drawn,) = session.run(None, feed)
        assert drawn.dtype == numpy_type(images.data_type)
        assert list(drawn.shape) == [warmup.batch_size, *images.dims]


def test_plans_of_several_gpus_are_one_model(tmp_path):
    bundle = classic_bundle(
        tmp_path / "b",
        ("engines/ada.plan", gpu((8, 9), (12, 0))),
        ("engines/hopper.plan", gpu((9, 0), profiles=(profile(1, 3, 8),))),
    )
    out = write_triton(bundle, tmp_path / "r", name="faces", instances=2)
    assert models(out) == ["faces_onnx", "faces_tensorrt"]
    made = parsed(out / "faces_tensorrt")
    assert (made.platform, made.backend) == ("tensorrt_plan", "tensorrt")
    assert dict(made.cc_model_filenames) == {
        "8.9": "sm_89_sm_120.plan",
        "9.0": "sm_90.plan",
        "12.0": "sm_89_sm_120.plan",
    }
    assert made.default_model_filename == ""  # no fall-back to another GPU's plan
    assert (out / "faces_tensorrt/1/sm_90.plan").read_bytes() == (bundle / "engines/hopper.plan").read_bytes()
    assert made.max_batch_size == 4  # what both take
    assert list(made.dynamic_batching.preferred_batch_size) == [2, 3, 4]
    assert [warmup.batch_size for warmup in made.model_warmup] == [2, 3, 4]
    (group,) = made.instance_group
    assert (group.count, group.kind, list(group.profile)) == (2, proto().ModelInstanceGroup.KIND_GPU, [])
    inputs, outputs = tensor_infos(CONFIG, "float")
    assert [t.name for t in (*made.input, *made.output)] == [t.name for t in (*inputs, *outputs)]
    assert [inside(t) for t in (*made.input, *made.output)] == [list(t.shape[1:]) for t in (*inputs, *outputs)]
    assert [str(numpy_type(t.data_type)) for t in (*made.input, *made.output)] == ["float32", "int64", "float32"]
    assert not parsed(out / "faces_onnx").HasField("optimization")
    assert "10.13.3.9" in (out / "README.md").read_text()


def test_capabilities_stand_in_the_order_of_their_numbers(tmp_path):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((12, 0), (8, 9), (10, 0))))
    text = (write_triton(bundle, tmp_path / "r") / "generator_tensorrt/config.pbtxt").read_text()
    assert text.index('"8.9"') < text.index('"10.0"') < text.index('"12.0"')


def test_every_profile_of_a_plan_is_used(tmp_path):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9), profiles=(profile(1, 2, 4), profile(1, 8, 16)))))
    made = parsed(write_triton(bundle, tmp_path / "r") / "generator_tensorrt")
    assert list(made.instance_group[0].profile) == ["0", "1"]
    assert list(made.dynamic_batching.preferred_batch_size) == [2, 8, 16]


def test_plans_for_rtx_stay_behind_and_tensorrt_becomes_an_accelerator(tmp_path):
    out = write_triton(make_bundle(tmp_path / "b", plan=plan_bytes()), tmp_path / "r")
    assert models(out) == ["generator_onnx"]
    made = parsed(out / "generator_onnx")
    (accelerator,) = made.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    # Every key stands in the table of Triton's onnxruntime backend, which refuses others.
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP16",
        "trt_profile_min_shapes": "z:1x8,labels:1",
        "trt_profile_opt_shapes": "z:2x8,labels:2",
        "trt_profile_max_shapes": "z:4x8,labels:4",
    }
    assert made.max_batch_size == 4  # as the plan beside it
    readme, record = (out / "README.md").read_text(), json.loads((out / "repository.json").read_text())
    assert "parity has not judged that engine" in readme
    assert "takes `z` float32 [n, 8], `labels` int64 [n, 1]\n" in readme
    assert "gives `images` float32 [n, 3, 8, 8]\n" in readme
    assert "not for RTX" in record["left_out"]["engines/sm_89.plan"]
    assert record["files"]["generator_onnx/1/model.onnx"]["from"] == "onnx/fp16.onnx"
    assert record["files"]["generator_onnx/1/model.onnx"]["sha256"] == sha256(out / "generator_onnx/1/model.onnx")
    assert record["configs"]["generator_onnx/config.pbtxt"] == sha256(out / "generator_onnx/config.pbtxt")


def test_without_a_gpu_there_is_fp32_on_the_cpu_and_no_plan(tmp_path):
    out = write_triton(
        classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9)))), tmp_path / "r", device="cpu", max_batch=5
    )
    assert models(out) == ["generator_onnx"]
    made = parsed(out / "generator_onnx")
    assert made.instance_group[0].kind == proto().ModelInstanceGroup.KIND_CPU
    assert not made.HasField("optimization")
    assert made.max_batch_size == 5
    assert "--gpus" not in (out / "README.md").read_text()


@pytest.mark.parametrize(("device", "served"), [("cpu", "onnx/fp32.onnx"), ("gpu", "onnx/fp16.onnx")])
def test_the_precision_is_the_one_that_suits_the_device(tmp_path, device, served):
    out = write_triton(make_bundle(tmp_path / "b"), tmp_path / "r", device=device)
    record = json.loads((out / "repository.json").read_text())
    assert record["files"]["generator_onnx/1/model.onnx"]["from"] == served
    assert list(record["left_out"].values()) == [f"{served} is served; a model has one precision"]


def test_without_plans_the_batches_are_those_of_deploy(tmp_path):
    made = parsed(write_triton(make_bundle(tmp_path / "b"), tmp_path / "r") / "generator_onnx")
    assert (made.max_batch_size, list(made.dynamic_batching.preferred_batch_size)) == (64, [8, 64])


def test_a_mixed_model_is_not_handed_to_a_builder_that_ignores_its_types(tmp_path):
    payload = tiny_onnx()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.onnx").write_bytes(payload)
    finish_bundle(tmp_path / "b", manifest_of([onnx_artifact(payload, "a.onnx", precision="mixed")]))
    assert not parsed(write_triton(tmp_path / "b", tmp_path / "r") / "generator_onnx").HasField("optimization")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "-x", 'a"b', "a\nb", "ü"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(ConfigError, match="name"):
        write_triton(bundle, tmp_path / "r", name=name)
    assert not (tmp_path / "r").exists()


def test_names_in_a_manifest_become_neither_paths_nor_fields(tmp_path):
    hostile = "engines/a}' name `x` $(id) {.plan"
    out = write_triton(classic_bundle(tmp_path / "b", (hostile, gpu((8, 9)))), tmp_path / "r")
    assert parsed(out / "generator_tensorrt").name == "generator_tensorrt"
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert written == [
        "README.md",
        "generator_onnx/1/model.onnx",
        "generator_onnx/config.pbtxt",
        "generator_tensorrt/1/sm_89.plan",
        "generator_tensorrt/config.pbtxt",
        "repository.json",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "r"]


def test_a_tensor_name_is_quoted(tmp_path):
    odd = 'z" } name: "x\\\n'
    config = ModelConfig("m", "onnxruntime", 1, (1,), (TensorInfo(odd, "float16", ("n", 2), ""),), (), default_file="f")
    read = text_format.Parse(config.to_text(), proto().ModelConfig())
    assert (read.name, read.input[0].name) == ("m", odd)
    assert list(read.model_warmup[0].inputs) == [odd]
    assert read.input[0].data_type == proto().TYPE_FP16


@pytest.mark.parametrize("shape", [(), (4,), ("n", "m"), ("n", 0)])
def test_shapes_that_triton_cannot_batch_are_refused(shape):
    config = ModelConfig("m", "onnxruntime", 1, (1,), (TensorInfo("z", "float32", shape, ""),), (), default_file="f")
    with pytest.raises(InputError, match="first size"):
        config.to_text()


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (gpu((9, 0), (8, 9)), r"both serve compute capability 8\.9"),
        (gpu((9, 0), profiles=(profile(2, 2, 4),)), "takes no batch of 1 "),
        (gpu((9, 0), profiles=(profile(1, 1, 1),)), None),
        (gpu(), "names no compute capability"),
        (gpu((9, 0), profiles=(profile(1, 2, 4),) * 2), "number of profiles"),
        (gpu((9, 0), inputs=tensor_infos(CONFIG, "float", "float16")[0]), "inputs or outputs"),
    ],
)
def test_plans_that_contradict_each_other_are_refused(tmp_path, second, words):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9))), ("b.plan", second))
    if words is None:  # the check on the check: what contradicts nothing is taken
        assert parsed(write_triton(bundle, tmp_path / "r") / "generator_tensorrt").max_batch_size == 1
        return
    with pytest.raises(InputError, match=words):
        write_triton(bundle, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_gap_between_profiles_is_refused_unless_the_largest_batch_lies_before_it(tmp_path):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9), profiles=(profile(1, 1, 2), profile(4, 8, 16)))))
    with pytest.raises(InputError, match="takes no batch of 3 "):
        write_triton(bundle, tmp_path / "r")
    assert parsed(write_triton(bundle, tmp_path / "r", max_batch=2) / "generator_tensorrt").max_batch_size == 2


def test_plans_of_another_precision_stay_behind_by_name(tmp_path):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9), precision="fp32")), ("b.plan", gpu((8, 9))))
    out = write_triton(bundle, tmp_path / "r")
    assert (out / "generator_tensorrt/1/sm_89.plan").read_bytes() == (bundle / "b.plan").read_bytes()
    assert "fp16 is served" in json.loads((out / "repository.json").read_text())["left_out"]["a.plan"]


@pytest.mark.parametrize("values", [{"max_batch": 5}, {"max_batch": 0}, {"instances": 0}, {"device": "tpu"}])
def test_values_out_of_range_are_refused(tmp_path, values):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9))))
    with pytest.raises(ConfigError, match=next(iter(values))):
        write_triton(bundle, tmp_path / "r", **values)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("path", ["onnx/fp32.onnx", "a.plan"])
def test_a_damaged_file_is_not_served(tmp_path, path):
    bundle = classic_bundle(tmp_path / "b", ("a.plan", gpu((8, 9))))
    payload = bytearray((bundle / path).read_bytes())
    payload[-1] ^= 1
    (bundle / path).write_bytes(payload)
    with pytest.raises(CorruptError, match="SHA-256"):
        write_triton(bundle, tmp_path / "r")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_what_failed_parity_is_not_served(tmp_path):
    payload = tiny_onnx()
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "a.onnx").write_bytes(payload)
    from sagan_deploy.bundle.manifest import Verdict

    finish_bundle(folder, manifest_of([onnx_artifact(payload, "a.onnx", verdict=Verdict("failed", "wrong"))]))
    with pytest.raises(InputError, match=r"a\.onnx: it failed parity"):
        write_triton(folder, tmp_path / "r")


def test_an_existing_folder_is_replaced_only_by_force_and_only_when_it_is_a_repository(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    out = write_triton(bundle, tmp_path / "r")
    for refused in (lambda: write_triton(bundle, out), lambda: check_out(out)):
        with pytest.raises(InputError, match="--force"):
            refused()
    check_out(out, force=True)
    check_out(tmp_path / "new")
    assert models(write_triton(bundle, out, name="other", force=True)) == ["other_onnx"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home/README.md").write_text("mine")
    with pytest.raises(InputError, match="not a folder that this command made"):
        write_triton(bundle, tmp_path / "home", force=True)
    assert (tmp_path / "home/README.md").read_text() == "mine"


def test_equal_bundles_give_equal_repositories(tmp_path):
    bundle = make_bundle(tmp_path / "b", plan=plan_bytes())
    one, two = write_triton(bundle, tmp_path / "1"), write_triton(bundle, tmp_path / "2")
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    assert open_bundle(bundle).verify_hashes()
