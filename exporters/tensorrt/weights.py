"""Plans whose weights can be replaced after loading, or that are stored without them."""

from __future__ import annotations

from typing import Any

from exporters.errors import NoGpu
from exporters.gpu import local_gpus
from exporters.specs import Weights
from exporters.tensorrt.backend import Backend


def check(backend: Backend, weights: Weights) -> None:
    """Refuse what the builder would refuse late and in internal terms.

    TensorRT for RTX 1.7 builds a plan with fixed weights on any machine; for the others it calls the driver.

    Raises:
        NoGpu: other than fixed weights from TensorRT for RTX, and there is no GPU here.
    """
    if weights == "fixed":
        return
    gpus, reason = local_gpus()
    if not gpus:
        raise NoGpu(
            f"{backend.product} builds a plan with {weights} weights only where there is an NVIDIA driver and GPU, "
            f"and {reason}. Leave --refit and --strip out, or run the build on a machine with a GPU."
        )


def apply(trt: Any, config: Any, weights: Weights) -> None:
    """Set the flags of a build.

    A stripped plan is bound to the weights that it was built from (``REFIT_IDENTICAL``), so that the builder may use
    their values, as it does for fixed ones.
    """
    if weights == "refittable":
        config.set_flag(trt.BuilderFlag.REFIT)
    elif weights == "stripped":
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
