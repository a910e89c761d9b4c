"""What ONNX Runtime draws with CUDA, held against the training form in float64 on the CPU."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sagan_deploy.bench import BenchOptions, bench
from sagan_deploy.checkpoints.native import save_checkpoint
from sagan_deploy.errors import MissingError
from sagan_deploy.export import export_generator
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.compare import judge
from sagan_deploy.runtime import load
from sagan_deploy.verify import default_limits, image_errors
from tests.generators import CONFIGS, TINY, tiny_checkpoint
from tests.gpu.plans import float64_images

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _with_cuda(_gpu):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA")


def onnx_of(checkpoint, folder, **options):
    path = folder / "generator.onnx"
    path.write_bytes(export_generator(checkpoint, InferenceOptions(**options)).payload)
    return path


def check(path, checkpoint, config, precision, count=8):
    with load(path, backend="onnxruntime", device="cuda") as generator:
        assert generator.backend_name == "onnxruntime-cuda"
        z, labels = generator.sample_inputs(count, seed=3)
        images = generator(z, labels)
    rel_l2, max_abs = image_errors(images, float64_images(checkpoint, z, labels))
    limits = default_limits(config, precision)
    assert rel_l2.max() <= limits.rel_l2
    return max_abs.max(), limits.max_abs


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_an_onnx_file_against_float64(tmp_path, name, precision):
    checkpoint = tiny_checkpoint(CONFIGS[name])
    found, limit = check(onnx_of(checkpoint, tmp_path, precision=precision), checkpoint, CONFIGS[name], precision)
    if not (name.startswith("biggan") and precision != "fp32"):  # so steep that single pixels miss on the CPU as well
        assert found <= limit


@pytest.mark.parametrize("attention", ["fused", "decomposed"])
def test_both_forms_of_attention(tmp_path, attention):
    checkpoint = tiny_checkpoint()
    found, limit = check(onnx_of(checkpoint, tmp_path, precision="fp16", attention=attention), checkpoint, TINY, "fp16")
    assert found <= limit


def test_eight_bit_images(tmp_path):
    checkpoint = tiny_checkpoint()
    with load(onnx_of(checkpoint, tmp_path, output="uint8"), backend="onnxruntime", device="cuda") as generator:
        z, labels = generator.sample_inputs(8)
        images = generator(z, labels)
    assert images.dtype == np.uint8
    assert np.abs(images - (float64_images(checkpoint, z, labels).transpose(0, 2, 3, 1) * 127.5 + 127.5)).max() <= 1


def test_the_gpu_is_found_by_a_process_that_imported_nothing_else(tmp_path):
    """CUDA's libraries come with PyTorch or from packages of their own; nobody else may have loaded them before."""
    path = onnx_of(tiny_checkpoint(), tmp_path)
    code = (
        "import sys; from sagan_deploy.runtime import load; "
        f"g = load({str(path)!r}, device='cuda'); print(g.backend_name, g.sample(2).shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "onnxruntime-cuda (2, 3, 16, 16) False\n", done.stderr


def test_bfloat16_is_refused_with_what_to_do_instead(tmp_path):
    with pytest.raises(MissingError, match="no CUDA kernel of Resize .* export fp16 or fp32 for it"):
        load(onnx_of(tiny_checkpoint(), tmp_path, precision="bf16"), backend="onnxruntime", device="cuda")


def test_parity_on_the_gpu(tmp_path):
    checkpoint, files = tiny_checkpoint(), []
    for precision in ("fp32", "fp16", "bf16"):
        path = tmp_path / f"{precision}.onnx"
        path.write_bytes(export_generator(checkpoint, InferenceOptions(precision)).payload)
        files.append(path)
    report = judge(checkpoint, files, device="cuda")
    legs = {leg.name: leg for leg in report.legs}
    assert [legs[path.name].how for path in files] == ["ONNX Runtime on cuda:0"] * 3
    assert [legs[path.name].status for path in files] == ["passed", "passed", "not_run"]
    # The GPU itself has drawn them: its sums are not those of the CPU.
    there = judge(checkpoint, files[:1]).legs[-1]
    assert legs["fp32.onnx"].images.measures["rel_l2"] != there.images.measures["rel_l2"]


def test_parity_sees_another_generator_on_the_gpu(tmp_path):
    files = [onnx_of(tiny_checkpoint(seed=1), tmp_path, precision="fp16")]
    other = tiny_checkpoint(seed=0)
    assert judge(other, files, device="cuda").legs[-1].status == "failed"


def test_every_engine_is_timed_on_the_gpu(tmp_path, torch_cuda):
    save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    report = bench([tmp_path / "g.safetensors"], BenchOptions(duration=0.2, warmup=0.0, device="cuda"))
    assert len(report.rows) == 2 * 6
    assert sum("onnxruntime-cuda" in row.name for row in report.rows) == 2 * 3
    assert report.not_run == {}
    assert report.machine["gpu"]
    timed = {row.name for row in report.rows if row.gpu_ms is not None}
    assert timed == {row.name for row in report.rows if "PyTorch" in row.name}
    assert all(0 < row.gpu_ms < row.p50_ms for row in report.rows if row.name in timed)
