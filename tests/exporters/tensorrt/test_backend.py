"""Importing a TensorRT: what is missing has an install line, and its log is caught without being printed."""

import importlib
import sys
import threading

import pytest

from exporters.errors import MissingBackend, SpecError
from exporters.tensorrt import backend as module
from exporters.tensorrt.backend import Record, installed, load_backend

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.fixture
def no_cache():
    module._load.cache_clear()
    yield
    module._load.cache_clear()


def test_rtx():
    backend = load_backend("rtx")
    assert backend is load_backend("rtx")
    assert backend.flavour == "rtx"
    assert backend.version == importlib.metadata.version("tensorrt_rtx_cu13")
    assert backend.product == f"TensorRT for RTX {backend.version}"
    assert backend.caps.cc_targets
    assert backend.caps.strong_typing_flag


@pytest.mark.parametrize(("flavour", "name"), [("rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")])
def test_not_installed(monkeypatch, no_cache, flavour, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingBackend, match=f"is not installed .*pip install {name.replace('_', '-')}"):
        load_backend(flavour)
    assert not installed(flavour)


def test_installed_without_its_libraries(monkeypatch, no_cache):
    def fail(name):
        raise ImportError("libnvonnxparser.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingBackend, match=r"without the libraries .* \(libnvonnxparser.*pip install tensorrt "):
        load_backend("tensorrt")


def test_auto_takes_what_is_there(monkeypatch, no_cache):
    assert load_backend().flavour == "rtx"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    module._load.cache_clear()
    with pytest.raises(MissingBackend, match="TensorRT for RTX is not installed"):
        load_backend()


def test_unknown_flavour():
    with pytest.raises(SpecError, match="auto, rtx or tensorrt"):
        load_backend("openvino")


def test_capture_is_per_block_and_leaves_out_the_noise(capfd):
    backend = load_backend("rtx")
    severity, log = backend.trt.ILogger, backend.logger.log
    log(severity.ERROR, "outside")
    with backend.logger.capture() as records:
        log(severity.INFO, "first")
        with backend.logger.capture() as inner:
            log(severity.ERROR, "second")
        log(severity.ERROR, "In catchCudaError: cudaError 35")
        log(severity.WARNING, "The logger passed into createInferBuilder differs")
        log(severity.INTERNAL_ERROR, "third")
    assert [record.text for record in records] == ["first", "third"]
    assert inner == [Record("ERROR", "second")]
    assert [record.is_error for record in records] == [False, True]
    assert capfd.readouterr() == ("", "")


def test_captures_of_two_threads_do_not_mix():
    backend = load_backend("rtx")
    entered = threading.Event()

    def other():
        with backend.logger.capture():
            entered.set()

    with backend.logger.capture():
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    thread.join()
