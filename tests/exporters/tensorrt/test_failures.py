"""Which kind of failure a log describes."""

import pytest

from exporters import errors
from exporters.tensorrt.backend import Record
from exporters.tensorrt.failures import classify

# As TensorRT for RTX 1.7 logged them.
LINES = (
    ("NoGpu", "Cuda Runtime (In generateForCurrent at x.cpp:9: cudaError 35: CUDA driver version is insufficient)"),
    (
        "HardwareDatatype",
        "Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: fp8_e4m3",
    ),
    ("WorkspaceTooSmall", "Error Code 2: OutOfMemory (Requested size was 8650752 bytes.)"),
    ("BuildCancelled", "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by user)"),
    ("AttentionUnsupported", "Attention operation was not supported by a dedicated kernel\nCHECK failed"),
    # Refittable and stripped plans without a driver.
    ("NoGpu", "MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed"),
    ("BuildFailed", "MyelinCheckException: something.cpp:12: CHECK(a == b) failed"),
)


@pytest.mark.parametrize(("kind", "line"), LINES)
def test_kinds(kind, line):
    noise = [Record("WARNING", "OutOfMemory soon"), Record("ERROR", "something went wrong before")]
    found = classify([*noise, Record("ERROR", line)])
    assert type(found) is getattr(errors, kind)
    assert len(str(found).splitlines()) == 1
    assert found.records == ("something went wrong before", line)
    if kind != "BuildFailed":
        assert line.splitlines()[0] in str(found)


def test_a_build_that_says_nothing():
    assert "it gave no reason" in str(classify([Record("INFO", "fine")]))
