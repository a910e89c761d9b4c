"""The options of `sagan-deploy export`, one by one."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Precision = Annotated[
    Literal["fp32", "fp16", "bf16", "mixed", "int8", "fp8"],
    typer.Option(
        help="Type of weights and arithmetic. mixed: fp16, and float32 for the parts named with --float32 or else "
        "for the fewest that keep the budget; int8, fp8: convolutions."
    ),
]
Form = Annotated[
    Literal["inference", "training"],
    typer.Option(help="inference: the same function with fewer operations; training: the layers as trained."),
]
Attention = Annotated[
    Literal["auto", "fused", "decomposed"],
    typer.Option(help="fused: the layout that TensorRT turns into one kernel; auto: fused for half precision."),
]
UpsampleConv = Annotated[
    Literal["auto", "phases", "differences", "transposed", "plain"],
    typer.Option(help="How upsampling and 3x3 convolution are written; auto: by width and precision."),
]
Conv = Annotated[
    Literal["auto", "direct", "winograd"],
    typer.Option(help="How the other 3x3 convolutions are written; auto: Winograd for wide fp32 layers."),
]
Output = Annotated[Literal["float", "uint8"], typer.Option(help="float: n c h w in [-1, 1]; uint8: n h w c, 0 to 255.")]
IoPrecision = Annotated[Literal["fp32", "fp16"], typer.Option(help="Type of the input z.")]
Float32 = Annotated[
    list[str] | None,
    typer.Option(help="For mixed: a part that stays float32: stem, tail, stages.N[.block|.attention]. Repeatable."),
]
CalibrationLatents = Annotated[int, typer.Option(min=1, help="Images that int8 and fp8 are calibrated on.")]
Tune = Annotated[
    bool,
    typer.Option("--tune", help="Try the fp32 forms on this machine's CPU; keep the fastest that parity passes."),
]
TuneBatch = Annotated[int, typer.Option(min=1, help="Batch size that --tune times.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of ONNX Runtime for --tune.")]
Opset = Annotated[int | None, typer.Option(help="ONNX operator set; by default one that TensorRT 10 reads.")]
