"""Asking for GPUs: without cuda-bindings, without a driver, with a card."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from exporters.gpu import Gpu, driver_cuda_version, local_gpus


def cuda(monkeypatch, *, code=0, count=1, version=13010):
    runtime = ModuleType("cuda.bindings.runtime")
    properties = SimpleNamespace(name=b"NVIDIA L4\0\0", major=8, minor=9, totalGlobalMem=24 * 2**30)
    runtime.cudaGetDeviceCount = lambda: (code, count if code == 0 else None)
    runtime.cudaDriverGetVersion = lambda: (0, version)
    runtime.cudaGetDeviceProperties = lambda index: (0, properties)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = runtime
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)


def test_a_card(monkeypatch):
    cuda(monkeypatch)
    assert local_gpus() == ((Gpu("NVIDIA L4", (8, 9), 24 * 2**30),), "")
    assert driver_cuda_version() == (13, 1)


def test_no_driver(monkeypatch):
    cuda(monkeypatch, code=35, version=0)
    gpus, reason = local_gpus()
    assert gpus == ()
    assert "35" in reason
    assert driver_cuda_version() is None


def test_a_driver_without_a_card(monkeypatch):
    cuda(monkeypatch, count=0)
    assert local_gpus() == ((), "there is none")


def test_no_bindings(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert local_gpus()[0] == ()
    assert "cuda-bindings" in local_gpus()[1]
    assert driver_cuda_version() is None


def test_the_real_bindings_have_these_names():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name in ("cudaGetDeviceCount", "cudaDriverGetVersion", "cudaGetDeviceProperties"):
        assert hasattr(runtime, name)
    assert {"name", "major", "minor", "totalGlobalMem"} <= set(dir(runtime.cudaDeviceProp))
