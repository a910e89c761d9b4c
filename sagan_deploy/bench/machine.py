"""What this machine can do at most, measured, and what GPUs can, as published."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

import numpy as np

from sagan_deploy.errors import ConfigError

_SIZE = 1024
_COPY_BYTES = 1 << 26


@dataclass(frozen=True)
class Peak:
    """Floating-point operations and bytes per second; a multiplication with its addition counts two."""

    flops: float
    bytes: float


# Dense fp16 tensor-core rate with float32 accumulation, and memory rate, as NVIDIA prints them in the architecture
# papers (Ampere GA102, Ada, RTX Blackwell, A100, H100 SXM) and data sheets (T4, L4).
GPUS: dict[str, Peak] = {
    "t4": Peak(65e12, 320e9),
    "rtx-3090": Peak(71e12, 936e9),
    "a100": Peak(312e12, 1555e9),
    "l4": Peak(121e12, 300e9),
    "rtx-4090": Peak(165.2e12, 1008e9),
    "h100": Peak(989e12, 3350e9),
    "rtx-5090": Peak(209.5e12, 1792e9),
}


def gpu_peak(name: str) -> Peak:
    """The published peaks of a GPU.

    Raises:
        ConfigError: it is not in the table.
    """
    if name not in GPUS:
        raise ConfigError(f"there are no published peaks here for {name!r}; known: {', '.join(GPUS)}")
    return GPUS[name]


def measured_peak(threads: int | None) -> Peak:
    """The best of several large float32 products in ONNX Runtime, and of several copies of a large array.

    Other work on the machine makes it too small; shares of the attainable above 100 % are the sign of that.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper

    shape = [_SIZE, _SIZE]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "aby"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    factors = np.random.default_rng(0).random((2, _SIZE, _SIZE), dtype=np.float32)
    feed = {"a": factors[0], "b": factors[1]}
    source, target = np.ones(_COPY_BYTES, np.uint8), np.empty(_COPY_BYTES, np.uint8)
    product = min(_seconds(lambda: session.run(None, feed)) for _ in range(20))
    copy = min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))
    return Peak(2 * _SIZE**3 / product, 2 * _COPY_BYTES / copy)


def describe(threads: int | None, peak: Peak | None) -> dict[str, str]:
    """The machine in words."""
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(threads or "chosen by each engine"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    if peak is not None:
        found["float32 products"] = f"{peak.flops / 1e9:.0f} GFLOP/s"
        found["copies"] = f"{peak.bytes / 1e9:.1f} GB/s"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _seconds(call: object) -> float:
    start = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - start
