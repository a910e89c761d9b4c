"""Made-up evidence that looks like a real one: errors of every image, ranges, stages, gains, attention."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from sagan_deploy.bundle.kernels import Kernel
from sagan_deploy.parity.evidence import AttentionMap, Gain, ImageTable, RangeAudit, StageError, TensorRange
from sagan_deploy.parity.report import Gate, Leg, ParityReport, Picture, StageFault
from tests.reports.made_up import EXACT, artifact, leg, report

CASES = {"normal": 64, "batch of one": 1, "odd batch": 7, "permuted": 64, "repeated": 4, "truncated 0.5": 8, "±4σ": 2}
PATHS = ("stem", "stages.0.block", "stages.1.block", "stages.1.attention", "stages.2.block", "tail")


def image_table(worst: float = 2.1e-3, *, seed: int = 0, broken: int = 0) -> ImageTable:
    """As many images as the cases have; `broken` of them hold NaN."""
    rng = np.random.default_rng(seed)
    case = tuple(name for name, count in CASES.items() for _ in range(count))
    image = tuple(i for count in CASES.values() for i in range(count))
    count = len(case)
    rel = rng.lognormal(0, 0.3, count)
    rel *= worst / rel.max()
    lost = rng.choice(count, broken, replace=False)
    codes = np.rint(rel / worst * (1 if worst < 0.01 else 19)).astype(float)
    columns = {
        "rel_l2": rel,
        "max_abs": rel * 3.1,
        "cosine": 1 - rel**2 / 2,
        "psnr": -20 * np.log10(rel / 2),
        "ssim": 1 - rel**2 * 20,
        "ulps": rel * 2**11 * 3.1,
        "code_difference": codes,
        "code_share": rel * 4,
        "not_finite": np.zeros(count),
    }
    for name, column in columns.items():
        column[lost] = 5 if name == "not_finite" else np.nan
    spread = {
        d: int(2e5 * np.exp(-abs(d) * (3 if worst < 0.01 else 0.5)))
        for d in range(-int(np.nanmax(codes)), int(np.nanmax(codes)) + 1)
    }
    return ImageTable(
        case,
        image,
        tuple(range(count)),
        {name: tuple(map(float, column)) for name, column in columns.items()},
        {d: n for d, n in spread.items() if n},
    )


def stages(factor: float = 1.0, broken_from: int | None = None) -> tuple[StageError, ...]:
    limits = [1e-3 * np.sqrt(i + 1) for i in range(len(PATHS))]
    return tuple(
        StageError(path, (30 if broken_from is not None and i >= broken_from else 0.4) * factor * limit, limit)
        for i, (path, limit) in enumerate(zip(PATHS, limits, strict=True))
    )


def gains() -> tuple[Gain, ...]:
    after = {"stages.1.attention": 0.0021, "stages.2.block": 0.0252, "tail": 0.0309, "stem": 0.0311}
    return tuple(Gain(path, 0.031, value) for path, value in after.items())


def ranges(largest: float = 6.1e3, *, overflow: bool = False) -> RangeAudit:
    rng = np.random.default_rng(3)
    rows = [
        TensorRange("attention_logits", "stages.1.attention", "MatMul", largest, np.log2(65504 / largest), 0.0, True)
    ]
    for i, path in enumerate(PATHS):
        for op in ("Conv", "Add", "Relu"):
            peak = float(rng.lognormal(2 + i / 4, 0.5))
            rows.append(TensorRange(f"{op}_{i}", path, op, peak, float(np.log2(65504 / peak)), 10.0 ** -(2 + i)))
    if overflow:
        rows.append(
            TensorRange("scores", "stages.1.attention", "MatMul", 1.6e5, float(np.log2(65504 / 1.6e5)), 0.0, True)
        )
    rows.sort(key=lambda row: row.headroom_bits)
    return RangeAudit("fp16", 75, 65504.0, 2.0**-14, tuple(rows))


def maps(count: int = 2) -> tuple[AttentionMap, ...]:
    yy, xx = np.mgrid[:16, :16]
    made = []
    for i in range(count):
        row, column = 4 + 5 * i, 6 + 3 * i
        blob = np.exp(-((yy - row) ** 2 + (xx - column) ** 2) / 14.0) + 0.6 * np.exp(
            -((yy - 12) ** 2 + (xx - 3) ** 2) / 8
        )
        other = np.roll(blob, 5 * (1 - i), axis=1)
        a, b = (np.repeat((255 * m / m.max()).astype(np.uint8)[..., None], 3, axis=2) for m in (blob, other))
        made.append(
            AttentionMap(
                "stages.1.attention", "normal", i, (2 * row, 2 * column), (32, 32), 0.034 if i == 0 else 2e-4, a, b
            )
        )
    return tuple(made)


def robots(count: int, *, broken: bool = False, size: int = 32) -> tuple[Picture, ...]:
    """Images of the quickstart's generator, and what a nearly right or a broken file would make of them."""
    with Image.open(Path(__file__).parents[2] / "samples/quickstart.png") as opened:
        sheet = np.asarray(opened.convert("RGB"))
    rng = np.random.default_rng(1)
    made = []
    for i in range(count):
        reference = sheet[32 * 2 * i : 32 * 2 * i + 32, 32 * i : 32 * i + 32]
        if broken:
            candidate = np.clip(reference.astype(int) + np.roll(reference, 3, 1) // 6 - 20, 0, 255).astype(np.uint8)
        else:
            flips = (rng.random(reference.shape) < 0.03) * rng.choice([-1, 1], reference.shape)
            candidate = np.clip(reference.astype(int) + flips, 0, 255).astype(np.uint8)
        gap = np.abs(candidate.astype(int) - reference.astype(int))
        factor = 2.0 ** max(0, np.floor(np.log2(255 / max(1, gap.max()))))
        difference = np.clip(gap * factor, 0, 255).astype(np.uint8)
        made.append(Picture("normal", 3 * i, reference, candidate, difference, factor))
    return tuple(made)


def _gates(table: ImageTable, *, limit: float, ssim: float, codes: int) -> tuple[Gate, ...]:
    m = table.measures
    at = int(np.nanargmax(m["rel_l2"]))
    where = {"case": table.case[at], "image": table.image[at]}
    return (
        EXACT,
        Gate("hard.range", 0.9999, 1.0000002, "inside [-1, 1], two float32 steps allowed", **where),
        Gate("tensor.rel_l2", m["rel_l2"][at], limit, "3·u·√L, u = 2^-11, L = 42: float32 accumulators", **where),
        Gate(
            "tensor.max_abs",
            m["max_abs"][at],
            2 / 255,
            "1 step(s) of 8-bit codes, 2/255 each",
            case="normal",
            image=0,
            pixel=(1, 11, 17),
        ),
        Gate(
            "image.code_difference", m["code_difference"][at], codes, f"moves an 8-bit code by at most {codes}", **where
        ),
        Gate("image.ssim", m["ssim"][at], ssim, "of the worst image", at_least=True, **where),
        Gate(
            "image.psnr",
            m["psnr"][at],
            20 * np.log10(2 / limit),
            "tensor.rel_l2 in dB at rms 1",
            at_least=True,
            **where,
        ),
        Gate(
            "image.code_share",
            float(np.nanmedian(m["code_share"])),
            0.04,
            "codes close to a boundary, typically",
            **where,
        ),
    )


def good_leg() -> Leg:
    table = image_table()
    return leg(
        "passed", gates=_gates(table, limit=9.5e-3, ssim=0.999, codes=1), images=table, stages=stages(),
        ranges=ranges(), maps=maps()[1:], pictures=robots(4),
        how="true fp16 rounding after every operation, emulated on the CPU", seconds=21.4,
    )  # fmt: skip


def bad_leg() -> Leg:
    table = image_table(0.031, seed=2, broken=2)
    return leg(
        "failed", name="generator.mixed.onnx", path="onnx/generator.mixed.onnx",
        gates=_gates(table, limit=9.5e-3, ssim=0.999, codes=1), images=table, stages=stages(broken_from=3),
        gains=gains(), ranges=ranges(3e4, overflow=True), maps=maps(), pictures=robots(4, broken=True),
        fault=StageFault("stages.1.attention", 0.06, 0.002), seconds=34.9,
        reason="tensor.rel_l2 is 0.031, allowed is at most 0.0095 (3·u·√L, u = 2^-11, L = 42)",
    )  # fmt: skip


KERNELS = (
    Kernel("stem/Gemm", "gemm", ("float16",), ("stem/Gemm",), "product"),
    Kernel("conv", "conv", ("float16",), ("stages.0.block.conv1/Conv", "stages.0.block/Relu"), "product"),
    Kernel(
        "_gemm_mha_v2", "kgen", ("float16",), ("stages.1.attention/MatMul", "stages.1.attention/Softmax"), "attention"
    ),
    Kernel("tail", "conv", ("float16",), ("tail.conv/Conv", "tail/Tanh"), "product"),
)


def plan_leg() -> Leg:
    made = artifact("engines/generator.fp16.plan", "not_run", "this machine has no NVIDIA GPU")
    made = dataclasses.replace(made, plan=dataclasses.replace(made.plan, kernels=KERNELS))
    return leg("not_run", artifact=made)


def full(*legs: Leg, **changes) -> ParityReport:
    """A report with everything that a report can have."""
    exact = Gate("tensor.rel_l2", 4.1e-15, 1e-12, "float64 rounding of exact identities", case="all", image=5)
    algebra = Leg("inference form, fused attention", "PyTorch, float64", "passed", gates=(exact,), seconds=3.1)
    values = {
        "cases": CASES,
        "loosened": {"fp16.image.ssim": "0.99: the head dithers; agreed in review 12"},
        "seed": 7,
        "seconds": 93.2,
        "provenance": (
            {"step": "train", "preset": "sagan32", "steps": 1097, "data": {"name": "robots", "sha256": "cd" * 32}},
            {"step": "export", "precision": "fp16", "opset": 20},
        ),
        "command": "sagan-deploy parity run/generator.safetensors bundle --seed 7 --count 64 --report parity",
    }
    return report(*(legs or (algebra, good_leg(), bad_leg(), plan_leg())), **(values | changes))
