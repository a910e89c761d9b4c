"""The doubles have no name that the real TensorRT modules lack, in any version that the inventories know."""

import inspect
import json
from pathlib import Path

import pytest

from sagan_deploy.runtime import cuda
from tests.exporters.api_scan import VARIABLES, check, uses
from tests.runtime.doubles import Cuda, World
from tests.tiny_models import CONFIG, plan_artifact, plan_bytes

INVENTORIES = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text())
CHECKED = (
    *("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "ILogger", "TensorIOMode", "DataType"),
    *("Refitter", "OnnxParserRefitter"),
)
RTX_ONLY = ("IRuntimeCache", "CudaGraphStrategy")
RUNTIME = Path(cuda.__file__).parent
GUARDED = {"create_runtime_config"}  # used behind hasattr: since 10.13


@pytest.mark.parametrize("version", INVENTORIES)
def test_every_name_exists(version):
    inventory = INVENTORIES[version]
    flavour = "rtx" if version.startswith("tensorrt_rtx") else "tensorrt"
    trt = World(Cuda(), plan_artifact(plan_bytes()), CONFIG, flavour).trt
    for name in CHECKED:
        public = {key for key in dir(getattr(trt, name)) if not key.startswith("_")}
        assert public - GUARDED <= set(inventory[name]), name
    for name in RTX_ONLY:
        assert hasattr(trt, name) == (flavour == "rtx") == (name in inventory)
        public = {key for key in dir(getattr(trt, name, None)) if not key.startswith("_")}
        assert public <= set(inventory.get(name, ())), name
    assert ("EngineValidity" in inventory) == hasattr(trt, "EngineValidity") == (flavour == "rtx")
    if flavour == "rtx":
        bits = {bit.name for bit in trt.EngineInvalidityDiagnostics}
        assert bits | {"name", "value"} == set(inventory["EngineInvalidityDiagnostics"])


def test_the_installed_module_has_them_too():
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    trt = World(Cuda(), plan_artifact(plan_bytes()), CONFIG).trt
    for name in (*CHECKED, *RTX_ONLY):
        public = {key for key in dir(getattr(trt, name)) if not key.startswith("_")}
        assert public <= set(dir(getattr(real, name))), name


@pytest.mark.parametrize("kind", ["DeviceBuffer", "PinnedBuffer", "Stream", "Graph"])
def test_the_double_of_cuda_promises_no_method_that_the_module_lacks(kind):
    double, real = getattr(Cuda(), kind), getattr(cuda, kind)
    for name, method in vars(double).items() | vars(double.__mro__[1]).items():
        if not name.startswith("_") and callable(method):
            assert list(inspect.signature(method).parameters) == list(
                inspect.signature(getattr(real, name)).parameters
            ), name


def test_the_double_of_cuda_has_the_functions_of_the_module():
    for name in (
        "unavailable",
        "device_count",
        "compute_capability",
        "device_name",
        "use_device",
        "order",
        "device_of",
    ):
        method = getattr(Cuda(), name)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(getattr(cuda, name)).parameters)


# Used only for plans of TensorRT for RTX, or behind hasattr.
GUARDED_USES = {
    *(("IRuntimeConfig", name) for name in ("cuda_graph_strategy", "create_runtime_cache", "set_runtime_cache")),
    *(("<module>", name) for name in ("CudaGraphStrategy", "EngineValidity", "EngineInvalidityDiagnostics")),
    *(("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"), ("EngineValidity", "INVALID")),
    *(("Runtime", "get_engine_validity"), ("Runtime", "engine_header_size"), ("IRuntimeCache", "deserialize")),
    ("ICudaEngine", "create_runtime_config"),
}


@pytest.mark.parametrize("version", INVENTORIES)
@pytest.mark.parametrize("file", ["contexts.py", "validity.py"])
def test_the_sources_use_no_name_that_tensorrt_lacks(version, file, monkeypatch):
    monkeypatch.setitem(VARIABLES, "runtime_config", "IRuntimeConfig")
    monkeypatch.setitem(VARIABLES, "runtime_cache", "IRuntimeCache")
    recorded = Path(__file__).parents[1] / "exporters" / "tensorrt_api" / f"{version}.json"
    inventory = json.loads(recorded.read_text())
    found = uses((RUNTIME / file).read_text(), frozenset({"cache"}))
    assert len(found) >= 4
    assert check(found, inventory, set() if version.startswith("tensorrt_rtx") else GUARDED_USES) == []
