"""`sagan-deploy train`: the real small preset for a few steps on a few images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sagan_deploy.checkpoints.native import load_checkpoint
from sagan_deploy.training.run import saved_run


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, images=random.integers(0, 255, (12, 32, 32, 3), dtype=np.uint8), labels=np.arange(12) % 2)
    return path


def test_a_run_is_trained_and_continued_where_it_stopped(program, images, tmp_path):
    out = tmp_path / "run"
    started = program("train", "--data", images, "--out", out, "--steps", 1, "--batch-size", 2, "--flip", "--seed", 5)
    assert (started.code, started.err.count("error")) == (0, 0)
    assert "1 steps in" in started.out
    assert str(out / "generator.safetensors") in started.out
    state = saved_run(out)
    assert (state.preset.train.batch_size, state.preset.train.flip, state.preset.train.seed) == (2, True, 5)
    assert state.preset.generator.num_classes == 2
    again = program("train", "--out", out, "--resume", "--json", "--quiet")
    assert again.code == 0
    assert json.loads(again.out) | {"seconds": 0} == {
        "checkpoint": str(out / "generator.safetensors"), "steps": 1, "seconds": 0, "images_per_second": 0.0,
        "discriminator_loss": None, "generator_loss": None, "samples": None,
    }  # fmt: skip
    assert again.err == ""
    other = program("train", "--out", out, "--resume", "--batch-size", 3)
    assert other.code == 2
    assert "train.batch_size was 2 and is now 3" in other.err


def test_the_built_in_robots_are_credited(program, tmp_path):
    result = program("train", "--data", "robots", "--out", tmp_path / "run", "--steps", 1, "--batch-size", 2)
    assert result.code == 0
    assert "Zikri Kader" in result.err
    (made,) = load_checkpoint(tmp_path / "run/generator.safetensors").provenance
    assert "Zikri Kader" in made["attribution"]


def test_no_steps_write_an_untrained_generator(program, tmp_path):
    result = program("train", "--out", tmp_path / "run", "--steps", 0)
    assert result.code == 0
    assert "an untrained generator" in result.out
    assert load_checkpoint(tmp_path / "run/generator.safetensors").config.image_size == 32


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "--data is missing"),
        (["--data", "nowhere"], 4, "no such folder or file, and no built-in set"),
        (["--data", "IMAGES", "--preset", "sagan9"], 2, "there is no preset 'sagan9'. Known presets: sagan32"),
        (["--data", "IMAGES", "--preset", "sagan64"], 4, "images of 32x32 pixels; this preset draws 64x64"),
        (["--data", "digits", "--preset", "sagan64"], 2, "the digits come as 32x32"),
        (["--data", "IMAGES", "--steps", "-1"], 2, "--steps"),
        (["--data", "IMAGES", "--batch-size", "1"], 2, "--batch-size"),
        (["--data", "IMAGES", "--minutes", "0"], 2, "minutes (=0.0) must be positive"),
        (["--data", "IMAGES", "--minutes", "1", "--steps", "9"], 2, "either steps or minutes"),
        (["--data", "IMAGES", "--generator-lr", "3"], 2, "--generator-lr (=3.0) must not exceed 0.1"),
        (["--data", "IMAGES", "--discriminator-lr", "-1"], 2, "discriminator_lr (=-1.0) must be positive"),
        (["--data", "IMAGES", "--device", "abacus"], 3, "cannot compute on device 'abacus'"),
        (["--resume"], 4, "no run to resume"),
        (["--resume", "--force"], 4, "no run to resume"),
    ],
)
def test_options_that_make_no_sense_leave_nothing_behind(program, images, tmp_path, options, code, message):
    out = tmp_path / "run"
    given = [str(images) if option == "IMAGES" else option for option in options]
    result = program("train", "--out", out, *given)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err
    assert not out.exists()


def test_an_existing_folder_is_refused_before_images_are_read(program, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/something").write_text("")
    result = program("train", "--data", "nowhere", "--out", tmp_path / "run")
    assert (result.code, "exists already" in result.err) == (4, True)


def test_ctrl_c_writes_a_checkpoint_and_exits_with_130(images, tmp_path):
    out = tmp_path / "run"
    options = ["--data", str(images), "--out", str(out), "--batch-size", "2"]
    command = [sys.executable, "-m", "sagan_deploy", "train", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (
            not (out / "log.csv").exists() or (out / "log.csv").read_text().count("\n") < 2
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted; go on with: sagan-deploy train --out {out} --resume" in err
    assert "Traceback" not in err
    steps = saved_run(out).step
    assert 10 <= steps < 1500
    assert load_checkpoint(out / "generator.safetensors").provenance[0]["steps"] == steps
