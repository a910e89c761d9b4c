"""TensorBoard sees what stands in the log, once, also after an interruption."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from sagan_deploy.errors import MissingError
from sagan_deploy.training.run import train

pytest.importorskip("tensorboard", reason="needs the package tensorboard")


def _curves(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    images = [(e.step, e.encoded_image_string) for e in events.Images("samples")]
    return scalars, images


def _check_is_the_log(out, steps):
    scalars, images = _curves(out)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == steps
    for name in ("discriminator_loss", "generator_loss", "real_score", "generator_lr", "generator_sigma"):
        assert scalars[name] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log]
    assert scalars["generator_gamma/0"] == [(line["step"], pytest.approx(line["generator_gamma"][0])) for line in log]
    assert "time" not in scalars  # every event has its own
    assert [step for step, _ in images] == [4, 8]
    for step, picture in images:
        there = np.asarray(Image.open(out / f"samples/step_{step:06d}.png"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), there)


def test_the_curves_are_the_log_and_the_pictures_the_samples(tiny, squares, tmp_path):
    train(tiny, squares, tmp_path / "run", tensorboard=True)
    _check_is_the_log(tmp_path / "run", [2, 4, 6, 8])


def test_what_was_drawn_beyond_the_resumed_state_is_drawn_again(tiny, squares, tmp_path):
    out, short = tmp_path / "run", dataclasses.replace(tiny.train, checkpoint_every=2, keep=4)
    preset = dataclasses.replace(tiny, train=short)
    train(preset, squares, out, tensorboard=True)
    train(preset, squares, out, resume=True, from_step=4, tensorboard=True)
    _check_is_the_log(out, [2, 4, 6, 8])


def test_a_new_run_in_the_folder_removes_the_curves_of_the_old_one(tiny, squares, tmp_path):
    out = tmp_path / "run"
    train(tiny, squares, out, steps=6, tensorboard=True)
    (out / "tensorboard/mine.txt").write_text("not of the run")
    train(tiny, squares, out, force=True)
    assert [path.name for path in (out / "tensorboard").iterdir()] == ["mine.txt"]


def test_without_the_package_nothing_is_begun(tiny, squares, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingError, match=r"pip install 'sagan-deploy\[tensorboard\]'"):
        train(tiny, squares, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
