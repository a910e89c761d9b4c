"""Runs with their interruptions: plan, resume, log, files, and everything that may go wrong between."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import signal
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sagan_deploy.checkpoints.native import load_checkpoint
from sagan_deploy.errors import CheckFailed, ConfigError, InputError
from sagan_deploy.training import trainer as trainer_module
from sagan_deploy.training.run import saved_run, train
from sagan_deploy.training.session import Session
from sagan_deploy.training.state import STATE_NAME, read_state, restore
from sagan_deploy.training.world import World
from tests.training.presets import with_settings


def _weights(out):
    return (out / "generator.safetensors").read_bytes()


def _state(out):
    return load_file(out / STATE_NAME)


def _same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def _log(out):
    return list(csv.DictReader(io.StringIO((out / "log.csv").read_text())))


def _interrupt_at(step, number=signal.SIGINT):
    def progress(task, completed, total):
        if completed == step:
            signal.raise_signal(number)

    return progress


def test_a_run_leaves_generator_state_log_and_pictures(tiny, squares, tmp_path):
    told = []
    result = train(tiny, squares, tmp_path / "run", progress=lambda *step: told.append(step))
    out = tmp_path / "run"
    assert told == [("train", step, 8) for step in range(1, 9)]
    assert (result.checkpoint, result.steps) == (out / "generator.safetensors", 8)
    assert result.images_per_second > 0
    assert math.isfinite(result.discriminator_loss + result.generator_loss)
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.class_names == ("red", "green", "blue")
    (made,) = checkpoint.provenance
    assert made["step"] == "train"
    assert (made["steps"], made["seed"], made["data"], made["images"]) == (8, 0, "squares", 22)
    assert made["attribution"] == "Squares: by the tests"
    rows = _log(out)
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert [float(row["rate_factor"]) for row in rows] == [1, 1, 0.75, 0.25]
    assert float(rows[-1]["discriminator_loss"]) == pytest.approx(result.discriminator_loss, rel=1e-5)
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["step_000004.png", "step_000008.png"]
    with Image.open(result.samples) as picture:
        assert picture.size == (80, 24)  # ten columns, one row per class
    names = ["generator.safetensors", "log.csv", "log.jsonl", "samples", STATE_NAME]
    assert sorted(p.name for p in out.iterdir()) == names


def test_the_average_is_what_is_written(tiny, squares, tmp_path):
    train(tiny, squares, tmp_path / "run")
    state, written = _state(tmp_path / "run"), load_checkpoint(tmp_path / "run/generator.safetensors").state
    for name, tensor in written.items():
        assert torch.equal(tensor, state["ema/" + name])
    assert any(not torch.equal(tensor, state["generator/" + name]) for name, tensor in written.items())


def test_two_runs_of_a_seed_are_equal_and_another_seed_is_not(tiny, squares, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny, squares, tmp_path / name, steps=3, seed=seed)
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b") != _weights(tmp_path / "c")


@pytest.mark.parametrize("stops", [(5,), (1, 2, 7), (4,)])
def test_resumed_runs_end_bit_for_bit_like_uninterrupted_ones(tiny, squares, tmp_path, stops):
    config = dataclasses.replace(tiny.train, flip=True, discriminator_steps=2)
    preset = dataclasses.replace(tiny, train=config)
    train(preset, squares, tmp_path / "whole", seed=4)
    out = tmp_path / "parts"
    for i, stop in enumerate(stops):
        with pytest.raises(KeyboardInterrupt):
            train(preset, squares, out, seed=4, resume=i > 0, progress=_interrupt_at(stop))
        assert saved_run(out).step == stop
        assert load_checkpoint(out / "generator.safetensors").provenance[0]["steps"] == stop
    result = train(preset, squares, out, seed=4, resume=True)
    assert result.steps == 8
    assert _weights(out) == _weights(tmp_path / "whole")
    assert _same(_state(out), _state(tmp_path / "whole"))
    whole, parts = _log(tmp_path / "whole"), _log(out)
    for row in (*whole, *parts):
        row.pop("images_per_second")
    assert parts == whole


def test_the_state_matters_for_the_resume(tiny, squares, tmp_path):
    """The check above could not fail if moments and vectors of the state had no effect: here one of each is wrong."""
    for part in (
        "generator_adam/stem.linear.bias/exp_avg_sq",
        "discriminator/blocks.0.conv1.parametrizations.weight.0._v",
    ):
        out = tmp_path / part.partition("/")[0]
        with pytest.raises(KeyboardInterrupt):
            train(tiny, squares, out, progress=_interrupt_at(5))
        state, tensors = read_state(out / STATE_NAME)
        tensors[part] = tensors[part].roll(1) + 1e-3
        run = Session(dataclasses.replace(tiny, train=state.preset.train), squares, out, state, None, World())
        restore(run.trainer, tensors, path=out)
        run.finish(lambda *step: None)
        train(tiny, squares, out.with_suffix(".whole"))
        assert _weights(out) != _weights(out.with_suffix(".whole"))


def test_a_kill_between_checkpoints_loses_only_the_steps_since(tiny, squares, tmp_path, monkeypatch):
    class PowerCut(BaseException):
        pass

    def cut(task, completed, total):
        if completed == 5:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(tiny, squares, tmp_path / "cut", progress=cut)
    assert saved_run(tmp_path / "cut").step == 3
    assert [int(row["step"]) for row in _log(tmp_path / "cut")] == [2, 4]
    train(tiny, squares, tmp_path / "cut", resume=True)
    train(tiny, squares, tmp_path / "whole")
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")
    assert [row["step"] for row in _log(tmp_path / "cut")] == ["2", "4", "6", "8"]


@pytest.mark.parametrize("write", [1, 2], ids=["state", "generator"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_good_one(tiny, squares, tmp_path, monkeypatch, write):
    from sagan_deploy import files

    out, real, writes = tmp_path / "cut", files.os.fsync, []

    class PowerCut(BaseException):
        pass

    def fsync(number):
        if saved and len(writes) == write - 1:
            raise PowerCut  # half of the file may be on disk now, under its temporary name
        writes.append(number) if saved else None
        real(number)

    def progress(task, completed, total):
        if completed == 5:
            saved.append(True)

    saved: list[bool] = []
    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(PowerCut):
        train(tiny, squares, out, progress=progress)
    monkeypatch.undo()
    assert saved_run(out).step == (3 if write == 1 else 6)
    assert load_checkpoint(out / "generator.safetensors").provenance[0]["steps"] == 3
    train(tiny, squares, out, resume=True)
    train(tiny, squares, tmp_path / "whole")
    assert _weights(out) == _weights(tmp_path / "whole")


def test_a_second_interrupt_does_not_wait(tiny, squares, tmp_path):
    def twice(task, completed, total):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, squares, tmp_path / "run", progress=twice)
    assert saved_run(tmp_path / "run").step == 0  # what it began with, and no half of a step
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_needs_no_signals(tiny, squares, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(tiny, squares, tmp_path / "run", steps=1)))
    thread.start()
    thread.join()
    assert results[0].steps == 1


def test_a_finished_run_resumes_to_itself(tiny, squares, tmp_path):
    train(tiny, squares, tmp_path / "run")
    before = _weights(tmp_path / "run")
    (tmp_path / "run/generator.safetensors").unlink()  # as a kill between the two files may leave it
    assert train(tiny, squares, tmp_path / "run", resume=True).steps == 8
    assert _weights(tmp_path / "run") == before


def test_more_steps_on_resume_equal_a_longer_run_unless_the_rate_has_begun_to_fall(tiny, squares, tmp_path):
    flat = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, lr_decay_from=1.0))
    train(flat, squares, tmp_path / "longer", steps=3)
    train(flat, squares, tmp_path / "longer", steps=6, resume=True)
    train(flat, squares, tmp_path / "whole", steps=6)
    assert _weights(tmp_path / "longer") == _weights(tmp_path / "whole")
    with pytest.raises(ConfigError, match="less than the 6"):
        train(flat, squares, tmp_path / "longer", steps=5, resume=True)
    train(tiny, squares, tmp_path / "falling", steps=6)
    with pytest.raises(ConfigError, match="cannot replace the planned 6 at step 6: the learning rate is falling"):
        train(tiny, squares, tmp_path / "falling", steps=9, resume=True)


def test_minutes_find_a_number_of_steps_that_gives_the_same_weights_when_asked_for(tiny, squares, tmp_path):
    totals = []
    result = train(
        tiny, squares, tmp_path / "timed", minutes=0.02, progress=lambda task, done, total: totals.append(total)
    )
    assert totals[0] is None
    assert totals[-1] == result.steps >= 20
    train(tiny, squares, tmp_path / "counted", steps=result.steps)
    assert _same(_state(tmp_path / "timed"), _state(tmp_path / "counted"))


def test_a_timed_run_is_resumed_with_its_own_plan(tiny, squares, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tiny, squares, tmp_path / "run", minutes=0.02, progress=_interrupt_at(5))
    assert (saved_run(tmp_path / "run").total, saved_run(tmp_path / "run").minutes) == (None, 0.02)
    result = train(tiny, squares, tmp_path / "run", resume=True)
    assert result.steps >= 20
    train(tiny, squares, tmp_path / "counted", steps=result.steps)
    assert _same(_state(tmp_path / "run"), _state(tmp_path / "counted"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: dataclasses.replace(p, train=dataclasses.replace(p.train, batch_size=5)),
            "batch_size was 4 and is now 5",
        ),
        (lambda p: dataclasses.replace(p, train=dataclasses.replace(p.train, seed=9)), "train.seed was 0 and is now 9"),
        (
            lambda p: dataclasses.replace(p, generator=dataclasses.replace(p.generator, z_dim=7)),
            "generator.z_dim was 6 and is now 7",
        ),
    ],
)
def test_resume_with_other_settings_is_refused(tiny, squares, tmp_path, change, message):
    train(tiny, squares, tmp_path / "run", steps=1)
    with pytest.raises(ConfigError, match=message):
        train(change(tiny), squares, tmp_path / "run", resume=True)
    rarer = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, sample_every=999))
    assert train(rarer, squares, tmp_path / "run", resume=True).steps == 1


def test_resume_with_other_images_is_refused(tiny, squares, tmp_path):
    train(tiny, squares, tmp_path / "run", steps=1)
    other = dataclasses.replace(squares, images=255 - squares.images)
    with pytest.raises(ConfigError, match=r"other images \(squares.npz\)"):
        train(tiny, other, tmp_path / "run", resume=True)


def test_a_damaged_state_is_named(tiny, squares, tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        train(tiny, squares, tmp_path / "none", resume=True)
    out = tmp_path / "run"
    train(tiny, squares, out, steps=1)
    path = out / STATE_NAME
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:5],
        whole[:100],
        whole[:-10],
        b"\xff" * 64,
        whole.replace(b"training/1", b"training/9"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=STATE_NAME):
            train(tiny, squares, out, resume=True)
    path.write_bytes(_weights(out))  # a generator is not a state
    with pytest.raises(InputError, match="is not a training state"):
        train(tiny, squares, out, resume=True)
    path.write_bytes(whole)
    assert train(tiny, squares, out, resume=True).steps == 1


def test_a_run_that_diverges_says_so_and_keeps_the_last_good_checkpoint(tiny, squares, tmp_path, monkeypatch):
    real, calls = trainer_module.discriminator_loss, []

    def explode(real_scores, fake_scores):
        calls.append(1)
        return real(real_scores, fake_scores) * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(trainer_module, "discriminator_loss", explode)
    with pytest.raises(CheckFailed, match=r"diverged at step 6 \(losses nan and nan\). The checkpoint of step 3"):
        train(tiny, squares, tmp_path / "run")
    assert saved_run(tmp_path / "run").step == 3
    assert all(tensor.isfinite().all() for tensor in _state(tmp_path / "run").values())
    rarely = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, log_every=100))
    with pytest.raises(CheckFailed, match="weights that are not finite.*No checkpoint"):
        train(rarely, squares, tmp_path / "other", steps=6)


def test_no_steps_write_an_initial_generator_without_data(tiny, tmp_path):
    result = train(tiny, None, tmp_path / "run", steps=0)
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.config == tiny.generator
    assert checkpoint.provenance[0]["steps"] == 0
    assert "data" not in checkpoint.provenance[0]
    images = checkpoint.generator()(torch.zeros(2, 6), torch.tensor([0, 2]))
    assert images.shape == (2, 3, 8, 8)
    assert not (tmp_path / "run" / STATE_NAME).exists()
    with pytest.raises(ConfigError, match="for 8 steps needs data"):
        train(tiny, None, tmp_path / "other")


def test_images_without_classes_train_an_unconditional_network(tiny, squares, tmp_path):
    bare = dataclasses.replace(squares, labels=None, class_names=())
    result = train(tiny, bare, tmp_path / "run", steps=2)
    config = load_checkpoint(result.checkpoint).config
    assert (config.num_classes, config.norm) == (0, "batch")
    with Image.open(result.samples) as picture:
        assert picture.size == (80, 80)


def test_images_of_another_size_are_refused(tiny, squares, tmp_path):
    big = dataclasses.replace(squares, images=np.zeros((22, 3, 16, 16), np.uint8))
    with pytest.raises(ConfigError, match="draws 3 channels of 8x8 pixels.*squares are 3 channels of 16x16"):
        train(tiny, big, tmp_path / "run")


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_run(tiny, squares, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    train(tiny, squares, out, steps=4)  # an empty folder will do
    (out / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        train(tiny, squares, out)
    train(tiny, squares, out, steps=1, force=True)
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["step_000001.png"]
    assert (out / "mine.txt").exists()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.doc").write_text("years")
    with pytest.raises(InputError, match="is not a folder that this command made"):
        train(tiny, squares, home, force=True)
    with pytest.raises(ConfigError, match="resume continues .* force replaces"):
        train(tiny, squares, out, resume=True, force=True)


def test_contradicting_lengths_are_refused(tiny, squares, tmp_path):
    with pytest.raises(ConfigError, match="either steps or minutes"):
        train(tiny, squares, tmp_path / "run", steps=2, minutes=1.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wanted", [True, False])
def test_sums_in_one_order_are_asked_for_while_a_run_lasts(tiny, squares, tmp_path, monkeypatch, wanted):
    seen = []
    original = Session.finish
    monkeypatch.setattr(
        Session,
        "finish",
        lambda self, progress: (seen.append(torch.backends.cudnn.deterministic), original(self, progress))[1],
    )
    before = torch.backends.cudnn.deterministic
    train(with_settings(tiny, deterministic=wanted), squares, tmp_path / "run", steps=1)
    assert seen == [wanted]
    assert torch.backends.cudnn.deterministic == before
