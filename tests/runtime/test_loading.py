"""The best engine for this machine, the reasons against the others, and no silent fall-back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sagan_deploy.bundle.bundle import CorruptError, sidecar_path
from sagan_deploy.bundle.manifest import MANIFEST_NAME
from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.runtime import cuda, load, loading, ort
from sagan_deploy.runtime import tensorrt as tensorrt_backend
from tests.runtime.doubles import Cuda, World
from tests.tiny_models import (
    CONFIG,
    expected_images,
    make_bundle,
    manifest_of,
    plan_artifact,
    plan_bytes,
    tiny_onnx,
)


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "bundle", plan=plan_bytes())


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and TensorRT, both doubles."""
    double = Cuda()
    world = World(double, plan_artifact(plan_bytes()), CONFIG)
    monkeypatch.setattr(cuda, "unavailable", double.unavailable)
    monkeypatch.setattr(tensorrt_backend, "load_tensorrt", lambda flavour: world.trt)
    original = tensorrt_backend.open_plan
    monkeypatch.setattr(tensorrt_backend, "open_plan", lambda *a, **o: original(*a, **o, cuda=double))
    return double


def test_a_plan_that_fits_comes_first(folder, gpu):
    with load(folder) as generator:
        assert generator.backend_name == "tensorrt_rtx"
        assert generator.rejected == ()
        z, labels = generator.sample_inputs(6)
        np.testing.assert_allclose(generator(z, labels), expected_images(CONFIG, z, labels), atol=1e-6)
    assert gpu.live == 0


def test_a_plan_that_does_not_fit_is_rejected_in_words(folder, gpu):
    gpu.capability = (12, 0)
    with load(folder) as generator:
        assert generator.backend_name == "onnxruntime-cpu"
        assert "onnx/fp32.onnx (fp32)" in generator.choice
        plan, on_cuda = generator.rejected
    assert (plan.backend, plan.artifact) == ("tensorrt", "engines/sm_89.plan")
    assert "built for sm_89; the GPU of this machine is sm_120" in plan.reason
    assert "sagan-deploy build" in plan.reason
    assert (on_cuda.backend, on_cuda.artifact) == ("onnxruntime-cuda", "onnx/fp16.onnx")
    assert "onnxruntime-gpu" in on_cuda.reason


def test_without_a_gpu_the_cpu_takes_fp32_and_says_why(folder):
    if cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    with load(folder) as generator:
        assert generator.artifact == "onnx/fp32.onnx"
        assert "NVIDIA GPU" in generator.rejected[0].reason
        z, labels = generator.sample_inputs(3)
        np.testing.assert_allclose(generator(z, labels), expected_images(CONFIG, z, labels), atol=1e-6)


def test_onnxruntime_with_cuda_comes_before_the_cpu(folder, monkeypatch):
    opened = []

    def open_onnx(payload, name, *, device=None, cpu=None, **_):
        opened.append((name, device))
        return ort.open_onnx(payload, name, cpu=cpu)

    monkeypatch.setattr(loading, "open_onnx", open_onnx)
    monkeypatch.setattr(loading, "load_onnxruntime", lambda device: ort.load_onnxruntime(None))
    load(folder, backend="onnxruntime", device="cuda:1").close()
    load(folder, backend="onnxruntime").close()
    load(folder, device="cpu").close()
    assert opened == [("onnx/fp16.onnx", 1), ("onnx/fp16.onnx", 0), ("onnx/fp32.onnx", None)]


@pytest.mark.parametrize(
    "options", [{"backend": "tensorrt"}, {"device": "cuda"}, {"backend": "onnxruntime", "device": "cuda"}]
)
def test_a_request_is_met_or_refused(folder, options):
    if cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(MissingError):
        load(folder, **options)


def test_the_only_candidate_speaks_for_itself(tmp_path):
    folder = make_bundle(tmp_path / "b")
    with pytest.raises(InputError, match="holds nothing that runs with backend 'tensorrt'"):
        load(folder, backend="tensorrt")


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "openvino"},
        {"device": "gpu"},
        {"device": "cuda:"},
        {"device": "cuda:-1"},
        {"threads": 0},
        {"backend": "tensorrt", "device": "cpu"},
    ],
)
def test_options_that_make_no_sense(folder, options):
    with pytest.raises(ConfigError):
        load(folder, **options)


def test_a_damaged_model_is_never_replaced_by_another_one(folder):
    path = folder / "onnx/fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match=r"fp32\.onnx"):
        load(folder)


def test_a_model_replaced_between_its_hash_and_its_opening_is_not_taken(folder, monkeypatch):
    path = folder / "onnx/fp32.onnx"
    original = loading.path_of

    def replaced(stream):
        path.with_suffix(".new").write_bytes(b"another file")
        path.with_suffix(".new").replace(path)
        return original(stream)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system has no names for open files")
    monkeypatch.setattr(loading, "path_of", replaced)
    with load(folder, device="cpu") as generator:
        z, labels = generator.sample_inputs(3)
        np.testing.assert_allclose(generator(z, labels), expected_images(CONFIG, z, labels), atol=1e-6)


def test_a_model_is_opened_as_a_file_so_that_it_is_in_memory_once(folder, monkeypatch):
    import onnxruntime

    opened = []
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda m, *a, **o: opened.append(m) or original(m, *a, **o))
    load(folder, device="cpu").close()
    load(folder / "onnx/fp32.onnx", device="cpu").close()
    assert all(isinstance(model, Path) for model in opened)
    assert len(opened) == 2


