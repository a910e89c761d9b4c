"""A prepared folder is the data set that it was made of, read piece by piece, and is written whole or not at all."""

from __future__ import annotations

import errno
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sagan_deploy.errors import InputError
from sagan_deploy.training.data import Dataset, open_dataset, prepare
from sagan_deploy.training.data.batches import Batches
from sagan_deploy.training.data.pixels import PixelFile, pixel_store
from sagan_deploy.training.quality import evaluate_quality, train_classifier


@pytest.fixture
def pictures(tmp_path):
    """Forty images of two classes, of which every one has a colour of its own."""
    for i in range(40):
        path = tmp_path / "pictures" / ("dark", "light")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (i + 200 * (i % 2), 5 * i, 255 - i)).save(path)
    return tmp_path / "pictures"


def _prepared(spec, out, size=8, **options):
    return prepare(lambda pixels: open_dataset(spec, size, pixels=pixels, **options), out)


def _same(a, b):
    assert (a.images == b.images).all()
    assert (a.labels == b.labels).all()
    assert (a.name, a.class_names, a.preparation) == (b.name, b.class_names, b.preparation)
    assert a.fingerprint() == b.fingerprint()


def test_a_prepared_folder_is_its_source_and_stays_on_the_disk(pictures, tmp_path):
    source = open_dataset(pictures, 8)
    made = _prepared(pictures, tmp_path / "pixels")
    found = open_dataset(tmp_path / "pixels", 8)
    for data in (made, found):
        _same(data, source)
        assert isinstance(data.images, np.memmap)
        assert data.source == str((tmp_path / "pixels").resolve())
    for a, b in zip(Batches(source, 6, seed=1, flip=True).batch(3), Batches(found, 6, seed=1, flip=True).batch(3)):  # noqa: B905
        assert (a == b).all()
    order = [sorted((pictures / name).iterdir()) for name in ("dark", "light")]
    first = [np.asarray(Image.open(path))[0, 0] for path in order[0] + order[1]]
    assert (found.images[:, :, 4, 4] == first).all()  # in the files' order, though several are decoded at once


def test_what_is_in_memory_already_is_prepared_too(tmp_path):
    random = np.random.default_rng(0)
    images, kinds = random.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8), np.arange(12) % 5
    data = Dataset("set", images, np.arange(12) % 3, ("a", "b", "c"), attribution="by me", attributes={"labels": kinds})
    made = prepare(lambda pixels: data, tmp_path / "pixels")
    _same(made, data)
    assert (made.attributes["labels"] == kinds).all()
    assert made.attribution == "by me"
    bare = prepare(lambda pixels: Dataset("bare", images), tmp_path / "bare")
    assert (bare.labels, bare.class_names) == (None, ())


def test_images_are_left_out_as_elsewhere(pictures, tmp_path):
    (pictures / "dark" / "00.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"00.png is not a whole image .*--corrupt-limit"):
        _prepared(pictures, tmp_path / "pixels")
    assert list(tmp_path.iterdir()) == [pictures]
    made = _prepared(pictures, tmp_path / "pixels", corrupt_limit=1)
    assert len(made) == 39
    assert made.preparation["left_out"] == [str(pictures / "dark" / "00.png")]


def test_a_full_disk_leaves_nothing(pictures, tmp_path, monkeypatch):
    def refuse(self, image):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PixelFile.__mro__[1], "add", refuse)
    with pytest.raises(InputError, match=r"cannot write .*images.npy: No space left on device"):
        _prepared(pictures, tmp_path / "pixels")
    assert list(tmp_path.iterdir()) == [pictures]


def test_another_folder_is_not_overwritten(pictures, tmp_path):
    _prepared(pictures, tmp_path / "pixels")
    with pytest.raises(InputError, match="exists already"):
        _prepared(pictures, tmp_path / "pixels")
    with pytest.raises(InputError, match="not a folder that this command made"):
        prepare(lambda pixels: open_dataset(pictures, 8), pictures, force=True)


def _cut(folder):
    payload = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(payload[:-100])


def _other_labels(folder):
    np.savez(folder / "labels.npz", labels=np.arange(40)[::-1] % 2)


def _other_pixels(folder):
    payload = bytearray((folder / "images.npy").read_bytes())
    payload[-1] ^= 1
    (folder / "images.npy").write_bytes(payload)


def _objects(folder):
    np.save(folder / "images.npy", np.array([{}]), allow_pickle=True)


def _later_format(folder):
    facts = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(facts | {"format": "sagan-deploy/dataset/2"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "not a whole prepared data set"),
        (_other_labels, "other images or labels than were prepared"),
        (_other_pixels, "other images or labels than were prepared"),
        (_objects, "not a whole prepared data set"),
        (_later_format, "says format 'sagan-deploy/dataset/2'"),
        (lambda folder: (folder / "labels.npz").unlink(), "labels.npz does not exist"),
        (lambda folder: (folder / "labels.npz").write_bytes(b"PK"), "not a whole prepared data set"),
        (lambda folder: (folder / "dataset.json").write_text("[]"), "not a whole prepared data set"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "not a whole prepared data set"),
    ],
)
def test_damage_is_refused(pictures, tmp_path, damage, message):
    _prepared(pictures, tmp_path / "pixels")
    damage(tmp_path / "pixels")
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "pixels", 8)


def test_another_size_is_refused(pictures, tmp_path):
    _prepared(pictures, tmp_path / "pixels")
    with pytest.raises(InputError, match=r"holds images of 8x8 pixels; this preset draws 16x16.*--size 16"):
        open_dataset(tmp_path / "pixels", 16)


@pytest.mark.parametrize("in_file", [False, True])
def test_memory_holds_the_images_once_or_not_at_all(tmp_path, in_file):
    image, count = np.zeros((3, 64, 64), np.uint8), 400
    tracemalloc.start()
    with pixel_store(64, tmp_path / "x.npy" if in_file else None) as store:
        for i in range(count):
            store.add(image + np.uint8(i % 256))
        images = store.images()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.shape == (count, 3, 64, 64)
    assert (images[:, 0, 0, 0] == np.arange(count) % 256).all()
    assert peak < (0.1 if in_file else 1.3) * images.nbytes


def test_of_many_images_some_are_drawn_with_what_belongs_to_them(pictures):
    data = open_dataset(pictures, 8)
    data = Dataset("d", data.images, data.labels, data.class_names, attributes={"number": np.arange(40)})
    some = data.sample(10, seed=3)
    rows = some.attributes["number"]
    assert len(some) == 10
    assert (np.diff(rows) > 0).all()
    assert (some.images == data.images[rows]).all()
    assert (some.labels == data.labels[rows]).all()
    assert (rows != data.sample(10, seed=4).attributes["number"]).any()
    assert data.sample(40) is data


def test_quality_is_measured_on_mapped_images(pictures, tmp_path):
    source, made = open_dataset(pictures, 8), _prepared(pictures, tmp_path / "pixels")

    def draw(z, labels):
        return np.random.default_rng(1).integers(0, 256, (len(z), 8, 8, 3), dtype=np.uint8)

    reports = [
        evaluate_quality(draw, 4, data, train_classifier(data, epochs=1), images_per_class=4) for data in (source, made)
    ]
    assert reports[0] == reports[1]
