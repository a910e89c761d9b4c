"""Plans built at first use: the builds are TensorRT's own, the GPU and what runs on it are doubles."""

import dataclasses
import json
import logging
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sagan_deploy import first_use
from sagan_deploy.bundle.bundle import open_bundle
from sagan_deploy.bundle.golden import Golden
from sagan_deploy.bundle.manifest import MANIFEST_NAME, Verdict
from sagan_deploy.errors import CheckFailed, ConfigError, InputError, MissingError
from sagan_deploy.first_use import BuildSettings, Recipe, build_missing, default_cache, load_or_build, only_one
from sagan_deploy.runtime import cuda, load
from sagan_deploy.runtime import tensorrt as tensorrt_backend
from tests.runtime.doubles import Cuda, World
from tests.tiny_models import CONFIG, expected_images, golden_of, make_bundle, plan_bytes

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.fixture
def gpu(monkeypatch):
    """A machine with an L4 whose engines compute what the equation says, whatever plan they were loaded from."""
    double = Cuda()
    for name in ("unavailable", "device_count", "compute_capability", "device_name", "use_device"):
        monkeypatch.setattr(cuda, name, getattr(double, name))
    original = tensorrt_backend.open_plan
    double.opened = []

    def open_plan(payload, name, manifest, artifact, **options):
        double.opened.append(name)
        world = World(double, artifact, CONFIG)
        return original(payload, name, manifest, artifact, trt=world.trt, cuda=double, **options)

    monkeypatch.setattr(tensorrt_backend, "open_plan", open_plan)
    return double