def test_a_truncated_model_is_named_by_its_own_name(tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(tiny_onnx()[:3000])
    with pytest.raises(InputError, match=r"cut\.onnx is no ONNX model") as caught:
        load(path)
    assert "/proc" not in str(caught.value)


def test_a_damaged_plan_is_never_replaced_by_a_model(folder, gpu):
    (folder / "engines/sm_89.plan").write_bytes(plan_bytes(body=b"egnine"))
    with pytest.raises(CorruptError, match="SHA-256"):
        load(folder)
    assert gpu.live == 0


def test_a_model_that_contradicts_the_manifest(folder):
    values = json.loads((folder / MANIFEST_NAME).read_text())
    values["generator"]["norm_eps"] = 1e-3
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    with pytest.raises(CorruptError, match="disagree on the config"):
        load(folder)


def test_what_failed_parity_does_not_run(folder):
    values = json.loads((folder / MANIFEST_NAME).read_text())
    for artifact in values["artifacts"]:
        if artifact["path"] == "onnx/fp32.onnx":
            artifact["verdict"] = {"status": "failed", "reason": "off by 0.1"}
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    with load(folder, device="cpu") as generator:
        assert generator.artifact == "onnx/fp16.onnx"
    values["artifacts"] = [a for a in values["artifacts"] if a["path"] != "onnx/fp16.onnx"]
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"failed parity.*off by 0\.1"):
        load(folder, device="cpu")


def test_a_single_model_whatever_its_name(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(tiny_onnx())
    with load(path) as generator:
        assert generator.sample(2).shape == (2, 3, 8, 8)


def test_a_single_plan_needs_its_sidecar(tmp_path, gpu):
    plan = tmp_path / "m.plan"
    plan.write_bytes(plan_bytes())
    with pytest.raises(InputError, match=r"m\.plan\.json is missing"):
        load(plan)
    sidecar_path(plan).write_text(manifest_of([plan_artifact(plan_bytes(), "m.plan")]).to_json())
    with load(plan) as generator:
        assert generator.sample(2).shape == (2, 3, 8, 8)


def test_a_plan_inside_a_bundle(folder, gpu):
    with load(folder / "engines/sm_89.plan") as generator:
        assert generator.backend_name == "tensorrt_rtx"


def test_a_truncated_plan_is_corrupt_on_any_machine(tmp_path):
    plan = tmp_path / "m.plan"
    plan.write_bytes(plan_bytes()[:-3])
    sidecar_path(plan).write_text(manifest_of([plan_artifact(plan_bytes(), "m.plan")]).to_json())
    with pytest.raises(CorruptError, match="damaged"):
        load(plan)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "empty file"),
        (b"hello world, this is text", "no known type"),
        (b"PK\x03\x04" + bytes(30), "zip archive or a pickle"),
        (b"\x80\x02}q\x00." + bytes(30), "zip archive or a pickle"),
        ((20).to_bytes(8, "little") + b'{"__metadata__": {}}', "is a checkpoint.*sagan-deploy deploy"),
        (tiny_onnx()[:3000], "no ONNX model"),
        (tiny_onnx(metadata={}), "another origin"),
    ],
    ids=["empty", "text", "zip", "pickle", "checkpoint", "truncated", "foreign"],
)
def test_files_of_another_kind(tmp_path, payload, words):
    path = tmp_path / "x.onnx"
    path.write_bytes(payload)
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"without manifest\.json"):
        load(tmp_path)


def test_every_way_is_listed(folder):
    ways = [(way.file, way.backend) for way in loading.candidates(folder)]
    assert ways == [
        ("onnx/fp32.onnx", "onnxruntime-cuda"),
        ("onnx/fp32.onnx", "onnxruntime-cpu"),
        ("onnx/fp16.onnx", "onnxruntime-cuda"),
        ("onnx/fp16.onnx", "onnxruntime-cpu"),
        ("engines/sm_89.plan", "tensorrt"),
    ]
    assert [way.backend for way in loading.candidates(folder, device="cpu")] == ["onnxruntime-cpu"] * 2


def test_a_bundle_moves_with_its_folder(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    load(tmp_path / "elsewhere", device="cpu").close()


def test_the_installed_builder_is_found_by_its_entry_point_and_loaded_when_it_builds(monkeypatch):
    asked = []

    class Entry:
        name = "first_use"

        def load(self):
            asked.append("load")
            return lambda bundle, gpu: f"/cache/{bundle}-{gpu}.plan"

    monkeypatch.setattr(loading, "entry_points", lambda group: [Entry()] if group == loading.BUILDERS else [])
    builder = loading.installed_builder()
    assert asked == []
    assert builder("b", 1) == Path("/cache/b-1.plan")
    assert asked == ["load"]
    monkeypatch.setattr(loading, "entry_points", lambda group: [])
    with pytest.raises(MissingError, match=r"no package here builds plans"):
        loading.installed_builder()


def test_this_package_offers_its_own_builder():
    from importlib.metadata import entry_points

    from sagan_deploy.first_use import build_missing

    (entry,) = entry_points(group=loading.BUILDERS)
    assert entry.load() is build_missing
