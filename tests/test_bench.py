"""The bench: rows for everything that runs, reasons for what does not, ratios that mean something."""

import time

import numpy as np
import pytest

from sagan_deploy import bench as module
from sagan_deploy.bench import BenchOptions, bench
from sagan_deploy.checkpoints.native import save_checkpoint
from sagan_deploy.errors import ConfigError, InputError
from tests.generators import CONFIGS, TINY, tiny_checkpoint
from tests.tiny_models import tiny_onnx

QUICK = BenchOptions(batches=(1, 3), duration=0.05, warmup=0.0, threads=1)


def test_a_checkpoint_brings_pytorch_the_plain_export_and_the_inference_form(tmp_path):
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    report = bench([path], QUICK)
    names = [row.name for row in report.rows if row.batch == 1]
    assert [any(word in name for name in names) for word in ("PyTorch eager", "plain export", "inference form")] == [
        True
    ] * 3
    assert report.baseline == names[0]
    for row in report.rows:
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.images_per_second == pytest.approx(row.batch / row.p50_ms * 1e3)
    assert [row.speedup for row in report.rows if row.name == report.baseline] == [1.0, 1.0]


def test_ratios_and_latencies_are_those_of_the_contenders(monkeypatch):
    def sleeping(milliseconds):
        return lambda z, labels: time.sleep(milliseconds / 1e3)

    rows = module._measure({"slow": sleeping(20), "fast": sleeping(5)}, TINY, 2, BenchOptions(duration=0.2, warmup=0))
    slow, fast = rows
    assert slow.calls == fast.calls  # they take turns
    assert 20 <= slow.p50_ms < 60
    assert 5 <= fast.p50_ms < 15
    assert fast.speedup == pytest.approx(slow.p50_ms / fast.p50_ms)
    assert slow.cpu_ms < 5  # sleeping takes no processor time


def test_generators_with_other_inputs_are_not_compared(tmp_path):
    first = tmp_path / "a.onnx"
    first.write_bytes(tiny_onnx())
    second = save_checkpoint(tmp_path / "b.safetensors", tiny_checkpoint(CONFIGS["unconditional"]))
    with pytest.raises(InputError, match="different inputs"):
        bench([first, second], QUICK)


@pytest.mark.parametrize(
    "options", [{"batches": ()}, {"batches": (0,)}, {"duration": 0}, {"duration": np.inf}, {"warmup": -1}]
)
def test_absurd_options_are_refused(options):
    with pytest.raises(ConfigError):
        BenchOptions(**options)
