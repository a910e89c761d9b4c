"""`sagan-deploy train`: the real small preset for a few steps on a few images."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

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
        (["--data", "IMAGES", "--precision", "fp8"], 2, "precision (=fp8) must be one of fp32, bf16, fp16"),
        (["--data", "IMAGES", "--augment", "blur"], 2, "augment (=blur) may list color, translation, cutout"),
        (["--data", "IMAGES", "--from-step", "4"], 2, "from_step goes back in a run that is resumed"),
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


def _pictures(folder, kinds=("cats", "dogs"), each=3):
    from PIL import Image

    for i, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True)
        for j in range(each):
            Image.new("RGB", (50 + j, 40), (90 * i, 80 * j, 30)).save(folder / kind / f"{j}.jpg")


def test_a_folder_of_own_pictures_as_the_readme_says(program, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = re.findall(r"^```bash\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    train, generate = (shlex.split(line)[1:] for line in block.splitlines())
    _pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    trained = program(*train, "--steps", 1, "--batch-size", 2)
    assert trained.code == 0, trained.err
    drawn = program(*generate)
    assert drawn.code == 0, drawn.err
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    checkpoint = load_checkpoint(tmp_path / "mine/generator.safetensors")
    assert checkpoint.class_names == ("cats", "dogs")
    assert checkpoint.provenance[0]["preparation"]["crop"] == "middle square"


def test_auto_resume_begins_then_continues(program, images, tmp_path):
    out = tmp_path / "run"
    options = ("--data", images, "--out", out, "--batch-size", 2, "--auto-resume", "--json", "--keep", 2)
    options = (*options, "--lr-decay-from", 1)
    first = program("train", *options, "--steps", 1)
    assert (first.code, json.loads(first.out)["steps"]) == (0, 1), first.err
    second = program("train", *options, "--steps", 2, "--checkpoint-every", 1)
    assert (second.code, json.loads(second.out)["steps"]) == (0, 2), second.err
    assert [path.name for path in (out / "states").iterdir()] == ["step_000001.safetensors"]
    (out / "training.safetensors").unlink()  # killed before the first state
    assert json.loads(program("train", *options, "--steps", 1).out)["steps"] == 1
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.doc").touch()
    refused = program("train", "--data", images, "--out", tmp_path / "home", "--auto-resume")
    assert (refused.code, "is not a folder that this command made" in refused.err) == (4, True)


def test_options_reach_the_run(program, images, tmp_path):
    options = (
        "--batch-size", 4, "--accumulation", 2, "--discriminator-steps", 2, "--r1", 1, "--augment", "color,cutout",
        "--balanced", "--standing-batches", 2, "--ema-decay", 0.5, "--no-watch", "--no-generator-spectral-norm",
    )  # fmt: skip
    result = program("train", "--data", images, "--out", tmp_path / "run", "--steps", 1, *options)
    assert result.code == 0, result.err
    preset = saved_run(tmp_path / "run").preset
    config = preset.train
    assert (config.accumulation, config.discriminator_steps, config.r1, config.balanced) == (2, 2, 1.0, True)
    assert (config.augment, config.standing_batches, config.ema_decay) == (("color", "cutout"), 2, 0.5)
    assert not config.watch
    assert (preset.generator.spectral_norm, preset.discriminator.spectral_norm) == (False, True)
    assert load_checkpoint(tmp_path / "run/generator.safetensors").provenance[0]["standing_batches"] == 2
    again = program("train", "--out", tmp_path / "run", "--resume")
    assert again.code == 0, again.err


def test_training_without_classes_and_on_from_a_generator(program, images, tmp_path):
    short = ("--data", images, "--steps", 1, "--batch-size", 2)
    assert program("train", *short, "--out", tmp_path / "bare", "--unconditional").code == 0
    assert load_checkpoint(tmp_path / "bare/generator.safetensors").config.num_classes == 0
    assert program("train", "--out", tmp_path / "bare", "--resume").code == 0
    assert program("train", *short, "--out", tmp_path / "a").code == 0
    on = program("train", *short, "--out", tmp_path / "b", "--init", tmp_path / "a/generator.safetensors")
    assert on.code == 0, on.err
    assert "the discriminator begins from nothing" in on.err
    assert len(load_checkpoint(tmp_path / "b/generator.safetensors").provenance) == 2
    both = program("train", "--out", tmp_path / "b", "--resume", "--init", tmp_path / "a/generator.safetensors")
    assert (both.code, "--init begins a run and --resume continues one" in both.err) == (2, True)
    size = program(
        "train", *short, "--preset", "sagan64", "--out", tmp_path / "c", "--init", tmp_path / "a/generator.safetensors"
    )
    assert (size.code, "--preset sagan32" in size.err) == (2, True)


def test_corrupt_pictures_are_named(program, tmp_path):
    _pictures(tmp_path / "pictures")
    (tmp_path / "pictures/dogs/torn.jpg").write_bytes(b"torn")
    options = ("--data", tmp_path / "pictures", "--steps", 1, "--batch-size", 2)
    assert program("train", *options, "--out", tmp_path / "no").code == 4
    result = program("train", *options, "--out", tmp_path / "run", "--corrupt-limit", 1)
    assert result.code == 0, result.err
    assert "left out, since it cannot be read" in result.err
    assert "torn.jpg" in result.err
