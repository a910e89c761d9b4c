"""The bench: rows for everything that runs, reasons for what does not, ratios that mean something."""

import dataclasses
import re
import time

import numpy as np
import pytest

from sagan_deploy.bench import BenchOptions, BenchReport, Prediction, Row, bench, compare, read_report
from sagan_deploy.bench import measure as module
from sagan_deploy.bench.contenders import Contender, contenders_of
from sagan_deploy.bench.machine import GPUS, Peak
from sagan_deploy.bench.memory import peak_bytes
from sagan_deploy.bench.report import report_json
from sagan_deploy.checkpoints.native import save_checkpoint
from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.progress import silent
from sagan_deploy.reports.html import bench_page
from sagan_deploy.runtime import cuda, ort
from tests.generators import CONFIGS, TINY, tiny_checkpoint
from tests.tiny_models import CONFIG, tiny_onnx

QUICK = BenchOptions(batches=(1, 3), duration=0.05, warmup=0.0, threads=1)


def test_a_checkpoint_brings_pytorch_the_plain_export_and_the_inference_form(tmp_path):
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    report = bench([path], QUICK)
    names = [row.name for row in report.rows if row.batch == 1]
    for word in (
        "(PyTorch eager)",
        "channels last",
        "plain export, onnxruntime-cpu",
        "inference form, onnxruntime-cpu",
    ):
        assert any(word in name for name in names), word
    assert report.baseline == names[0]
    for row in report.rows:
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.images_per_second == pytest.approx(row.batch / row.p50_ms * 1e3)
    assert [row.speedup for row in report.rows if row.name == report.baseline] == [1.0, 1.0]


def test_on_a_gpu_half_precision_takes_part_and_the_cpus_engines_do_not(tmp_path):
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    _, found = contenders_of(path, tmp_path / "x", compiled=True, progress=silent, device="cuda:1")
    assert [contender.kind for contender in found[:5]] == ["eager", "channels-last", "half", "compile", "compile-half"]
    assert [(contender.kind, contender.form) for contender in found[5:]] == [
        ("runtime", "plain export"),
        ("runtime", "inference form"),
        ("runtime", "inference form, fp16"),
    ]
    assert {contender.device for contender in found} == {"cuda:1"}
    assert found[-1].file.stat().st_size < 0.7 * found[-2].file.stat().st_size


def test_what_cannot_run_on_a_device_is_named_and_nothing_else_runs_instead(tmp_path):
    if cuda.device_count():
        pytest.skip("there is a GPU here")
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    with pytest.raises(MissingError, match=r"\(half\): this PyTorch cannot .*\(plain export\): .* no CUDA provider"):
        bench([path], dataclasses.replace(QUICK, device="cuda"))
    with pytest.raises(ConfigError, match="must be cpu, cuda or cuda:N"):
        bench([path], dataclasses.replace(QUICK, device="gpu"))
    with pytest.raises(ConfigError, match="memory"):
        bench([path], dataclasses.replace(QUICK, device="cuda", memory=True))


def test_the_processors_peak_judges_no_gpu(tmp_path, monkeypatch):
    path = tmp_path / "g.onnx"
    path.write_bytes(tiny_onnx())
    monkeypatch.setattr(module, "measured_peak", lambda threads: Peak(1e11, 1e10))
    assert bench([path], QUICK).rows[0].attainable > 0
    monkeypatch.setattr(ort.OnnxRuntimeBackend, "__init__", _with_name_of_cuda(ort.OnnxRuntimeBackend.__init__))
    row = bench([path], QUICK).rows[0]
    assert "onnxruntime-cuda" in row.name
    assert (row.attainable, row.gflops) == (None, None)


def _with_name_of_cuda(original):
    def init(self, *arguments):
        original(self, *arguments)
        self.name = "onnxruntime-cuda"

    return init


def test_ratios_and_latencies_are_those_of_the_contenders(monkeypatch):
    def sleeping(milliseconds):
        return lambda z, labels: time.sleep(milliseconds / 1e3)

    rows = module.measure({"slow": sleeping(20), "fast": sleeping(5)}, TINY, 2, BenchOptions(duration=0.2, warmup=0))
    slow, fast = rows
    assert 2 * slow.calls < fast.calls  # their turns are equally long
    assert 20 <= slow.p50_ms < 60
    assert 5 <= fast.p50_ms < 15
    assert fast.speedup == pytest.approx(slow.p50_ms / fast.p50_ms, rel=0.2)
    assert slow.cpu_ms < 5  # sleeping takes no processor time


def test_generators_with_other_inputs_are_not_compared(tmp_path):
    first = tmp_path / "a.onnx"
    first.write_bytes(tiny_onnx())
    second = save_checkpoint(tmp_path / "b.safetensors", tiny_checkpoint(CONFIGS["unconditional"]))
    with pytest.raises(InputError, match="different inputs"):
        bench([first, second], QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"percentiles": (101,)},
        {"batches": ()},
        {"batches": (0,)},
        {"duration": 0},
        {"duration": np.inf},
        {"warmup": -1},
    ],
)
def test_absurd_options_are_refused(options):
    with pytest.raises(ConfigError):
        BenchOptions(**options)


def report_of(p50, **machine):
    rows = tuple(Row(name, 1, 9, p50, p50, p50, p50, 1e3 / p50, 1.0, percentiles_ms={"95": p50}) for name in ("a", "b"))
    return BenchReport(rows, {}, {"processor": "x", "threads": "1"} | machine, "a")


