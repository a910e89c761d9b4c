"""The choices that the inference form leaves open; none of them changes the function, only its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sagan_deploy.config import check_choices

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class InferenceOptions:
    """How `to_inference` writes the generator.

    Args:
        precision: type of weights and activations. Softmax, tanh's result and the image head stay float32.
        attention: ``fused`` is the layout that TensorRT turns into one kernel; ``decomposed`` has fewer operations
            and suits engines without such a kernel; ``auto`` is fused for half precision and decomposed for fp32.
        upsample_conv: nearest upsampling followed by a 3x3 convolution as ``phases`` (four 2x2 convolutions),
            ``transposed`` (one 4x4 stride-2 transposed convolution) or ``plain``.
        output: ``float`` images (n, c, h, w) in [−1, 1], or ``uint8`` images (n, h, w, c).
        io_precision: type of `z`; float16 saves bytes on the way in.
    """

    precision: Precision = "fp32"
    attention: Literal["auto", "fused", "decomposed"] = "auto"
    # Measured in ONNX Runtime on CPU against plain, at the paper's five shapes: phases 1.6x to 2.0x, transposed 1.5x
    # to 1.95x; phases also win on the small network.
    upsample_conv: Literal["phases", "transposed", "plain"] = "phases"
    output: Literal["float", "uint8"] = "float"
    io_precision: Literal["fp32", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def deconv(self) -> Literal["phases", "transposed"]:
        """How DCGAN's own transposed convolutions are written.

        As they are, except in bfloat16, for which TensorRT 1.7 for RTX has no such kernel. In ONNX Runtime on a CPU
        both take the same time (measured: 16.8 against 17.7 ms at batch 4).
        """
        return "phases" if self.precision == "bf16" else "transposed"

    @property
    def attention_layout(self) -> Literal["fused", "decomposed"]:
        """The layout that is written, with ``auto`` resolved."""
        if self.attention == "auto":
            return "decomposed" if self.precision == "fp32" else "fused"
        return self.attention
