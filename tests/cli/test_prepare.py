"""`sagan-deploy prepare`, and what goes on with its folder."""

from __future__ import annotations

import json

import pytest
from PIL import Image

TINY = ("--preset", "sagan32", "--batch-size", 4, "--quiet")


@pytest.fixture
def pictures(tmp_path):
    for i in range(8):
        path = tmp_path / "pictures" / ("red", "blue")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50), (30 * i, 0, 90)).save(path)
    return tmp_path / "pictures"


def test_a_run_on_the_folder_is_the_run_on_the_pictures(program, pictures, tmp_path):
    pixels = tmp_path / "pixels"
    made = program("prepare", pictures, "--size", 32, "--out", pixels)
    assert made.code == 0, made.err
    assert f"{pixels}: 8 images of 32x32 in 2 classes, 0 MB; train with --data {pixels}" in made.out
    for name, data in (("a", pictures), ("b", pixels)):
        run = program("train", "--data", data, "--steps", 2, "--out", tmp_path / name, *TINY)
        assert run.code == 0, run.err
    a, b = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b
    # The state remembers the folder, and the same images are the same data wherever they lie.
    again = program("train", "--resume", "--data", pictures, "--out", tmp_path / "b", "--quiet")
    assert again.code == 0, again.err


def test_as_json_with_what_was_left_out(program, pictures, tmp_path):
    (pictures / "red" / "0.png").write_bytes(b"")
    arguments = ("prepare", pictures, "--size", 16, "--out", tmp_path / "pixels")
    refused = program(*arguments)
    assert refused.code == 4
    assert "0.png is not a whole image" in refused.err
    assert not (tmp_path / "pixels").exists()
    made = program(*arguments, "--corrupt-limit", 1, "--json")
    facts = json.loads(made.out)
    assert (facts["images"], facts["size"], facts["bytes"]) == (7, 16, 7 * 3 * 16 * 16)
    assert facts["class_names"] == ["blue", "red"]
    assert facts["left_out"] == [str(pictures / "red" / "0.png")]
    assert "left out, since it cannot be read" in made.err
    assert program(*arguments, "--corrupt-limit", 1).code == 4
    assert program(*arguments, "--corrupt-limit", 1, "--force").code == 0


@pytest.mark.parametrize(("size", "code"), [(0, 2), (5000, 2)])
def test_absurd_sizes_are_refused(program, pictures, tmp_path, size, code):
    assert program("prepare", pictures, "--size", size, "--out", tmp_path / "pixels").code == code
