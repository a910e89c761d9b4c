"""Two gloo processes under torchrun against one process with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from sagan_deploy.errors import ConfigError, MissingError
from sagan_deploy.training import world as world_module
from sagan_deploy.training.world import World, joined_world, of_this_life, released
from tests.training.in_world import PRESET, STEPS, TECHNIQUES, squares, steps_in, tensors_of, train

ROOT = Path(__file__).parents[2]


def torchrun(task, out, *options, timeout=250):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "tests.training.in_world", task, str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    out = tmp_path_factory.mktemp("pair")
    torchrun("equal", out)
    return out


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {dtype: tensors_of(steps_in(dtype, World())) for dtype in (torch.float32, torch.float64)}


def _distance(a, b):
    """The largest difference of any parameter, statistic, average, vector or moment.

    But for a bias in front of a batch norm, which takes it out again: its true gradient is zero, Adam makes steps of
    full size of what rounding leaves of it, and only the mean that is subtracted follows.
    """
    assert set(a) == set(b)
    idle = ("block.conv1.bias", "norm2.statistics.running_mean")
    names = [name for name in a if not any(part in name for part in idle)]
    assert len(names) > 0.9 * len(a)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in names)


def test_in_float64_two_processes_are_one(pair, alone):
    together = load_file(pair / "torch.float64.safetensors")
    assert _distance(together, alone[torch.float64]) < 1e-12


def test_so_they_are_with_techniques_that_look_at_single_images(pair):
    together = load_file(pair / "techniques.safetensors")
    assert _distance(together, tensors_of(steps_in(torch.float64, World(), TECHNIQUES))) < 1e-10


@pytest.mark.exhaustive
def test_so_they_are_when_compiled(alone, tmp_path):
    torchrun("compiled", tmp_path, timeout=500)
    assert _distance(load_file(tmp_path / "compiled.safetensors"), alone[torch.float64]) < 1e-9


def test_in_float32_two_processes_are_one_within_its_rounding(pair, alone):
    """After 20 steps they are no farther from the run of one process than that one is from exact arithmetic."""
    together = load_file(pair / "torch.float32.safetensors")
    rounding = _distance(alone[torch.float32], alone[torch.float64])
    assert 0 < rounding < 1e-4
    assert _distance(together, alone[torch.float32]) < 4 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_processes_have_the_same_weights_average_vectors_and_moments(pair, dtype):
    first, second = ((pair / f"{dtype}_{rank}.digest").read_text() for rank in (0, 1))
    assert first == second


def test_one_process_writes_for_both_and_either_number_can_go_on(pair, tmp_path):
    results = [json.loads((pair / f"result_{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0] == results[1]
    assert results[0][1] == STEPS
    names = sorted(path.name for path in (pair / "whole").iterdir())
    assert names == ["generator.safetensors", "log.csv", "log.jsonl", "samples", "training.safetensors"]
    one = train(PRESET, squares(), tmp_path / "one")
    assert one.discriminator_loss == pytest.approx(results[0][0], rel=1e-2)
    resumed = train(PRESET, squares(), pair / "whole", resume=True)
    assert resumed.steps == STEPS


def test_a_killed_process_is_started_again_and_the_run_ends_bit_for_bit_the_same(pair, tmp_path):
    torchrun("dies", tmp_path, "--max-restarts", "1", "--monitor-interval", "0.2")
    assert min(int((tmp_path / f"lives_{rank}").read_text()) for rank in (0, 1)) >= 1
    killed, whole = (load_file(place / "training.safetensors") for place in (tmp_path / "killed", pair / "whole"))
    assert set(killed) == set(whole)
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def test_processes_of_one_life_meet_however_late_and_whatever_their_predecessors_left():
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=5))
    for _ in range(3):
        late = 0.3 if store.num_keys() else 0.0  # the first finds only the word of the dead second
        with ThreadPoolExecutor(2) as pool:
            early = pool.submit(of_this_life, store, 0, 2)
            time.sleep(late)
            met = [early, pool.submit(of_this_life, store, 1, 2)]
        first, second = (meeting.result(timeout=5) for meeting in met)
        assert not first.check(["address"])
        first.set("address", "here")
        assert second.get("address") == b"here"


def test_a_process_that_nobody_meets_says_so():
    store = dist.HashStore()
    store.set("word/1", "dead")
    store.set_timeout(timedelta(seconds=0.2))
    with pytest.raises(MissingError, match=r"process 0 of 2 met no others within 0:00:00\.2"):
        of_this_life(store, 0, 2)


def test_an_error_of_one_process_ends_them_all(tmp_path):
    torchrun("refusals", tmp_path)
    first, second = (json.loads((tmp_path / f"said_{rank}.json").read_text()) for rank in (0, 1))
    assert "batch_size (=9) must be a multiple of the number of processes (=2)" in first[0]
    assert first[0] == second[0]
    assert "exists already" in first[1]
    assert "no run to resume" in first[2]
    assert second[1:] == ["InputError: the first process stopped; its message says why"] * 2


def test_tensors_are_waited_for_until_no_thread_holds_them_any_more():
    shared = torch.ones(3, requires_grad=True)
    held = [shared * shared]  # its graph holds the tensor as gloo's work does, outside of Python
    assert shared._use_count() > 1
    begun = time.monotonic()
    released(shared, patience=0.2)
    assert 0.2 <= time.monotonic() - begun < 1
    threading.Timer(0.3, held.clear).start()
    released(torch.ones(1), shared, patience=60)
    assert shared._use_count() == 1
    assert 0.5 <= time.monotonic() - begun < 10


@pytest.mark.parametrize("call", ["any", "bytes_from_first", "mean"])
def test_every_exchange_waits_for_its_tensors(monkeypatch, call):
    handed, waited = [], []
    for name in ("all_gather", "all_reduce", "broadcast"):
        monkeypatch.setattr(world_module.dist, name, lambda first, *rest: handed.extend(_tensors(first, *rest)))
    monkeypatch.setattr(world_module, "released", lambda *tensors: waited.extend(tensors))
    {
        "any": lambda world: world.any(True),
        "bytes_from_first": lambda world: world.bytes_from_first(b"some"),
        "mean": lambda world: world.mean([torch.ones(())]),
    }[call](World(0, 2))
    assert handed
    assert {id(tensor) for tensor in handed} == {id(tensor) for tensor in waited}


def _tensors(*arguments):
    flat = [one for argument in arguments for one in (argument if isinstance(argument, list) else [argument])]
    return [one for one in flat if isinstance(one, torch.Tensor)]


def test_one_process_needs_no_network(monkeypatch):
    with joined_world() as world:
        assert world == World()
    assert (world.rows(8), world.any(False), world.from_first(None)) == (slice(0, 8), False, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(ConfigError, match=r"--device \(=cuda:1\) must be cpu or cuda with 2 processes"),
        joined_world("cuda:1"),
    ):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="process 0 of this machine has no GPU"), joined_world("cuda"):
            pass


def test_rows_that_do_not_divide():
    assert World(rank=1, size=2).rows(8) == slice(4, 8)
    with pytest.raises(ConfigError, match="must be a multiple of the number of processes"):
        World(rank=1, size=2).rows(7)
