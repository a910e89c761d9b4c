"""Every name of TensorRT that the sources use exists in every version whose names were recorded.

The inventories in `tensorrt_api` hold the names of five releases, taken from the modules themselves. Names are all that
they prove: what a call does was only seen with TensorRT for RTX.
"""

import json
from pathlib import Path

import pytest

from tests.exporters.api_scan import MODULE, VARIABLES, Use, check, read, untyped, uses

ROOT = Path(__file__).parents[2]
RECORDED = sorted((Path(__file__).parent / "tensorrt_api").glob("*.json"))
INVENTORIES = {path.stem: json.loads(path.read_text()) for path in RECORDED}
BUILDING = sorted((ROOT / "exporters" / "tensorrt").glob("*.py"))
RUNNING = [ROOT / "sagan_deploy" / "runtime" / name for name in ("tensorrt.py", "session.py", "refit.py")]

# Variables of these names that are no TensorRT objects in one file.
OTHERS = {
    "backend.py": {"module"},
    "builder.py": {"plan"},
    "layers.py": {"layer", "tensor", "first"},
    "failures.py": set(),
    "plan.py": {"plan"},
    "tensorrt.py": {"plan", "_plan"},
    "session.py": {"plan", "config"},
    "refit.py": {"plan"},
}

# Used only where `hasattr` found them, and the releases that have them.
RTX = {"tensorrt_rtx-1.7.1.116"}
GUARDED = {
    (MODULE, "ComputeCapability"): RTX,
    ("IBuilderConfig", "num_compute_capabilities"): RTX,
    ("IBuilderConfig", "set_compute_capability"): RTX,
    (MODULE, "EngineValidity"): RTX,
    (MODULE, "EngineInvalidityDiagnostics"): RTX,
    ("Runtime", "get_engine_validity"): RTX,
    ("Runtime", "engine_header_size"): RTX,
    ("EngineValidity", "INVALID"): RTX,
    ("ICudaEngine", "create_runtime_config"): set(INVENTORIES),  # since 10.13; older ones were not recorded
}


def found_in(paths):
    return {use for path in paths for use in uses(read(path), frozenset(OTHERS.get(path.name, ())))}


def test_five_releases_are_recorded():
    assert list(INVENTORIES) == [
        "tensorrt-10.13.3.9",
        "tensorrt-10.16.1.11",
        "tensorrt-11.0.0.114",
        "tensorrt-11.4.0.106",
        "tensorrt_rtx-1.7.1.116",
    ]


@pytest.mark.parametrize("release", INVENTORIES)
@pytest.mark.parametrize("path", [*BUILDING, *RUNNING], ids=lambda path: path.name)
def test_names_exist(release, path):
    assert check(found_in([path]), INVENTORIES[release], set(GUARDED)) == []


@pytest.mark.parametrize("path", [*BUILDING, *RUNNING], ids=lambda path: path.name)
def test_names_exist_in_the_installed_release(path):
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    inventory = {name: " ".join(dir(getattr(trt, name))) for name in dir(trt)}
    assert check(found_in([path]), inventory, set()) == []


@pytest.mark.parametrize(("owner", "name"), GUARDED)
def test_guarded_names_are_where_they_are_said_to_be(owner, name):
    def has(inventory):
        return name in (inventory if owner == MODULE else inventory.get(owner, "").split())

    assert {release for release, inventory in INVENTORIES.items() if has(inventory)} == GUARDED[owner, name]


def test_the_scan_sees_what_the_sources_do():
    seen = {(use.owner, use.name) for use in found_in([*BUILDING, *RUNNING])}
    assert {
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "profiling_verbosity"),
        ("ProfilingVerbosity", "DETAILED"),
        ("MemoryPoolType", "WORKSPACE"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("OnnxParser", "num_errors"),
        ("ParserError", "node_operator"),
        ("IOptimizationProfile", "set_shape"),
        ("ILayer", "num_outputs"),
        ("DataType", "name"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "num_io_tensors"),
        ("BuilderFlag", "STRIP_PLAN"),
        ("OnnxParserRefitter", "refit_from_bytes"),
        ("Refitter", "refit_cuda_engine"),
        (MODULE, "IProgressMonitor"),
    } <= seen
    assert len(seen) > 45


def test_no_untyped_parameter_escapes_the_scan():
    ours = {"trt", "module", "logger"}
    for path in BUILDING:
        assert untyped(read(path)) <= set(VARIABLES) | ours, path.name


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f(network): return network.get_layer(0).precision", "ILayer.precision"),
        ("def f(trt): return trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("def f(backend): backend.trt.Builder(None).build_engine(1)", "Builder.build_engine"),
        ("def f(config): config.set_memory_limit(1)", "IBuilderConfig.set_memory_limit"),
        ("def f(trt): return hasattr(trt, 'Magic')", "<module>.Magic"),
        ("class A:\n    def f(self): self._context.execute_v9(1)", "IExecutionContext.execute_v9"),
    ],
)
def test_an_invented_name_is_found(source, complaint):
    (problem,) = check(uses(source), INVENTORIES["tensorrt-11.4.0.106"], set(GUARDED))
    assert problem.endswith(complaint)
    assert Use("ILayer", "name", 1) in uses("def f(layer): layer.name")
