"""The weights of a stripped plan: taken from the ONNX model that it was built from, when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sagan_deploy.bundle.manifest import PlanInfo
from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes, sha256_bytes

Source = Callable[[], bytes]


def nowhere() -> bytes:
    """The source of who has no ONNX model."""
    raise InputError("nobody said where the ONNX model that it was built from lies.")


def source_beside(path: Path, plan: PlanInfo | None) -> Source:
    """Reads the ONNX model of a plan from the files beside it, whatever its name."""

    def read() -> bytes:
        for candidate in sorted(path.parent.glob("*.onnx")):
            if plan is not None and sha256_bytes(payload := read_bytes(candidate)) == plan.onnx_sha256:
                return payload
        wanted = "" if plan is None else f" (SHA-256 {plan.onnx_sha256[:16]}…)"
        raise InputError(f"the ONNX model that it was built from{wanted} does not lie in {path.parent}.")

    return read


def put_weights(trt: Any, logger: Any, engine: Any, name: str, source: Source, rebuild: str) -> None:
    """Give a stripped engine the weights of its ONNX model.

    Args:
        trt: the TensorRT module.
        logger: its logger.
        engine: an ``ICudaEngine`` without weights.
        name: the plan, for messages.
        source: reads the ONNX model.
        rebuild: the command that makes a plan.

    Raises:
        InputError: the model is missing or not the one of the plan, or TensorRT refuses.
    """
    stripped = f"{name} was built without its weights (--strip)"
    try:
        onnx = source()
    except InputError as error:
        raise InputError(f"{stripped}, and {error} Put it there, or build the plan without --strip.") from error
    with logger.records() as records:
        refitter = trt.Refitter(engine, logger)
        filler = trt.OnnxParserRefitter(refitter, logger)
        step = "refit_from_bytes"
        done = filler.refit_from_bytes(onnx)
        if done:
            step = "refit_cuda_engine"
            done = not refitter.get_missing_weights() and refitter.refit_cuda_engine()
    if not done:
        said = "; ".join(" ".join(record.split())[:200] for record in records[:3]) or "it gave no reason"
        raise InputError(f"{stripped}, and TensorRT does not take those of its ONNX model ({step}): {said}. {rebuild}")
