"""Stripped plans get the weights of the ONNX model that they were built from, or are refused in one line."""

import numpy as np
import pytest

from sagan_deploy.errors import InputError
from sagan_deploy.files import sha256_bytes
from sagan_deploy.runtime import RuntimeGenerator
from sagan_deploy.runtime.refit import nowhere, source_beside
from sagan_deploy.runtime.tensorrt import open_plan
from tests.runtime.doubles import Cuda, World
from tests.tiny_models import CONFIG, expected_images, manifest_of, plan_artifact, plan_bytes

ONNX = b"an ONNX model"
Z, LABELS = np.ones((2, 8), np.float32), np.array([0, 2])


@pytest.fixture
def folder(tmp_path):
    """Two ONNX models beside a plan: the second is the one that it was built from."""
    (tmp_path / "a.onnx").write_bytes(b"another model")
    (tmp_path / "b.onnx").write_bytes(ONNX)
    return tmp_path


def opened(folder, *, weights="stripped", source=True, **changes):
    cuda, payload = Cuda(), plan_bytes(b"ftrt", (10, 13, 3, 9))
    artifact = plan_artifact(
        payload, flavour="tensorrt", tensorrt_version="10.13.3.9", weights=weights, onnx_sha256=sha256_bytes(ONNX)
    )
    world = World(cuda, artifact, CONFIG, "tensorrt", **changes)
    manifest = manifest_of([artifact])
    onnx = source_beside(folder / "m.plan", artifact.plan) if source else nowhere

    def open_():
        backend, contract = open_plan(payload, "m.plan", manifest, artifact, trt=world.trt, cuda=cuda, onnx=onnx)
        return RuntimeGenerator(contract, backend, artifact="m.plan")

    return open_, world, cuda


def test_the_weights_of_its_own_model_are_put_in_before_anything_runs(folder):
    open_, world, cuda = opened(folder)
    with open_() as generator:
        np.testing.assert_allclose(generator(Z, LABELS), expected_images(CONFIG, Z, LABELS), atol=1e-6)
    names = [call[0] for call in world.calls]
    steps = ["deserialize_cuda_engine", "Refitter", "refit_from_bytes", "get_missing_weights", "refit_cuda_engine"]
    assert names[: len(steps)] == steps
    assert "create_execution_context" in names[len(steps) :]
    assert world.named("refit_from_bytes") == [(ONNX,)]
    assert cuda.live == 0


@pytest.mark.parametrize("weights", ["fixed", "refittable"])
def test_plans_with_weights_are_left_alone(folder, weights):
    open_, world, _ = opened(folder, weights=weights)
    open_().close()
    assert not world.named("Refitter")


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (
            "refit_from_bytes",
            r"\(refit_from_bytes\): weights of another shape\. Build one that fits: sagan-deploy",
        ),
        ("get_missing_weights", r"\(refit_cuda_engine\): it gave no reason"),
        ("refit_cuda_engine", r"\(refit_cuda_engine\): it gave no reason"),
    ],
)
def test_what_tensorrt_refuses_is_named_and_no_context_is_made(folder, refused, words):
    open_, world, cuda = opened(folder, refuse=(refused,))
    with pytest.raises(InputError, match=words) as caught:
        open_()
    assert len(str(caught.value).splitlines()) == 1
    assert world.calls[-1][0] == refused
    assert cuda.live == 0


def test_without_its_model_it_is_refused_with_the_way_out(folder):
    (folder / "b.onnx").unlink()
    open_, world, _ = opened(folder)
    with pytest.raises(InputError, match=r"m\.plan was built without its weights .*does not lie in .*without --strip"):
        open_()
    assert not world.named("Refitter")
    open_, _, _ = opened(folder, source=False)
    with pytest.raises(InputError, match="nobody said where"):
        open_()
