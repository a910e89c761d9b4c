"""Recomputes the numbers of a report from what it saves; knows nothing of this project. Usage: recompute.py FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np

folder = Path(sys.argv[1])
report, arrays = json.loads((folder / "report.json").read_text()), np.load(folder / "arrays.npz")
ROUNDOFF = {"single.onnx": 2.0**-24, "half.onnx": 2.0**-11}


def code(x):
    return np.rint(np.clip(x, -1, 1) * 127.5 + 127.5)


def ssim(a, b):
    """Wang et al. 2004, equation (13), with a two-dimensional window, on one image."""
    grid = np.arange(11) - 5
    window = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * 1.5**2))
    window = window / window.sum()

    def mean(x):
        return np.einsum("chwij,ij->chw", np.lib.stride_tricks.sliding_window_view(x, (11, 11), (1, 2)), window)

    c1, c2, ma, mb = 0.02**2, 0.06**2, mean(a), mean(b)
    va, vb, vab = mean((a - 0) ** 2) - ma**2, mean(b**2) - mb**2, mean(a * b) - ma * mb
    return ((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


for i, leg in enumerate(report["legs"]):
    if f"images.{i}" not in arrays:
        continue
    a, r = arrays[f"images.{i}"].astype(float), arrays["reference"][leg["images"]["row"]]
    steps, every = code(a) - code(r), (1, 2, 3)
    found = {
        "rel_l2": np.sqrt(((a - r) ** 2).sum(every) / (r**2).sum(every)),
        "max_abs": abs(a - r).max(every),
        "cosine": (a * r).sum(every) / np.sqrt((a**2).sum(every) * (r**2).sum(every)),
        "psnr": 10 * np.log10(4 / ((a - r) ** 2).mean(every)),
        "ssim": np.array([ssim(x, y) for x, y in zip(a, r, strict=True)]),
        "ulps": abs(a - r).max(every) / (2 * ROUNDOFF[leg["name"]]),
        "code_difference": abs(steps).max(every),
        "code_share": (steps != 0).mean(every),
        "not_finite": (~np.isfinite(a)).sum(every),
    }
    assert set(found) == set(leg["images"]["measures"])
    for name, values in found.items():
        saved = np.array(leg["images"]["measures"][name], float)
        np.testing.assert_allclose(saved, values, rtol=1e-9, atol=1e-12, err_msg=name)
    counts = zip(*np.unique(steps.astype(int), return_counts=True), strict=True)
    assert {str(step): int(count) for step, count in counts} == leg["images"]["code_histogram"]
    typical, bias = sorted(found["code_share"])[::-1], sorted(abs(steps.mean(every)))[::-1]
    gates = {
        "tensor.rel_l2": found["rel_l2"].max(),
        "tensor.max_abs": found["max_abs"].max(),
        "image.code_difference": found["code_difference"].max(),
        "image.code_share": typical[len(typical) // 2],
        "image.code_bias": bias[len(bias) // 2],
        "image.psnr": found["psnr"].min(),
        "image.ssim": found["ssim"].min(),
    }
    for gate in leg["gates"]:
        if gate["rule"] in gates:
            np.testing.assert_allclose(float(gate["value"]), gates.pop(gate["rule"]), rtol=1e-9, atol=1e-12)
            kept = gate["value"] >= gate["limit"] if gate["at_least"] else gate["value"] <= gate["limit"]
            assert kept == gate["passed"]
    assert not gates
    print(leg["name"], len(a))
