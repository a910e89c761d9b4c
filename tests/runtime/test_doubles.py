"""The doubles have no name that the real TensorRT modules lack, in any version that the inventories know."""

import json
from pathlib import Path

import pytest

from tests.runtime.doubles import Cuda, World
from tests.tiny_models import CONFIG, plan_artifact, plan_bytes

INVENTORIES = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text())
CHECKED = ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "TensorIOMode", "DataType")
GUARDED = {"create_runtime_config"}  # used behind hasattr: since 10.13


@pytest.mark.parametrize("version", INVENTORIES)
def test_every_name_exists(version):
    inventory = INVENTORIES[version]
    flavour = "rtx" if version.startswith("tensorrt_rtx") else "tensorrt"
    trt = World(Cuda(), plan_artifact(plan_bytes()), CONFIG, flavour).trt
    for name in CHECKED:
        public = {key for key in dir(getattr(trt, name)) if not key.startswith("_")}
        assert public - GUARDED <= set(inventory[name]), name
    assert ("EngineValidity" in inventory) == hasattr(trt, "EngineValidity") == (flavour == "rtx")
    if flavour == "rtx":
        bits = {bit.name for bit in trt.EngineInvalidityDiagnostics}
        assert bits | {"name", "value"} == set(inventory["EngineInvalidityDiagnostics"])


def test_the_installed_module_has_them_too():
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    trt = World(Cuda(), plan_artifact(plan_bytes()), CONFIG).trt
    for name in CHECKED:
        public = {key for key in dir(getattr(trt, name)) if not key.startswith("_")}
        assert public <= set(dir(getattr(real, name))), name
