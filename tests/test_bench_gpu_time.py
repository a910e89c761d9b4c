"""The time of the GPU in `bench`: whose it is, where it is shown, and that nobody invents one."""

import contextlib
import io
import types

import numpy as np
import pytest
import torch

from sagan_deploy.bench import BenchOptions, BenchReport, bench
from sagan_deploy.bench import measure as module
from sagan_deploy.bench.contenders import batch_of
from sagan_deploy.bench.pytorch import PyTorchRun
from sagan_deploy.bench.report import Row, read_report, report_json
from sagan_deploy.checkpoints.native import save_checkpoint
from sagan_deploy.reports.console import bench_table
from sagan_deploy.reports.html import bench_page
from tests.generators import TINY, tiny_checkpoint

QUICK = BenchOptions(batches=(1,), duration=0.01, warmup=0.0, threads=1)


class Timed:
    """A contender whose GPU takes other times than the call does."""

    def __init__(self, *milliseconds):
        self.milliseconds, self.given = iter(milliseconds), []

    def __call__(self, z, labels):
        return None

    def gpu_milliseconds(self, z, labels):
        self.given.append((z, labels))
        return next(self.milliseconds)


def test_the_median_over_the_rounds_of_who_tells_it():
    options = BenchOptions(duration=1e-9, warmup=0, iterations=3, threads=1)
    timed = Timed(7.0, 90.0, 5.0)
    rows = module.measure({"gpu": timed, "cpu": lambda z, labels: None, "none": Timed(*[None] * 3)}, TINY, 2, options)
    assert [row.gpu_ms for row in rows] == [7.0, None, None]
    assert len(timed.given) == 3
    assert timed.given[0][0].shape == (2, TINY.z_dim)


def test_on_the_cpu_there_is_none(tmp_path):
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    report = bench([path], QUICK)
    assert len(report.rows) > 3
    assert {row.gpu_ms for row in report.rows} == {None}
    assert "GPU" not in bench_page(report)
    assert "GPU ms" not in printed(report)


def printed(report):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(bench_table(report))
    return console.export_text()


@pytest.fixture
def report():
    facts = {"batch": 1, "calls": 9, "p50_ms": 8.0, "p90_ms": 8.0, "p99_ms": 8.0, "cpu_ms": 8.0}
    facts |= {"images_per_second": 125.0, "speedup": 1.0}
    return BenchReport((Row("plan", gpu_ms=3.456, **facts), Row("onnx", **facts)), {}, {"gpu": "x"}, "plan")


def test_it_is_in_the_table_the_page_and_the_file(report, tmp_path):
    lines = printed(report).splitlines()
    column = [cell.strip() for cell in lines[2].strip("┃").split("┃")].index("GPU ms")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[column] for row in cells] == ["3.46", ""]
    assert '<td role="cell" data-label="GPU" class="number">3.46 ms</td>' in bench_page(report)
    path = tmp_path / "r.json"
    path.write_text(report_json(report))
    assert [row.gpu_ms for row in read_report(path).rows] == [3.456, None]


def test_pytorch_puts_its_events_around_the_network_alone(monkeypatch):
    diary = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            diary.append("record")

        def synchronize(self):
            diary.append("wait")

        def elapsed_time(self, end):
            assert diary[-1] == "wait"
            return 2.5

    def network(z, labels):
        assert torch.is_inference_mode_enabled()
        diary.append(("network", z.dtype, tuple(z.shape), tuple(labels.shape)))
        return z

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda place: contextlib.nullcontext())
    run = PyTorchRun(network, torch.device("cpu"), torch.float16)
    given = batch_of(TINY, 3, 0)
    assert run.gpu_milliseconds(*given) is None
    assert diary == []
    inputs = run._given(*given)
    monkeypatch.setattr(run, "_place", types.SimpleNamespace(type="cuda"))
    monkeypatch.setattr(run, "_given", lambda z, labels: diary.append("copies") or inputs)
    assert run.gpu_milliseconds(*given) == 2.5
    called = ("network", torch.float16, (3, TINY.z_dim), (3,))
    assert diary == ["copies", "record", called, "record", "wait"]


def test_pytorch_gives_arrays_of_the_host():
    run = PyTorchRun(lambda z: z * 2, torch.device("cpu"), torch.float16)
    images = run(np.ones((2, 3), np.float32), None)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images, np.full((2, 3), 2))