@pytest.mark.parametrize(("threads", "rests"), [(1, 0), (2, 6), (None, 6)])
def test_before_every_turn_the_threads_of_the_others_come_to_rest(threads, rests, monkeypatch):
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    options = BenchOptions(duration=1e-6, warmup=0, iterations=3, threads=threads)
    rows = module.measure({name: lambda z, labels: None for name in "ab"}, TINY, 1, options)
    assert [row.calls for row in rows] == [3, 3]
    assert len([seconds for seconds in slept if seconds >= 0.1]) == rests


def test_at_least_so_many_rounds_and_the_spread_of_the_ratio():
    turns = iter([0.02, 0.04, 0.02, 0.02, 0.04, 0.02])

    def uneven(z, labels):
        time.sleep(next(turns))

    options = BenchOptions(duration=1e-6, warmup=0, iterations=5, percentiles=(0, 95), threads=1)
    other, row = module.measure(
        {"fast": lambda z, labels: time.sleep(0.01), "uneven": uneven}, TINY, 1, options, "uneven"
    )
    assert row.calls == 5
    assert (row.speedup, row.speedup_low, row.speedup_high) == (1, 1, 1)
    assert 1.5 < other.speedup_low < 2.1 < 2.5 < other.speedup_high < 4.1
    assert row.percentiles_ms["0"] < row.p50_ms < row.percentiles_ms["95"]


def test_saved_reports_come_back_and_a_regression_is_named(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(report_json(report_of(10.0)))
    old = read_report(path)
    assert old == report_of(10.0)
    assert compare(report_of(10.4), old, 0.05) == []
    (first, _) = compare(report_of(10.6), old, 0.05)
    assert first == "a, batch 1: 10.600 ms, +6.0% against 10.000 ms"
    with pytest.raises(InputError, match="another machine .processor x then and y now"):
        compare(report_of(10.0, processor="y"), old, 0.05)
    with pytest.raises(InputError, match="no row in common"):
        compare(BenchReport((), {}, old.machine, "a"), old, 0.05)
    path.write_text("{}")
    with pytest.raises(InputError, match="no report"):
        read_report(path)


def test_a_file_is_weighed_counted_and_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measured_peak", lambda threads: Peak(flops=1e6, bytes=1e12))
    path = tmp_path / "g.onnx"
    path.write_bytes(tiny_onnx())
    options = dataclasses.replace(QUICK, batches=(2,), memory=True, targets=("l4",), baseline="onnxruntime")
    report = bench([path], options)
    row = next(row for row in report.rows if "onnxruntime" in row.name)
    assert report.baseline == row.name
    assert row.file_mb == pytest.approx(path.stat().st_size / 1e6)
    assert 20 < row.peak_mb < 2000
    multiplications = 2 * 8 * 192  # two rows of z by (8, 192)
    assert row.gflops == pytest.approx(2 * multiplications / row.p50_ms / 1e6)
    assert row.attainable == pytest.approx(2 * multiplications / 1e6 / (row.p50_ms / 1e3))
    prediction = next(each for each in report.predictions if each.name == row.name)
    weights = 8 * 192 + 3 * 192 + 4
    moved = 2 * weights + 2 * (8 * 4 + 8) + 2 * 192 * 4
    assert prediction.lower_bound_ms == pytest.approx(moved / GPUS["l4"].bytes * 1e3)
    assert prediction.limit == "memory"
    with pytest.raises(ConfigError, match="baseline"):
        bench([path], dataclasses.replace(QUICK, baseline="nobody"))
    with pytest.raises(ConfigError, match="no published peaks here for 'rtx-1'"):
        bench([path], dataclasses.replace(QUICK, targets=("rtx-1",)))


def test_peak_memory_is_that_of_the_process_and_not_of_its_parent(tmp_path):
    path = tmp_path / "g.onnx"
    path.write_bytes(tiny_onnx())
    contender = Contender("g", "runtime", path)
    small = peak_bytes(contender, CONFIG, 1, 1)
    ballast = np.ones(600_000_000, np.uint8)  # of this process, which starts the other one
    assert peak_bytes(contender, CONFIG, 1, 1) < small + 100_000_000
    assert ballast[-1] == 1
    assert peak_bytes(dataclasses.replace(contender, file=tmp_path / "none.onnx"), CONFIG, 1, 1) is None


def test_the_page_shows_every_row_with_a_bar_and_escapes_names():
    rows = tuple(
        Row(name, batch, 9, p50, p50, p50, p50, 1e3 * batch / p50, 8.0 / p50, gflops=12.5, attainable=0.5)
        for batch in (1, 4)
        for name, p50 in (("<plain>", 8.0), ("ours", 4.0))
    )
    bound = Prediction("ours", "rtx-4090", 1, 0.25, "memory")
    page = bench_page(BenchReport(rows, {"lost.onnx": "no GPU"}, {"processor": "x"}, "<plain>", (bound,)))
    assert page.count("&lt;plain&gt;") == 3
    assert "<plain>" not in page
    assert re.findall(r'<span style="width:([0-9.]+)%">', page) == ["50.0", "100.0"] * 2
    assert page.count("2.00× ") == 2
    assert "at least 0.250 ms, bound by memory" in page
    assert "<dt>lost.onnx</dt><dd>no GPU</dd>" in page
