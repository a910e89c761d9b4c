"""Runs that are killed for real, run out of disk, or go back to an older state."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sagan_deploy.checkpoints.native import checkpoint_of, load_checkpoint, save_checkpoint
from sagan_deploy.errors import CheckFailed, ConfigError, InputError
from sagan_deploy.training import folder as folder_module
from sagan_deploy.training.log import LogRow
from sagan_deploy.training.run import saved_run, train
from sagan_deploy.training.watch import Watchdog

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from tests.training.in_world import PRESET, squares, train
from tests.training.test_killed import longer
import torch
torch.set_num_threads(1)
out, resume = sys.argv[1], sys.argv[2] == "resume"
train(longer(PRESET), squares(), out, resume=resume, progress=lambda *step: print(step[1], flush=True))
"""
STEPS = 60


def longer(preset):
    """Checkpoints and pictures so often that many kills hit a write."""
    config = dataclasses.replace(preset.train, steps=STEPS, checkpoint_every=2, sample_every=3, log_every=1, keep=3)
    return dataclasses.replace(preset, train=config)


def _killed(out, resume, after):
    """Kill -9 so many seconds after the first step of a session; the number of steps that it had told."""
    code, told = _signalled(out, resume, after, signal.SIGKILL)
    assert code in (-signal.SIGKILL, 0)
    return told


