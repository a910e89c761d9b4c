"""The examination survives whatever is missing or broken, and tells one from the other."""

from importlib import metadata
from types import ModuleType

import pytest

import exporters.gpu
from exporters.gpu import Gpu
from sagan_deploy import doctor
from sagan_deploy.doctor import examine


def by_name(diagnosis):
    return {finding.name: finding for finding in diagnosis.findings}


def works(diagnosis):
    return {ability.command for ability in diagnosis.abilities if ability.works}


@pytest.fixture
def packages(monkeypatch):
    """Imports from a dictionary: a module is there, an exception is raised, anything else is not installed."""
    there = {}

    def import_module(name):
        found = there.get(name)
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found

    monkeypatch.setattr(doctor.importlib, "import_module", import_module)
    monkeypatch.setattr(doctor, "_distributions", lambda: {name for name in there if name.startswith("onnxruntime")})
    return there


def runtime():
    module = ModuleType("onnxruntime")
    module.InferenceSession, module.__version__ = object, "9"
    module.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return module


def test_this_machine():
    diagnosis = examine()
    assert diagnosis.healthy
    found = by_name(diagnosis)
    assert found["torch"].detail == metadata.version("torch")
    assert {"export", "train", "inspect, targets, doctor"} <= works(diagnosis)


def test_nothing_is_installed(packages):
    diagnosis = examine()
    assert diagnosis.healthy
    assert works(diagnosis) == {"inspect, targets, doctor"}
    found = by_name(diagnosis)
    assert found["python"].status == "ok"
    assert found["torch"].fix == "pip install 'sagan-deploy[export]'"
    assert found["tensorrt-rtx"].fix == "pip install 'sagan-deploy[rtx]'"
    assert found["onnxruntime"].fix == "pip install 'sagan-deploy[onnxruntime]'"
    assert {f.status for f in diagnosis.findings if f.name not in ("python", "NVIDIA driver", "GPU")} == {"missing"}


def test_installed_and_broken(packages):
    packages["tensorrt"] = ImportError("libnvinfer.so.11: cannot open shared object file")
    packages["torch"] = ModuleNotFoundError("No module named 'sympy'", name="sympy")
    packages["onnx"] = RuntimeError("ABI\nand more")
    diagnosis = examine()
    assert not diagnosis.healthy
    found = by_name(diagnosis)
    assert {name for name, f in found.items() if f.status == "problem"} == {"tensorrt", "torch", "onnx"}
    assert "libnvinfer.so.11" in found["tensorrt"].detail
    assert found["onnx"].detail.endswith("ABI")


def test_one_onnxruntime(packages):
    packages["onnxruntime"] = runtime()
    found = by_name(examine())["onnxruntime"]
    assert found.status == "ok"
    assert "CUDA, CPU" in found.detail
    assert "verify, generate, bench with ONNX" in works(examine())


def test_two_onnxruntimes(packages):
    packages["onnxruntime"] = packages["onnxruntime-gpu"] = runtime()
    diagnosis = examine()
    found = by_name(diagnosis)["onnxruntime"]
    assert not diagnosis.healthy
    assert "onnxruntime and onnxruntime-gpu are installed over each other" in found.detail
    assert found.fix.startswith("pip uninstall --yes onnxruntime onnxruntime-gpu; pip install")
    assert "verify, generate, bench with ONNX" not in works(diagnosis)


def test_half_an_onnxruntime(packages):
    packages["onnxruntime"] = ModuleType("onnxruntime")
    found = by_name(examine())["onnxruntime"]
    assert (found.status, "uninstalled" in found.detail) == ("problem", True)


def test_the_plugin_beside_it_is_no_second_one(packages):
    packages["onnxruntime"] = packages["onnxruntime-ep-nv-tensorrt-rtx-cu13"] = runtime()
    assert by_name(examine())["onnxruntime"].status == "ok"


def test_a_gpu(packages, monkeypatch):
    packages |= {name: ModuleType(name) for name in ("tensorrt_rtx", "cuda.bindings.runtime")}
    gpus = (Gpu("NVIDIA L4", (8, 9), 24 * 2**30),)
    monkeypatch.setattr(exporters.gpu, "local_gpus", lambda: (gpus, ""))
    monkeypatch.setattr(exporters.gpu, "driver_cuda_version", lambda: (13, 1))
    diagnosis = examine()
    found = by_name(diagnosis)
    assert found["GPU"].detail == "NVIDIA L4 (sm_89, 24 GiB)"
    assert found["NVIDIA driver"].detail == "runs CUDA up to 13.1"
    assert "verify, generate, bench with an RTX plan" in works(diagnosis)


def test_a_driver_that_fails(monkeypatch, packages):
    def fail():
        raise RuntimeError("the driver hung up")

    monkeypatch.setattr(exporters.gpu, "local_gpus", fail)
    diagnosis = examine()
    assert not diagnosis.healthy
    assert "the driver hung up" in by_name(diagnosis)["GPU"].detail


def test_every_need_is_a_finding():
    names = {finding.name for finding in examine().findings}
    assert {name for _, needs in doctor._NEEDS for name in needs} <= names


def test_extras_exist():
    declared = metadata.metadata("sagan-deploy").get_all("Provides-Extra")
    assert {package.extra for package in doctor._PACKAGES} <= set(declared)
