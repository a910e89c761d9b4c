"""`sagan-deploy quickstart`, on few small images and for a moment: every layer is the real one."""

import json

import numpy as np
import pytest

from sagan_deploy.bundle.bundle import open_bundle


@pytest.fixture
def images(tmp_path):
    """Two classes that differ in colour: 64 images with a square somewhere."""
    rng = np.random.default_rng(0)
    pixels = np.full((64, 32, 32, 3), 255, np.uint8)
    labels = np.arange(64) % 2
    for image, label, (x, y) in zip(pixels, labels, rng.integers(0, 16, (64, 2)), strict=True):
        image[y : y + 12, x : x + 12] = (200, 0, 0) if label else (0, 0, 200)
    path = tmp_path / "images.npz"
    np.savez(path, images=pixels, labels=labels, class_names=np.array(["blue", "red"]))
    return path


@pytest.mark.slow
def test_the_main_job_end_to_end(program, images, tmp_path):
    out = tmp_path / "out"
    done = program("quickstart", "--data", images, "--out", out, "--minutes", 0.05, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["training"]["steps"] > 0
    assert 0 <= told["quality"]["label_share"] <= 1
    assert {artifact["verdict"] for artifact in told["artifacts"]} <= {"passed", "not_run"}
    bundle = open_bundle(out / "bundle")
    assert bundle.manifest.class_names == ("blue", "red")
    assert bundle.verify_hashes() > 4
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "blue" in page
    assert f"{told['quality']['label_share']:.1%}".split(".")[0] in page
    again = program("quickstart", "--data", images, "--out", out)
    assert again.code == 4
    assert "--force" in again.err


def test_images_without_classes_are_refused_before_training(program, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((8, 32, 32, 3), np.uint8))
    done = program("quickstart", "--data", path, "--out", tmp_path / "out")
    assert done.code == 2
    assert "no classes" in done.err
    assert not (tmp_path / "out").exists()