def _signalled(out, resume, after, number):
    """Send a signal so many seconds after the first step of a session; its exit code and the steps that it told."""
    command = [sys.executable, "-c", PROGRAM, str(out), "resume" if resume else "new"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        first = process.stdout.readline()
        assert first, process.stderr.read()
        time.sleep(after)
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
    return process.returncode, int([first, *told.split()][-1])


def test_a_run_killed_again_and_again_ends_bit_for_bit_like_one_that_was_not(tmp_path):
    """kill -9 at random moments of a run that writes all the time, then resume: no state and no line is lost."""
    from tests.training.in_world import PRESET, squares

    dice, out = random.Random(7), tmp_path / "killed"
    reached = []
    for session in range(4):
        reached.append(_killed(out, session > 0, dice.uniform(0.0, 0.5)))
        state = saved_run(out)
        assert reached[-1] - 2 <= state.step <= reached[-1] + 2
    assert saved_run(out).step < STEPS
    train(longer(PRESET), squares(), out, resume=True)
    train(longer(PRESET), squares(), tmp_path / "whole")
    killed, whole = (load_file(place / "training.safetensors") for place in (out, tmp_path / "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert (out / "generator.safetensors").read_bytes() == (tmp_path / "whole/generator.safetensors").read_bytes()
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, STEPS + 1))
    assert not list(out.rglob(".*"))  # nor is anything half-written left


def test_a_kill_before_the_first_step_leaves_a_run_to_resume(tiny, squares, tmp_path, monkeypatch):
    class PowerCut(BaseException):
        pass

    def cut(self, number, batches, **rest):
        raise PowerCut

    monkeypatch.setattr("sagan_deploy.training.trainer.Trainer.step", cut)
    with pytest.raises(PowerCut):
        train(tiny, squares, tmp_path / "run")
    monkeypatch.undo()
    assert saved_run(tmp_path / "run").step == 0
    train(tiny, squares, tmp_path / "run", resume=True)
    train(tiny, squares, tmp_path / "whole")
    files = [place / "generator.safetensors" for place in (tmp_path / "run", tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_full_disk_is_named_and_the_last_state_is_whole(tiny, squares, tmp_path):
    """The kernel refuses the write in the middle, as a full disk does."""
    train(tiny, squares, tmp_path / "whole")
    size, out = (tmp_path / "whole/training.safetensors").stat().st_size, tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, before[1]))  # the first state has no moments yet: it fits
    try:
        with pytest.raises(InputError, match=r"cannot write .*training.safetensors: File too large"):
            train(tiny, squares, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved_run(out).step == 0
    assert not list(out.glob(".*"))
    train(tiny, squares, out, resume=True)
    files = [place / "generator.safetensors" for place in (out, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_older_states_are_kept_and_can_be_gone_back_to(tiny, squares, tmp_path):
    config = dataclasses.replace(tiny.train, keep=3, checkpoint_every=2, lr_decay_from=1.0)
    preset, out = dataclasses.replace(tiny, train=config), tmp_path / "run"
    train(preset, squares, out)
    assert list(folder_module.kept_states(out)) == [4, 6]
    whole = load_file(out / "training.safetensors")
    with pytest.raises(InputError, match="holds no state of step 5; it has those of 4, 6, 8"):
        train(preset, squares, out, resume=True, from_step=5)
    with pytest.raises(ConfigError, match="from_step goes back in a run that is resumed"):
        train(preset, squares, tmp_path / "new", from_step=4)
    train(preset, squares, out, resume=True, from_step=4, steps=5)
    assert (list(folder_module.kept_states(out)), saved_run(out).step) == ([4], 5)  # 6 was of another future
    train(preset, squares, out, resume=True, steps=8)
    again = load_file(out / "training.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert list(folder_module.kept_states(out)) == [5, 6]
    rows = (out / "log.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["2", "4", "5", "6", "8"]


def test_the_best_generator_is_kept_with_its_measure(tiny, squares, tmp_path):
    many = dataclasses.replace(squares, images=np.tile(squares.images, (8, 1, 1, 1)), labels=np.tile(squares.labels, 8))
    config = dataclasses.replace(tiny.train, evaluate_every=4)
    train(dataclasses.replace(tiny, train=config), many, tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    measured = {event["step"]: event["classifier_frechet"] for event in events if event["event"] == "evaluate"}
    assert sorted(measured) == [4, 8]
    made = load_checkpoint(tmp_path / "run/best.safetensors").provenance[-1]
    assert made["steps"] == min(measured, key=measured.get)
    assert made["classifier_frechet"] == min(measured.values()) == saved_run(tmp_path / "run").best
    bare = dataclasses.replace(squares, labels=None, class_names=())
    with pytest.raises(ConfigError, match="evaluate_every needs classes"):
        train(dataclasses.replace(tiny, train=config), bare, tmp_path / "bare")


def test_the_log_has_what_a_plot_needs(tiny, squares, tmp_path):
    train(tiny, squares, tmp_path / "run")
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["step"], last["eta_seconds"]) == ("step", 8, 0.0)
    assert last["generator_lr"] == pytest.approx(0.25 * 1e-3)
    assert (len(last["generator_gamma"]), len(last["discriminator_gamma"])) == (1, 1)
    assert 0.5 < last["generator_sigma"] < 2
    assert 0.5 < last["discriminator_sigma"] < 20  # of the embedding, which begins normal


def _row(loss, real, fake):
    return LogRow(1, loss, 0.0, real, fake, 1.0, 1.0)


def test_watchdogs_see_a_discriminator_that_has_won_or_is_blind_only_when_it_lasts(squares):
    dog = Watchdog(squares)
    assert [dog.scores(_row(1e-5, 2.0, -2.0)) for _ in range(9)] == [None] * 9
    assert "has won" in dog.scores(_row(1e-5, 2.0, -2.0))
    assert dog.scores(_row(0.5, 2.0, -2.0)) is None
    assert [dog.scores(_row(2.0, 0.3, 0.3)) for _ in range(9)][-1] is None
    assert "is dead" in dog.scores(_row(2.0, 0.3, 0.3))


def test_watchdogs_see_images_that_have_become_one(squares):
    dog, noise = Watchdog(squares), np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 10)
    varied = noise.uniform(-0.4, 0.4, (30, 3, 8, 8)).astype(np.float32)
    alike = (0.01 * varied).astype(np.float32)
    assert dog.diversity(alike, labels) is None  # as before the first steps
    assert dog.diversity(varied, labels) is None
    assert "have collapsed" in dog.diversity(alike, labels)


def test_a_watchdog_stops_the_run_and_the_last_good_state_goes_on_without_it(tiny, squares, tmp_path, monkeypatch):
    monkeypatch.setattr(Watchdog, "scores", lambda self, row: "the sky has fallen" if row.step == 4 else None)
    with pytest.raises(
        CheckFailed, match=r"stopped at step 4: the sky has fallen. The checkpoint of step 3 .* is good"
    ):
        train(tiny, squares, tmp_path / "run")
    blind = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, watch=False))
    assert train(blind, squares, tmp_path / "run", resume=True).steps == 8


def test_a_terminated_run_finishes_its_step_and_writes_its_state(tmp_path):
    code, told = _signalled(tmp_path / "run", False, 0.0, signal.SIGTERM)
    assert (code, told < STEPS) == (143, True)
    assert saved_run(tmp_path / "run").step == told


def test_training_on_from_a_generator(tiny, squares, tmp_path):
    train(tiny, squares, tmp_path / "first", steps=3)
    start = load_checkpoint(tmp_path / "first/generator.safetensors")
    train(tiny, squares, tmp_path / "none", steps=1, initial=start)
    onward = load_checkpoint(tmp_path / "none/generator.safetensors")
    assert [made["steps"] for made in onward.provenance] == [3, 1]
    far = load_checkpoint(tmp_path / "first/generator.safetensors").state["tail.conv.bias"]
    assert (onward.state["tail.conv.bias"] - far).abs().max() < 0.01
    two = dataclasses.replace(squares, labels=squares.labels % 2, class_names=("a", "b"))
    with pytest.raises(ConfigError, match="num_classes is 3 and would be 2"):
        train(tiny, two, tmp_path / "two", initial=start)
    double = checkpoint_of(start.generator().double())
    save_checkpoint(tmp_path / "imported.safetensors", double)
    result = train(
        tiny, squares, tmp_path / "imported", steps=1, initial=load_checkpoint(tmp_path / "imported.safetensors")
    )
    assert load_checkpoint(result.checkpoint).state["tail.conv.bias"].dtype == torch.float32
