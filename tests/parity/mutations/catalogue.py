"""The table of mutations: what each does, on which network, and which leg must see it by which rule.

It drives the tests and `samples/what-parity-catches.md`. A leg's expectation is the id of a rule that must fail there,
`REFUSED` for a file that does not run at all, or `HIDDEN`: the leg cannot tell the mutation from the roundings that
are allowed to it. Whatever is hidden from one leg must be caught by another, or be no mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from tests.parity.mutations import of_checkpoints as weights
from tests.parity.mutations import of_graphs as graph
from tests.parity.mutations import of_images as io
from tests.parity.mutations.of_checkpoints import Wrong

HIDDEN, REFUSED = "hidden", "does not run"
L2, WORST, CODES, BIAS = "tensor.rel_l2", "tensor.max_abs", "image.code_difference", "image.code_bias"
BATCHES, ROWS = "tensor.between_batches", "tensor.class_rows"
FINITE, RANGE, SHAPE, DTYPE = "hard.finite", "hard.range", "hard.shape", "hard.dtype"
PRECISION, CHECKPOINT = "hard.precision", "hard.checkpoint"


@dataclass(frozen=True)
class Mutation:
    """One mistake. Exactly one of `weights`, `file` and nothing (a right file) says how it is made."""

    name: str
    sees: Mapping[str, str]  # leg → rule, REFUSED or HIDDEN
    network: str = "sagan"
    weights: Wrong | None = None
    file: Callable[[onnx.ModelProto], None] | None = None
    note: str = ""

    @property
    def caught(self) -> bool:
        """Whether any leg is expected to see it."""
        return any(rule != HIDDEN for rule in self.sees.values())


def _folded(
    name: str, wrong: Wrong, fp16: str = L2, *, network: str = "sagan", rule: str = L2, note: str = ""
) -> Mutation:
    """Wrong weights: a mistake in the folding shows at the algebra leg, one in the file at the others."""
    return Mutation(name, {"algebra": L2, "fp32": rule, "fp16": fp16}, network, weights=wrong, note=note)


def _drawn(name: str, file: Callable[[onnx.ModelProto], None], fp16: str = L2, fp32: str = L2, **more: str) -> Mutation:
    """An edited file."""
    network, note = more.pop("network", "sagan"), more.pop("note", "")
    return Mutation(name, {"fp32": fp32, "fp16": fp16, **more}, network, file=file, note=note)


def _labels(file: Callable[[onnx.ModelProto, int], None], classes: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: file(model, classes)


_IN_FP16 = "half precision rounds by more than this moves"

FOLDING = (
    _folded("batch norm's ε 1e-3 for 1e-5", weights.epsilon(1e-3)),
    _folded("batch norm's ε 1e-4 for 1e-5", weights.epsilon(1e-4), HIDDEN, note=_IN_FP16),
    _folded("attention's γ × 0.9", weights.gamma(0.9)),
    _folded("attention's γ × 0.99", weights.gamma(0.99), HIDDEN, note=_IN_FP16),
    _folded("attention dropped (γ = 0)", weights.gamma(0.0)),
    _folded("scores divided by √d, which this network does not", weights.attention_scale("rsqrt")),
    _folded("scores not divided by √d, which this network does", weights.attention_scale("none"), network="everything"),
    _folded("a bias dropped in the first block", weights.dropped_bias),
    _folded("the last bias dropped", weights.dropped_last_bias),
    _folded("a running mean left out", weights.dropped_mean),
    _folded("spectral norm: one σ off by 1 %", weights.sigma_off),
    _folded("spectral norm: every σ off by 0.02 %", weights.all_sigmas_off, HIDDEN, note=_IN_FP16),
    _folded("spectral norm not folded in one layer", weights.sigma_forgotten),
    _folded("stale average: weights that moved by 2 % of their spread", weights.stale(0.02)),
    _folded("stale average: weights that moved by 0.01 %", weights.stale(1e-4), HIDDEN, note=_IN_FP16),
    _folded("two of 3 classes swapped in one norm", weights.table_rows(weights.swap(0, 1))),
    _folded("one of 3 classes × 1.05 in one norm", weights.table_rows(weights.scale(2, 1.05))),
    _folded("two of 5 embeddings swapped", weights.embedding_rows(weights.swap(1, 4)), network="everything"),
)

_UNDRAWN = "no drawn image has them"
CLASSES = (
    *(
        Mutation(
            name, {"fp32": ROWS, "fp16": ROWS}, "thousand", weights=weights.table_rows(change, part), note=_UNDRAWN
        )
        for name, change, part in (
            ("two of 1000 classes swapped in one norm", weights.swap(500, 501), "stages.1.block.norm1"),
            ("two of 1000 classes swapped in the last norm", weights.swap(13, 987), "stages.1.block.norm2"),
            ("one of 1000 classes × 1.05 in one norm", weights.scale(500, 1.05), "stages.0.block.norm1"),
            ("one of 1000 classes × 1.01 in one norm", weights.scale(998, 1.01), "stages.1.block.norm2"),
        )
    ),
    _drawn("labels off by one, 1000 classes", _labels(io.labels_off_by_one, 1000), network="thousand"),
    _drawn("label 999 drawn as 998", _labels(io.label_limited, 1000), network="thousand"),
    _drawn("labels off by one", _labels(io.labels_off_by_one, 3)),
    _drawn("label ignored", _labels(io.label_ignored, 3)),
    _drawn("all of a batch drawn with its first label", _labels(io.one_label_for_all, 3)),
    _drawn("labels off by one, embedding", _labels(io.labels_off_by_one, 5), network="everything"),
)  # fmt: skip

OPERATIONS = (
    _drawn("tanh replaced by clipping", graph.tanh_as_clip),
    _drawn("one ReLU leaks by 0.01", graph.relu_leaks),
    _drawn("leaky ReLU's slope 0.19 for 0.2", graph.other_slope, network="everything"),
    _drawn("max pooling replaced by average pooling", graph.average_pool),
    _drawn("bilinear for nearest upsampling, in one skip", graph.bilinear),
    _drawn("nearest for bilinear upsampling", graph.nearest, network="everything"),
    _drawn("bilinear with aligned corners", graph.aligned_corners, network="everything"),
    _drawn("padding off by one in the last convolution", graph.padding_off_by_one),
    _drawn("softmax over the wrong axis", graph.softmax_axis),
    _drawn("attention without its residual", graph.missing_residual),
    _drawn("queries and keys swapped", graph.keys_as_queries),
    _drawn("two phases of an upsampling convolution swapped", graph.swapped_phases),
    _drawn("3x3 kernels turned by 180°", graph.flipped_kernels),
    _drawn("one weight with the wrong sign", graph.flipped_sign),
    _drawn("one channel zeroed", graph.zeroed_channel),
    _drawn("latents in reverse order", io.latents_reversed),
    _drawn("latents with the wrong sign", io.latent_sign),
    _drawn("latents clipped at ±2.5", io.latents_clipped),
    _drawn("embedding and latent joined in the other order", graph.other_order, network="everything"),
    _drawn("two chunks of the latent swapped", io.swapped_chunks, network="everything"),
)

IMAGES = (
    _drawn("a 4x4 tile zeroed in 1 image of the batch", io.zeroed_tile, WORST),
    _drawn("1 image of the batch shifted by a pixel", io.shifted_image),
    _drawn("1 row of the batch × 0.98", io.bad_row),
    _drawn("1 row of the batch drawn twice", io.row_of_its_neighbour),
    _drawn("1 % of the batch's mean leaks into every image", io.leak(0.01)),
    _drawn("0.4 % of the batch's mean leaks into every image", io.leak(0.004), BATCHES),
    _drawn("the range × 1.001", io.other_range(1.001), RANGE, RANGE),
    _drawn("the range × 0.999", io.other_range(0.999), HIDDEN, note=_IN_FP16),
    _drawn("red and blue swapped", io.swapped_colours, uint8=L2),
    _drawn("(n, h, w, c) read as (n, c, h, w)", io.channels_last),
    _drawn("rows and columns swapped", io.transposed_images, uint8=L2),
    _drawn("(n, h, w, c) given for (n, c, h, w)", io.other_layout, SHAPE, SHAPE),
    _drawn("NaN in one pixel of one image", io.nan_pixel, FINITE, FINITE),
    _drawn("+∞ in one pixel of one image", io.infinite_pixel, FINITE, FINITE),
    _drawn("−∞ in one pixel of one image", io.minus_infinite_pixel, FINITE, FINITE),
    Mutation("8 bits by truncation", {"uint8": BIAS}, file=io.rounding("Floor")),
    Mutation("8 bits by rounding up", {"uint8": BIAS}, file=io.rounding("Ceil")),
)

CONTRACT = (
    _drawn("a free batch that is fixed at 2", io.fixed_batch, REFUSED, REFUSED, uint8=REFUSED),
    _drawn("a batch that is fixed inside, at 2", io.fixed_reshape, REFUSED, REFUSED, uint8=REFUSED),
    _drawn("the output under another name", io.other_name, REFUSED, REFUSED, uint8=REFUSED),
    _drawn("float16 images for float32", io.half_images, DTYPE, DTYPE),
    Mutation("a float16 file that says float32", {"fp16": PRECISION}, file=graph.declared("fp32")),
    Mutation("a float32 file that says float16", {"fp32": REFUSED}, file=graph.declared("fp16")),
    _drawn("a file of another checkpoint", graph.other_checkpoint, CHECKPOINT, CHECKPOINT, uint8=CHECKPOINT),
    Mutation("float32 weights that went through float16", {"fp32": L2}, file=graph.half_weights),
    _drawn("weights that went through bfloat16", graph.bfloat16_weights),
    Mutation("one layer of a float32 file in float16", {"fp32": L2}, file=graph.half_inside),
    Mutation("scores that float16 cannot hold", {"fp32": HIDDEN, "fp16": FINITE}, "loud", note="right in float32"),
)

RIGHT = (
    Mutation("a right file", {"algebra": HIDDEN, "fp32": HIDDEN, "fp16": HIDDEN, "uint8": HIDDEN}),
    Mutation("a right file", {"algebra": HIDDEN, "fp32": HIDDEN, "fp16": HIDDEN}, "everything"),
    Mutation("a right file", {"algebra": HIDDEN, "fp32": HIDDEN, "fp16": HIDDEN}, "thousand"),
    Mutation(
        "softmax of float16 without its float32 casts", {"fp16": HIDDEN}, file=graph.softmax_in_half,
        note="no mistake while the scores fit: the result is rounded once more",
    ),
)  # fmt: skip

GROUPS: dict[str, tuple[Mutation, ...]] = {
    "Wrong weights": FOLDING,
    "Classes and labels": CLASSES,
    "Wrong operations": OPERATIONS,
    "Images": IMAGES,
    "Contract and precision": CONTRACT,
    "What must pass": RIGHT,
}
CATALOGUE = tuple(mutation for group in GROUPS.values() for mutation in group)
