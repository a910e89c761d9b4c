"""Made-up results that look like real ones, and strings that try to break out of every format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from sagan_deploy.bundle.manifest import Artifact, Limits, Manifest, PlanInfo, TensorInfo, Verdict
from sagan_deploy.parity.report import Gate, Leg, ParityReport, Picture, StageFault
from sagan_deploy.training.quality.report import ClassQuality, QualityReport
from sagan_deploy.verify import Replay, VerifyResult
from tests.tiny_models import CONFIG, SIZE

HOSTILE = "<script>alert('1')</script> & \"2\" | `x`, 50%\r\n::error::y\x00"
NAMES = ("blue", "green", "red")

EXACT = Gate("hard.finite", 0.0, 0.0, "no NaN and no infinity")
CLOSE = Gate(
    "tensor.rel_l2", 2.1e-3, 9.5e-3, "3·u·√L with u = 2⁻¹¹ and L = 42 rounding layers", case="batch 5", image=3
)
SSIM = Gate("image.ssim", 0.9995, 0.99, "of the worst image", at_least=True, case="truncated", image=7)
WRONG = Gate("image.codes", 19.0, 1.0, "one 8-bit code: 100 % of pixels", case="batch 1", image=0, pixel=(2, 11, 30))
NAN = Gate("tensor.max_abs", float("nan"), 7.8e-3, "2/255, one 8-bit code", case="batch 5", image=4)


def pictures(size: int = 32, count: int = 3) -> tuple[Picture, ...]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        reference = np.kron(rng.integers(40, 255, (4, 4, 3)), np.ones((size // 4, size // 4, 1))).astype(np.uint8)
        noise = rng.integers(0, 3, (size, size, 3)).astype(np.uint8)
        difference = (noise * 60).astype(np.uint8)
        made.append(Picture("batch 5", i, reference, np.minimum(reference, 253) + noise, difference, 128.0))
    return tuple(made)


def leg(status: str = "passed", **changes) -> Leg:
    known = {
        "passed": Leg("generator.fp16.onnx", "ONNX Runtime, CPU", "passed", gates=(EXACT, CLOSE, SSIM)),
        "failed": Leg("generator.fp32.onnx", "ONNX Runtime, CPU", "failed", gates=(EXACT, WRONG, NAN)),
        "not_run": Leg("generator.fp16.plan", "TensorRT-RTX", "not_run", "this machine has no NVIDIA GPU"),
    }[status]
    extra: dict[str, object] = {
        "path": f"onnx/{known.name}",
        "sha256": "5e" * 32,
        "seconds": 1.25,
        "pictures": pictures(),
    }
    if status == "not_run":
        extra = {"path": f"engines/{known.name}"}
    if status == "failed":
        extra["fault"] = StageFault("stages.1.attention", 0.031, 0.0042)
    return dataclasses.replace(known, **(extra | changes))


def report(*legs: Leg, **changes) -> ParityReport:
    values = {
        "reference": "the checkpoint's training form in PyTorch, float64",
        "checkpoint_sha256": "ab" * 32,
        "legs": legs or (leg("passed"), leg("not_run")),
        "cases": {"batch 1": 1, "batch 5": 5, "truncated": 16},
        "loosened": {},
        "environment": {"torch": "2.13.0", "onnxruntime": "1.22.0", "system": "Linux x86_64, 2 cores"},
        "seed": 0,
        "seconds": 12.5,
    }
    return ParityReport(**(values | changes))


def mixed() -> ParityReport:
    """One of every verdict, and a limit that somebody changed."""
    return report(
        leg("passed"), leg("failed"), leg("not_run"), loosened={"image.ssim": "the head dithers; agreed in review 12"}
    )


def hostile() -> ParityReport:
    gate = Gate(HOSTILE, 2.0, 1.0, HOSTILE, case=HOSTILE, image=1)
    bad = Leg(HOSTILE, HOSTILE, "failed", HOSTILE, HOSTILE, HOSTILE, (gate,), StageFault(HOSTILE, 2.0, 1.0))
    lost = Leg(HOSTILE, HOSTILE, "not_run", HOSTILE)
    strings = {HOSTILE: HOSTILE}
    return report(bad, lost, reference=HOSTILE, cases={HOSTILE: 1}, loosened=strings, environment=strings)


def artifact(path: str, status: str = "passed", reason: str = "", precision: str = "fp16") -> Artifact:
    z, labels = (
        TensorInfo("z", "float32", ("n", CONFIG.z_dim), "latents"),
        TensorInfo("labels", "int64", ("n",), "class"),
    )
    images = TensorInfo("images", "float32", ("n", 3, SIZE, SIZE), "images")
    plan = None
    if path.endswith(".plan"):
        shapes = {"z": (8,), "labels": ()}
        profile = {k: {m: (n, *v) for m, n in (("min", 1), ("opt", 8), ("max", 64))} for k, v in shapes.items()}
        sizes = {"activation_bytes": 1 << 20, "weight_bytes": 1 << 20, "fused_attention": 1, "layer_count": 40}
        targets = {"targets": ("sm_89", "sm_120"), "compute_capabilities": ((8, 9), (12, 0)), "profiles": (profile,)}
        rest = {"layer_digest": "x", "onnx_sha256": "0" * 64, "build_os": "linux", "build_arch": "x86_64"}
        plan = PlanInfo(flavour="rtx", tensorrt_version="1.7.1", **targets, **sizes, **rest)
    return Artifact(
        path,
        "onnx" if plan is None else "plan",
        "5e" * 32,
        3_456_789,
        precision,
        "inference",
        "fused",
        "float",
        (z, labels),
        (images,),
        plan,
        Verdict(status, reason),
    )


def manifest() -> Manifest:
    return Manifest(
        toolkit_version="0.1.0",
        generator=CONFIG,
        class_names=NAMES,
        checkpoint_sha256="ab" * 32,
        provenance=(),
        artifacts=(
            artifact("onnx/generator.fp32.onnx", precision="fp32"),
            artifact("onnx/generator.fp16.onnx"),
            artifact("engines/generator.fp16.plan", "not_run", "this machine has no NVIDIA GPU"),
        ),
        golden=None,
        tools={"torch": "2.13.0", "onnxruntime": "1.22.0"},
    )


def quality(label_share: float = 0.964) -> QualityReport:
    classes = tuple(ClassQuality(name, 0.95, {"body": (8.1, 9.7)}, 0.91) for name in NAMES)
    accuracy, kinds = {"label": 0.998, "body": 0.981}, {"body": (8.1, 9.7)}
    return QualityReport(600, label_share, accuracy, 3.21, 0.45, kinds, 0.93, 0.81, classes)


def quickstart_context(**changes) -> dict[str, object]:
    from sagan_deploy.images import encode_png

    rng = np.random.default_rng(1)
    picture = np.kron(rng.integers(0, 255, (3 * 4, 10 * 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    limits = Limits(9.5e-3, 7.8e-3)
    replays = (
        Replay("onnx/generator.fp16.onnx", "onnxruntime-cpu", "fp16", "passed", "", 2e-3, 3e-3, 1, limits, 0.2),
        Replay("engines/generator.fp16.plan", "tensorrt", "fp16", "not_run", "this machine has no NVIDIA GPU"),
    )
    deployment = SimpleNamespace(skipped={"second plan": "the builder is not installed"})
    made = SimpleNamespace(
        folder=Path("quickstart"),
        training=SimpleNamespace(steps=1240, seconds=180.2, images_per_second=220.4),
        quality=quality(),
        deployment=deployment,
        verified=VerifyResult("bundle", 7, 8, (), replays),
        seconds={"read images": 4.2, "train": 180.2, "export fp32": 3.1, "parity": 21.0},
    )
    context = {
        "made": made,
        "manifest": manifest(),
        "parity": report(),
        "data": SimpleData(),
        "class_names": NAMES,
        "samples": encode_png(picture),
        "real": encode_png(picture[::-1].copy()),
    }
    return context | changes


class SimpleData:
    """As much of a data set as the page shows."""

    name = "robots"
    attribution = "Robots: artwork by Zikri Kader, CC BY 4.0"

    def __len__(self) -> int:
        return 4000
