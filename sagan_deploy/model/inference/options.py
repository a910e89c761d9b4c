"""The choices that the inference form leaves open; none of them changes the function, only its cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sagan_deploy.config import check_choices
from sagan_deploy.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["fp32", "fp16", "bf16", "mixed"]

# Below so many channels the additions cost more than the multiplications that they save, and half precision has no
# bits to spare for them. Measured in ONNX Runtime on one core, batch 1 and 4, differences against phases: 128→64 1.2x,
# 1.04x, 256→128 1.5x, 1.3x, 512→256 1.6x, 1.6x, 1024→512 1.6x, 1.6x; Winograd against direct: 64 0.95x, 0.82x,
# 128 1.38x, 1.15x, 256 1.6x, 1.6x, 512 1.7x, 1.8x, 1024 1.65x, 2.0x.
_DIFFERENCES_FROM = 64
_WINOGRAD_FROM = 128
# So few outputs leave most of a vector register empty. 64→3 at 128x128 with the mirrored kernel: 1.8x.
_MIRRORED_TO = 4


@dataclass(frozen=True)
class InferenceOptions:
    """How `to_inference` writes the generator.

    Args:
        precision: type of weights and activations. Softmax, tanh's result and the image head stay float32. ``mixed``
            is fp16 with the parts in `float32`.
        attention: ``fused`` is the layout that TensorRT turns into one kernel; ``decomposed`` has fewer operations
            and suits engines without such a kernel; ``auto`` is fused for half precision and decomposed for fp32.
        upsample_conv: nearest upsampling followed by a 3x3 convolution as ``phases`` (four 2x2 convolutions),
            ``differences`` (nine 1x1 products), ``transposed`` (one 4x4 stride-2 transposed convolution) or
            ``plain``; ``auto`` is differences for wide fp32 layers and phases for all others.
        conv: other 3x3 convolutions as they are (``direct``) or as ``winograd`` products; ``auto`` is winograd for
            wide fp32 layers and the transposed convolution with the mirrored kernel for fp32 ones with few outputs.
        output: ``float`` images (n, c, h, w) in [−1, 1], or ``uint8`` images (n, h, w, c).
        io_precision: type of `z`; float16 saves bytes on the way in.
        float32: for ``mixed``, the parts that stay float32, between casts: ``stem``, ``tail``, ``stages.2``,
            ``stages.2.block``, ``stages.2.attention``, counted from 0.
    """

    precision: Precision = "fp32"
    attention: Literal["auto", "fused", "decomposed"] = "auto"
    # Measured in ONNX Runtime on CPU against plain, at the paper's five shapes: phases 1.6x to 2.0x, transposed 1.5x
    # to 1.95x; phases also win on the small network.
    upsample_conv: Literal["auto", "phases", "differences", "transposed", "plain"] = "auto"
    conv: Literal["auto", "direct", "winograd"] = "auto"
    output: Literal["float", "uint8"] = "float"
    io_precision: Literal["fp32", "fp16"] = "fp32"
    float32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        if (self.precision == "mixed") != bool(self.float32):
            raise ConfigError(
                f"precision {self.precision!r} with float32 parts {self.float32}: mixed needs at least one part, for "
                "example stages.2 or tail, and the other precisions take none"
            )
        wrong = [
            part for part in self.float32 if not re.fullmatch(r"stem|tail|stages\.\d+(\.(block|attention))?", part)
        ]
        if wrong:
            raise ConfigError(f"float32 part {wrong[0]!r} must be stem, tail, stages.N, stages.N.block or .attention")

    def upsample_form(self, kernel: Tensor) -> str:
        """How this 3x3 kernel (out, in, 3, 3) behind nearest upsampling is written, with ``auto`` resolved."""
        if self.upsample_conv != "auto":
            return self.upsample_conv
        wide = self.precision == "fp32" and min(kernel.shape[:2]) >= _DIFFERENCES_FROM
        return "differences" if wide else "phases"

    def conv_form(self, kernel: Tensor) -> Literal["direct", "winograd", "mirrored"]:
        """How a convolution with this kernel (out, in, k, k) is written, with ``auto`` resolved."""
        if kernel.shape[2] != 3 or self.conv == "direct":
            return "direct"
        if self.conv == "winograd":
            return "winograd"
        if self.precision != "fp32":
            return "direct"
        if len(kernel) <= _MIRRORED_TO:
            return "mirrored"
        return "winograd" if min(kernel.shape[:2]) >= _WINOGRAD_FROM else "direct"

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
