"""Importing the runtime brings nothing heavy, seen in a fresh process."""

import subprocess
import sys

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "exporters",
    "safetensors",
    "PIL",
    "rich",
    "typer",
)


def fresh(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return result.stdout.strip()


def test_nothing_heavy_is_imported():
    code = f"import sys, sagan_deploy.runtime; print([m for m in {HEAVY} if m in sys.modules])"
    assert fresh(code) == "[]"


def test_running_onnx_on_the_cpu_needs_no_torch_and_no_onnx(tmp_path):
    from tests.tiny_models import make_bundle, plan_bytes

    make_bundle(tmp_path / "bundle", plan=plan_bytes())
    code = f"""
import sys
from sagan_deploy.runtime import load
with load({str(tmp_path / "bundle")!r}) as generator:
    assert generator.sample(2).shape == (2, 3, 8, 8)
print([m for m in ("torch", "onnx", "exporters", "safetensors", "tensorrt_rtx", "jinja2") if m in sys.modules])
"""
    assert fresh(code) == "[]"