@pytest.fixture
def builds(monkeypatch):
    """Counts the builds, which are real."""
    from sagan_deploy import build

    original, calls = build.build_plan, []

    def build_plan(path, **options):
        calls.append((path.name, options))
        return original(path, **options)

    monkeypatch.setattr(build, "build_plan", build_plan)
    return calls


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def entries(cache):
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_it_is_built_once_judged_and_then_used(folder, cache, gpu, builds):
    for _ in range(2):
        with load_or_build(folder, cache=cache, settings=BuildSettings(max_batch=4)) as generator:
            assert generator.backend_name == "tensorrt_rtx"
            assert generator.max_batch == 4
            z, labels = generator.sample_inputs(6)
            np.testing.assert_allclose(generator(z, labels), expected_images(CONFIG, z, labels), atol=1e-6)
    ((name, options),) = builds
    assert name == "fp16.onnx"
    assert (options["targets"], options["flavour"]) == (("sm_89",), "rtx")
    (entry,) = entries(cache)
    kept = open_bundle(entry)
    (artifact,) = kept.manifest.artifacts
    assert artifact.verdict == Verdict("passed", "drew the golden images on NVIDIA L4")
    assert artifact.plan.onnx_sha256 == open_bundle(folder).manifest.artifacts[1].sha256
    assert kept.manifest.provenance[-1]["step"] == "build"
    np.testing.assert_array_equal(kept.golden().images, golden_of().images)
    assert gpu.opened[0] == "model.plan"  # judged where it was built, then used from where it is kept
    assert set(gpu.opened[1:]) == {str(entry / "model.plan")}
    assert (cache / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert gpu.live == 0


def test_a_plan_that_draws_other_images_is_thrown_away(tmp_path, cache, gpu):
    good = golden_of()
    images = good.images.copy()
    images[2] = np.clip(images[2] + 0.1, -1, 1)
    folder = make_bundle(tmp_path / "b", golden=Golden(good.z, good.labels, images))
    with pytest.raises(CheckFailed, match=r"fp16\.onnx draws other images.*the first is 2.*thrown away.*onnxruntime"):
        load_or_build(folder, cache=cache, settings=BuildSettings(max_batch=4))
    assert entries(cache) == []
    assert gpu.live == 0


def damage_plan(entry):
    plan = entry / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")


def damage_manifest(entry):
    (entry / MANIFEST_NAME).write_text("{")


def unjudge(entry):
    values = json.loads((entry / MANIFEST_NAME).read_text())
    values["artifacts"][0]["verdict"] = {"status": "not_run", "reason": "x"}
    (entry / MANIFEST_NAME).write_text(json.dumps(values))


def age(entry):
    values = json.loads((entry / MANIFEST_NAME).read_text())
    values["artifacts"][0]["plan"]["tensorrt_version"] = "1.6.0.1"
    (entry / MANIFEST_NAME).write_text(json.dumps(values))


def lose_plan(entry):
    (entry / "model.plan").unlink()


@pytest.mark.parametrize("harm", [damage_plan, damage_manifest, unjudge, age, lose_plan])
def test_an_entry_that_is_damaged_or_stale_is_built_again(folder, cache, gpu, builds, harm, caplog):
    settings = BuildSettings(max_batch=4)
    load_or_build(folder, cache=cache, settings=settings).close()
    (entry,) = entries(cache)
    harm(entry)
    with caplog.at_level(logging.WARNING):
        load_or_build(folder, cache=cache, settings=settings).close()
    assert len(builds) == 2
    assert f"{entry} is built again" in caplog.text
    assert entries(cache) == [entry]
    open_bundle(entry).verify_hashes()


def test_everything_that_matters_makes_another_key():
    recipe = Recipe("a" * 64, "b" * 64, "rtx", "1.7.1.116", (8, 9), "L4", ("linux", "x86_64"), BuildSettings(), "0.1.0")
    changes = [
        {"onnx_sha256": "c" * 64}, {"golden_sha256": "c" * 64}, {"flavour": "tensorrt"},
        {"tensorrt_version": "1.7.1.117"}, {"compute_capability": (8, 6)}, {"gpu": "L40"},
        {"system": ("linux", "aarch64")}, {"toolkit_version": "0.2.0"}, {"format": 2},
        *({"settings": BuildSettings(**{name: 3})} for name in ("min_batch", "opt_batch", "max_batch")),
        {"settings": BuildSettings(workspace_bytes=2**30)},
        {"settings": BuildSettings("rtx")},
    ]  # fmt: skip
    fields = {name for change in changes for name in change}
    assert fields == {field.name for field in dataclasses.fields(Recipe)}
    keys = {dataclasses.replace(recipe, **change).key for change in changes}
    assert len(keys | {recipe.key}) == len(changes) + 1
    assert recipe.key == dataclasses.replace(recipe).key
    assert len(recipe.key) == 64


def test_a_plan_of_the_bundle_that_fits_is_not_built_again(tmp_path, cache, gpu, builds):
    folder = make_bundle(tmp_path / "b", plan=plan_bytes())
    with load_or_build(folder, cache=cache) as generator:
        assert generator.artifact == "engines/sm_89.plan"
    assert builds == []
    assert not cache.exists()


def test_threads_that_start_at_once_build_once(folder, cache, gpu, builds):
    bundle, found = open_bundle(folder), []

    def work():
        found.append(build_missing(bundle, 0, cache=cache, settings=BuildSettings(max_batch=2)))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(builds) == 1
    assert len(found) == 4
    assert set(found) == {entries(cache)[0] / "model.plan"}


def test_the_lock_holds_between_processes_and_dies_with_its_process(tmp_path):
    lock = tmp_path / "x.lock"
    code = (
        "import sys, time; from pathlib import Path; from sagan_deploy.first_use import only_one\n"
        f"with only_one(Path({str(lock)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        entered = threading.Event()

        def work():
            with only_one(lock):
                entered.set()

        waiting = threading.Thread(target=work)
        waiting.start()
        time.sleep(0.3)
        assert not entered.is_set()
        other.kill()
        waiting.join(timeout=20)
    assert entered.is_set()


def test_a_folder_that_cannot_be_locked(tmp_path):
    with pytest.raises(InputError, match="cannot lock .*another cache"), only_one(tmp_path / "no" / "x.lock"):
        pass


def test_without_a_gpu_it_goes_on_and_says_why(folder, cache, monkeypatch, builds):
    monkeypatch.setattr(cuda, "unavailable", lambda: "there is no CUDA device")
    with load_or_build(folder, cache=cache) as generator:
        assert generator.backend_name == "onnxruntime-cpu"
        first = generator.rejected[0]
    assert (first.backend, first.artifact) == ("tensorrt", "a plan to be built here")
    assert "NVIDIA GPU" in first.reason
    assert builds == []
    with pytest.raises(MissingError, match="NVIDIA GPU"):
        load_or_build(folder, cache=cache, backend="tensorrt")


def test_the_options_of_load_reach_it(folder, cache, tmp_path, monkeypatch, builds):
    monkeypatch.setattr(cuda, "unavailable", lambda: "there is no CUDA device")
    kept = tmp_path / "kept"
    with load_or_build(folder, cache=cache, threads=2, spin=False, runtime_cache=kept) as generator:
        options = generator._backend.session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert kept.exists()


def test_a_gpu_that_the_installed_tensorrt_does_not_serve(folder, cache, gpu):
    gpu.capability = (9, 0)
    with pytest.raises(MissingError, match=r"no plan can be built here.*tensorrt"):
        load_or_build(folder, cache=cache, backend="tensorrt")
    with pytest.raises(InputError, match=r"no plan can be built here: .*does not build for sm_90"):
        load_or_build(folder, cache=cache, backend="tensorrt", settings=BuildSettings("rtx"))
    assert not cache.exists()


def test_a_bundle_without_golden_images_is_refused(folder, cache, gpu):
    values = json.loads((folder / MANIFEST_NAME).read_text())
    values["golden"] = None
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    with pytest.raises(InputError, match="no golden images"):
        load_or_build(folder, cache=cache, backend="tensorrt")


def test_a_model_that_failed_parity_is_no_source(folder, cache, gpu, builds):
    values = json.loads((folder / MANIFEST_NAME).read_text())
    values["artifacts"][1]["verdict"] = {"status": "failed", "reason": "off"}
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    build_missing(open_bundle(folder), 0, cache=cache, settings=BuildSettings(max_batch=2))
    assert [name for name, _ in builds] == ["fp32.onnx"]
    values["artifacts"][0]["verdict"] = {"status": "failed", "reason": "off"}
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    with pytest.raises(InputError, match="no ONNX model that passed parity"):
        build_missing(open_bundle(folder), 0, cache=cache)


def test_a_damaged_model_is_not_built(folder, cache, gpu, builds):
    path = folder / "onnx/fp16.onnx"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"fp16\.onnx is not the file"):
        load_or_build(folder, cache=cache)
    assert builds == []
    assert entries(cache) == []


def test_a_plan_that_cannot_run_here_is_not_kept(folder, cache, gpu):
    gpu.fail.add("Stream")
    with pytest.raises(InputError, match="cannot run: Stream failed"):
        load_or_build(folder, cache=cache, backend="tensorrt", settings=BuildSettings(max_batch=2))
    assert entries(cache) == []


def test_where_plans_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(first_use.platform, "system", lambda: "Linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "sagan-deploy" / "plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "sagan-deploy" / "plans"
    monkeypatch.setattr(first_use.platform, "system", lambda: "Windows")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_cache() == tmp_path / "local" / "sagan-deploy" / "plans"


@pytest.mark.parametrize("options", [{"backend": "onnxruntime"}, {"device": "cpu"}])
def test_a_builder_contradicts_what_needs_no_plan(folder, options):
    with pytest.raises(ConfigError, match="are for TensorRT plans"):
        load_or_build(folder, **options)
    with pytest.raises(ConfigError, match="are for TensorRT plans"):
        load(folder, cuda_graphs=True, **options)


def test_a_builder_needs_a_bundle(folder):
    with pytest.raises(ConfigError, match="is no bundle"):
        load_or_build(folder / "onnx/fp32.onnx")
