"""A plan that TensorRT for RTX really built: its header, its checks, and what the real library says without a GPU."""

import numpy as np
import pytest

from sagan_deploy.errors import InputError
from sagan_deploy.runtime import cuda, load
from sagan_deploy.runtime import tensorrt as tensorrt_backend
from sagan_deploy.runtime.plan import Machine, preflight, read_header
from sagan_deploy.runtime.tensorrt import open_plan
from tests.runtime.doubles import Cuda
from tests.tiny_models import CONFIG, expected_images, make_bundle, manifest_of, plan_artifact, profile, tiny_onnx

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
PROFILE = profile(1, 2, 4)


def build(*capabilities: str) -> bytes:
    from sagan_deploy.runtime.tensorrt import recording_logger

    logger = recording_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(tiny_onnx(precision="fp16")), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        assert config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    bounds = builder.create_optimization_profile()
    for name, shapes in PROFILE.items():
        bounds.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
    assert config.add_optimization_profile(bounds) == 0
    return bytes(builder.build_serialized_network(network, config))


@pytest.fixture(scope="module")
def plan() -> bytes:
    return build("SM89")


def described(payload: bytes):
    artifact = plan_artifact(payload, tensorrt_version=trt.__version__, profiles=(PROFILE,))
    return manifest_of([artifact]), artifact


def test_its_header_names_the_installed_version(plan):
    header = read_header(plan, "m.plan")
    assert header.flavour == "rtx"
    assert header.version_text == trt.__version__


def test_it_passes_on_a_machine_that_it_fits(plan):
    manifest, artifact = described(plan)
    preflight(plan, "m.plan", manifest, artifact, Machine(lambda _: trt.__version__, lambda: (8, 9)))


def test_the_real_library_refuses_in_our_words_where_there_is_no_gpu(plan):
    if cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    manifest, artifact = described(plan)
    double = Cuda()  # claims a GPU, so that the real TensorRT is reached
    with pytest.raises(InputError, match=r"invalid here: no GPU answered\. Build one that fits: sagan-deploy build"):
        open_plan(plan, "m.plan", manifest, artifact, cuda=double)
    assert double.live == 0


def test_the_real_library_calls_a_damaged_header_damaged(plan):
    broken = plan[:28] + bytes(36) + plan[64:]  # what NVIDIA's tools read stays, the rest of the header goes
    manifest, artifact = described(broken)
    with pytest.raises(InputError, match="invalid here"):
        open_plan(broken, "m.plan", manifest, artifact, cuda=Cuda())


@pytest.mark.parametrize(
    ("damaged", "said"),
    [(lambda plan: plan[:-100], "header.size == blobSize"), (lambda plan: b"vtrt" * 100, "kEXPECTED_MAGIC_TAG|header")],
    ids=["truncated", "garbage"],
)
def test_what_the_real_library_says_of_a_damaged_plan_is_one_line_with_the_way_out(plan, damaged, said, monkeypatch):
    """Behind the checks of size and hash, and behind the validity that no machine without a GPU grants."""
    monkeypatch.setattr(tensorrt_backend, "check_validity", lambda *_: None)
    with pytest.raises(InputError, match=f"cannot load m.plan: .*({said}).*Build it again") as caught:
        tensorrt_backend._deserialize(trt, damaged(plan), "m.plan", "Build it again")
    assert len(str(caught.value).splitlines()) == 1


def test_what_the_real_library_says_without_a_driver_is_one_line(plan, monkeypatch):
    if cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setattr(tensorrt_backend, "check_validity", lambda *_: None)
    with pytest.raises(InputError, match="cannot load m.plan: .*cudaError 35") as caught:
        tensorrt_backend._deserialize(trt, plan, "m.plan", "Build it again")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.gpu
def test_a_plan_for_this_gpu_draws_what_the_equation_says(tmp_path):
    if not cuda.device_count():
        pytest.skip("needs a CUDA device")
    major, minor = cuda.compute_capability(0)
    payload = build("CURRENT")
    facts = {"targets": (f"sm_{major}{minor}",), "compute_capabilities": ((major, minor),)}
    folder = make_bundle(
        tmp_path / "b", plan=payload, tensorrt_version=trt.__version__, profiles=(PROFILE,), precision="fp16", **facts
    )
    with load(folder, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(9)
        np.testing.assert_allclose(generator(z, labels), expected_images(CONFIG, z, labels), atol=2 / 255)
