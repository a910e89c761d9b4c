"""The machine that this suite is for: one with a GPU. Everywhere else each test is skipped with that reason."""

import pytest

from sagan_deploy.runtime import cuda


@pytest.fixture(scope="session", autouse=True)
def _gpu():
    if not cuda.device_count():
        pytest.skip(f"needs a CUDA device: {cuda.unavailable()}")


@pytest.fixture(scope="session", params=["rtx", "tensorrt"])
def flavour(request, _gpu):
    """Each flavour of TensorRT that is installed and builds for this GPU."""
    from exporters.targets import resolve_targets
    from exporters.tensorrt.backend import installed

    (target, *_) = resolve_targets("local")
    if request.param not in target.flavours:
        pytest.skip(f"{request.param} does not build for {target.name}")
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="session")
def torch_cuda(_gpu):
    """PyTorch with CUDA, which the plain `make test` environment does not have."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("the installed PyTorch has no CUDA")
    return torch
