"""`sagan-deploy generate`: the same images from every file, in the form that --out asks for."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from sagan_deploy.generation import draw, open_generator
from sagan_deploy.images import encode_png, grid, to_uint8
from sagan_deploy.latents import sample_labels, sample_latents
from tests.tiny_models import CONFIG, NAMES, UNCONDITIONAL, expected_codes, make_bundle, plan_bytes, tiny_onnx


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def checkpoint(tmp_path):
    from sagan_deploy.checkpoints.native import checkpoint_of, save_checkpoint
    from sagan_deploy.model.generator import Generator

    return save_checkpoint(tmp_path / "g.safetensors", checkpoint_of(Generator(CONFIG), class_names=NAMES))


def close_codes(images, expected):
    assert np.abs(images.astype(int) - expected.astype(int)).max() <= 1
    assert (images == expected).mean() > 0.99


@pytest.mark.parametrize("output", ["float", "uint8"])
def test_images_are_those_of_the_seed(tmp_path, output):
    folder = make_bundle(tmp_path / "b", output=output)
    drawing = draw(folder, 70, seed=4, truncation=1.0)  # more than one part of the work
    z, labels = sample_latents(4, 70, 8, truncation=1.0), sample_labels(4, 70, 3)
    np.testing.assert_array_equal(drawing.z, z)
    np.testing.assert_array_equal(drawing.labels, labels)
    close_codes(drawing.images, expected_codes(CONFIG, z, labels))


def test_a_checkpoint_draws_with_the_same_interface(checkpoint):
    import torch

    from sagan_deploy.checkpoints.native import load_checkpoint

    with open_generator(checkpoint) as generator:
        images = generator.sample(5, seed=2, classes=["blue", 0])
        assert generator.backend_name == "pytorch-cpu"
    network = load_checkpoint(checkpoint).generator().double()
    with torch.no_grad():
        z = torch.from_numpy(sample_latents(2, 5, 8)).double()
        expected = network(z, torch.tensor([2, 0, 2, 0, 2])).numpy()
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_progress_counts_images(bundle):
    steps = []
    draw(bundle, 130, progress=lambda *step: steps.append(step))
    assert steps == [("generate", 0, 130), ("generate", 64, 130), ("generate", 128, 130), ("generate", 130, 130)]


def test_grid_as_png(bundle, tmp_path, program):
    outcome = program(
        "generate", bundle, "--count", 5, "--columns", 3, "--classes", "red,2", "--out", tmp_path / "g.png"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(tmp_path / "g.png")
    picture = np.asarray(Image.open(tmp_path / "g.png"))
    assert picture.shape == (16, 24, 3)
    z = sample_latents(0, 5, 8)
    close_codes(picture[8:, 8:16], expected_codes(CONFIG, z, np.array([0, 2, 0, 2, 0]))[4])
    assert not picture[8:, 16:].any()


def test_arrays(bundle, tmp_path, program):
    assert program("generate", bundle, "--count", 3, "--start", 7, "--out", tmp_path / "a.npz", "-q").code == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["z"], sample_latents(0, 3, 8, start=7))
        np.testing.assert_array_equal(arrays["labels"], sample_labels(0, 3, 3, start=7))
        assert arrays["images"].shape == (3, 8, 8, 3)


def test_a_folder_of_single_images(bundle, tmp_path, program):
    out = tmp_path / "images"
    assert program("generate", bundle, "--count", 3, "--classes", "green", "--start", 5, "--out", out, "-q").code == 0
    assert sorted(p.name for p in out.iterdir()) == ["000005.png", "000006.png", "000007.png", "images.json"]
    index = json.loads((out / "images.json").read_text())
    assert index["images"][0] == {"file": "000005.png", "index": 5, "label": 1, "class": "green"}
    expected = expected_codes(CONFIG, sample_latents(0, 3, 8, start=5), np.array([1, 1, 1]))
    close_codes(np.asarray(Image.open(out / "000006.png")), expected[1])


def test_from_a_model_and_without_classes(tmp_path, program):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx(UNCONDITIONAL))
    outcome = program("generate", path, "--count", 2, "--out", tmp_path / "g.png", "--json")
    result = json.loads(outcome.out)
    assert result["labels"] is None
    assert result["drawn_by"] == "m.onnx (fp32) with onnxruntime-cpu"


def test_why_not_something_faster_is_said_on_stderr(tmp_path, program):
    folder = make_bundle(tmp_path / "b", plan=plan_bytes())
    outcome = program("generate", folder, "--count", 1, "--device", "cpu", "--out", tmp_path / "g.png")
    assert "1 images drawn by onnx/fp32.onnx (fp32) with onnxruntime-cpu" in outcome.err
    outcome = program("generate", folder, "--count", 1, "--out", tmp_path / "h.png", "-q")
    assert outcome.err == ""


@pytest.mark.parametrize("name", ["g.png", "a.npz", "images"])
def test_an_output_that_exists_is_kept_without_force(bundle, tmp_path, program, name):
    out = tmp_path / name
    arguments = ("generate", bundle, "--count", 1, "--out", out, "-q")
    assert program(*arguments).code == 0
    outcome = program(*arguments, "--seed", 9)
    assert outcome.code == 4
    assert "--force" in outcome.err
    before = (out / "000000.png" if out.is_dir() else out).read_bytes()
    assert program(*arguments, "--seed", 9, "--force").code == 0
    assert (out / "000000.png" if out.is_dir() else out).read_bytes() != before


def test_an_output_that_exists_is_refused_before_anything_is_drawn(bundle, tmp_path, program, monkeypatch):
    from sagan_deploy import generation

    monkeypatch.setattr(generation, "draw", lambda *_, **__: pytest.fail("drawn in vain"))
    for name in ("g.png", "a.npz"):
        (tmp_path / name).write_bytes(b"kept")
        assert program("generate", bundle, "--out", tmp_path / name).code == 4
    (tmp_path / "images").mkdir()
    assert program("generate", bundle, "--out", tmp_path / "images").code == 4


def test_force_never_replaces_a_folder_of_something_else(bundle, tmp_path, program):
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    assert program("generate", bundle, "--count", 1, "--out", home, "--force", "-q").code == 4
    assert (home / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--classes", "pink"], 4, "red, green, blue"),
        (["--classes", "7"], 4, "0..2"),
        (["--truncation", "0"], 2, "truncation"),
        (["--backend", "openvino"], 2, "openvino"),
        (["--device", "tpu"], 2, "tpu"),
        (["--device", "cuda"], 3, "onnxruntime-gpu"),
        (["--backend", "tensorrt"], 4, "holds nothing"),
        (["--out", "x.jpg"], 2, ".png"),
        (["--out", "x.npz", "--columns", "3"], 2, "--columns"),
    ],
)
def test_wrong_requests(bundle, tmp_path, program, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    outcome = program("generate", bundle, "--count", 1, "--out", "g.png", *arguments)
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert not list(tmp_path.glob("*.png"))


def test_wrong_files(tmp_path, program):
    cases = {
        "empty": b"",
        "text": b"hello, this is a text file",
        "cut.onnx": tiny_onnx()[:3000],
        "foreign.onnx": tiny_onnx(metadata={}),
        "alone.plan": plan_bytes(),
        "cut.safetensors": (500).to_bytes(8, "little") + b'{"a": 1, "b": 22222}',
    }
    for name, payload in cases.items():
        (tmp_path / name).write_bytes(payload)
        outcome = program("generate", tmp_path / name, "--count", 1, "--out", tmp_path / "g.png")
        assert (outcome.code, outcome.err.count("\n")) == (4, 1), (name, outcome.err)
        assert not (tmp_path / "g.png").exists()


def test_a_read_only_folder(bundle, tmp_path, program, monkeypatch):
    import tempfile

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    outcome = program("generate", bundle, "--count", 1, "--out", tmp_path / "g.png", "-q")
    assert outcome.code == 4
    assert "Permission denied" in outcome.err


def test_images_with_nan_are_refused(tmp_path, program):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx(gain=float("nan")))
    outcome = program("generate", path, "--count", 1, "--out", tmp_path / "g.png", "-q")
    assert outcome.code == 4
    assert "NaN" in outcome.err


def test_a_checkpoint_runs_on_the_cpu_only(checkpoint, tmp_path, program):
    assert program("generate", checkpoint, "--count", 1, "--device", "cuda", "--out", tmp_path / "g.png").code == 2


def test_help_shows_a_real_command(program):
    outcome = program("generate", "--help")
    assert outcome.code == 0
    assert "sagan-deploy generate bundle" in outcome.out


def test_rounding_and_clipping_to_8_bits():
    images = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 0.5 / 127.5], np.float32).reshape(1, 1, 2, 3).repeat(3, 1)
    np.testing.assert_array_equal(to_uint8(images)[0, ..., 0].ravel(), [0, 0, 128, 255, 255, 128])


def test_grid_is_row_by_row_and_png_is_lossless():
    images = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    picture = grid(images, 2)
    assert picture.shape == (6, 4, 3)
    np.testing.assert_array_equal(picture[2:4, 2:4], images[3])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(picture)))), picture)
