"""What TensorRT for RTX says of a plan before it loads it, in words."""

from __future__ import annotations

from typing import Any

from sagan_deploy.errors import InputError

# name of the bit: what it means, and what helps where building again does not
_DIAGNOSTICS = {
    "VERSION_MISMATCH": ("another version of TensorRT built it", ""),
    "UNSUPPORTED_CC": ("it was built for other GPUs", ""),
    "OLD_CUDA_DRIVER": ("the NVIDIA driver is too old", "Update the NVIDIA driver."),
    "OLD_CUDA_RUNTIME": ("the CUDA runtime is too old", "Install the TensorRT package for the CUDA version in use."),
    "INSUFFICIENT_GPU_MEMORY": (
        "the GPU has too little memory",
        "Free GPU memory, or build with a smaller --max-batch.",
    ),
    "MALFORMED_ENGINE": ("the file is damaged", ""),
    "CUDA_ERROR": ("CUDA reported an error", "See whether nvidia-smi works."),
}


def check_validity(trt: Any, runtime: Any, payload: bytes, name: str, rebuild: str) -> None:
    """Ask TensorRT for RTX whether a plan can run here; it reads the header only. A slower match is good enough.

    Args:
        trt: the module ``tensorrt_rtx``.
        runtime: its ``Runtime``.
        payload: the plan.
        name: the file, for the message.
        rebuild: the command that makes a plan that fits.

    Raises:
        InputError: it cannot; the message has every reason, and what helps against each.
    """
    validity, diagnostics = runtime.get_engine_validity(payload[: runtime.engine_header_size])
    if validity != trt.EngineValidity.INVALID:
        return
    bits = trt.EngineInvalidityDiagnostics
    found, left = [], int(diagnostics)
    for bit, words in _DIAGNOSTICS.items():
        number = int(getattr(bits, bit, 0))
        if left & number:
            found.append(words)
            left &= ~number
    if left:
        found.append((f"there is a reason without a name here (bits {left:#x})", ""))
    # INVALID without a reason is what it answers where there is no driver.
    reasons = " and ".join(reason for reason, _ in found) or "no GPU answered"
    advice = " ".join(help_ for _, help_ in found if help_)
    if advice and all(help_ for _, help_ in found):
        rebuild = ""  # no plan would fit until that is done
    sentences = (f"TensorRT for RTX finds {name} invalid here: {reasons}.", advice, rebuild)
    raise InputError(" ".join(filter(None, sentences)))
