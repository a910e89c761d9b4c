"""The rules by which parity judges, by the ids that reports, JUnit files and policies use. Ids never change meaning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One rule: what it measures and over what it is judged. `adjustable` ones can be changed in a policy file."""

    id: str
    measures: str
    judged: str
    adjustable: bool = True


RULES = (
    Rule("hard.checkpoint", "the file names this checkpoint, by hash", "file", adjustable=False),
    Rule("hard.precision", "the weights are stored in the precision that the file declares", "file", adjustable=False),
    Rule("hard.shape", "every batch has the declared shape", "every batch", adjustable=False),
    Rule("hard.dtype", "images have the declared type", "every batch", adjustable=False),
    Rule("hard.finite", "no NaN and no infinity", "every image", adjustable=False),
    Rule("hard.range", "values inside [-1, 1]", "every image", adjustable=False),
    Rule("tensor.rel_l2", "relative L2 distance to the float64 image", "worst image"),
    Rule("tensor.max_abs", "largest difference of a pixel, images in [-1, 1]", "worst image"),
    Rule("tensor.between_batches", "relative L2 distance of one row drawn in two places", "worst pair of images"),
    Rule("tensor.class_rows", "a class's own numbers against those of the checkpoint", "worst class, drawn or not"),
    Rule("image.code_difference", "largest difference of an 8-bit code", "worst image"),
    Rule("image.code_share", "share of 8-bit codes that differ", "median image"),
    Rule("image.code_bias", "mean signed difference of 8-bit codes", "median image"),
    Rule("image.psnr", "peak signal to noise ratio in dB, range 2", "worst image"),
    Rule("image.ssim", "structural similarity, 11-pixel Gaussian window", "worst image"),
    Rule(
        "distribution.frechet",
        "Fréchet distance to PyTorch's images of the same latents",
        "all images (--distribution)",
    ),
    Rule(
        "distribution.kernel", "change of the kernel distance to images of other latents", "all images (--distribution)"
    ),
    Rule("leg.run", "the file could be opened and run at all (JUnit only)", "file", adjustable=False),
)
_BY_ID = {rule.id: rule for rule in RULES}


def meaning(rule_id: str) -> str:
    """What a rule measures, in words; empty for an id that is not known."""
    rule = _BY_ID.get(rule_id)
    return "" if rule is None else f"{rule.measures}; {rule.judged}"
