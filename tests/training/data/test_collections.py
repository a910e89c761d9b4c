"""Archives, shards and saved data sets hold the same images as the folder they were made of."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.training.data import open_dataset
from sagan_deploy.training.data.batches import BalancedOrder, Batches
from sagan_deploy.training.data.dataset import Dataset, without_classes


def _png(colour, size=(9, 6)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


PICTURES = {
    "red/a.png": _png((250, 1, 2)), "red/b.png": _png((200, 1, 2)), "blue/c.png": _png((1, 2, 250)),
    "blue/deep/d.png": _png((1, 2, 200)),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, content in PICTURES.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return open_dataset(tmp_path / "pictures", 4)


def _same(data, folder):
    assert data.class_names == folder.class_names == ("blue", "red")
    order = [sorted(zip(d.labels.tolist(), d.images.reshape(4, -1).tolist(), strict=True)) for d in (data, folder)]
    assert order[0] == order[1]


@pytest.mark.parametrize("around", ["", "pictures/"])
def test_a_zip_is_its_folder(tmp_path, folder, around):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, content in PICTURES.items():
            archive.writestr(around + name, content)
        archive.writestr(f"{around}red/notes.txt", "no image")
        archive.writestr("__MACOSX/red/._a.png", "no image")
    data = open_dataset(tmp_path / "set.zip", 4)
    _same(data, folder)
    assert (data.name, data.source) == ("set", str((tmp_path / "set.zip").resolve()))
    assert data.preparation == folder.preparation
    assert data.preparation["preparation"]["crop"] == "middle square"


def test_a_zip_that_is_not_whole(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"set.zip is not a whole .zip"):
        open_dataset(tmp_path / "set.zip", 4)


def _shard(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_shards_are_their_folder(tmp_path, folder):
    pytest.importorskip("webdataset", reason="needs the package webdataset")
    samples = [
        [(f"{i}.png", content), (f"{i}.cls", name.split("/")[0].encode())]
        for i, (name, content) in enumerate(PICTURES.items())
    ]
    _shard(tmp_path / "set-000.tar", [*samples[0], *samples[1]])
    _shard(tmp_path / "set-001.tar", [*samples[2], *samples[3]])
    pattern = str(tmp_path / "set-{000..001}.tar")
    data = open_dataset(pattern, 4)
    _same(data, folder)
    assert data.source == pattern
    with pytest.raises(InputError, match=r"there is no shard .*set-002.tar \(1 of 3 missing\)"):
        open_dataset(str(tmp_path / "set-{000..002}.tar"), 4)
    (tmp_path / "set-001.tar").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"set-001.tar is not a whole .tar"):
        open_dataset(pattern, 4)


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    for library, data in (("webdataset", tmp_path / "set-000.tar"), ("datasets", "huggingface:mnist")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingError, match=rf"pip install 'sagan-deploy\[{library}\]'"):
            open_dataset(data, 4)


@pytest.fixture
def saved(tmp_path):
    """The pictures as a data set of Hugging Face, saved to disk: two splits, the second without its classes."""
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    names = ("blue", "red")
    columns = {
        "picture": [{"bytes": content, "path": None} for content in PICTURES.values()],
        "colour": [names.index(name.split("/")[0]) for name in PICTURES],
        "note": ["x"] * len(PICTURES),
    }
    kinds = datasets.Features(
        picture=datasets.Image(), colour=datasets.ClassLabel(names=list(names)), note=datasets.Value("string")
    )
    rows = datasets.Dataset.from_dict(columns, features=kinds)
    splits = {"train": rows, "bare": rows.remove_columns("colour"), "words": rows.select_columns("note")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "hub")
    return f"huggingface:{tmp_path / 'hub'}"


def test_a_data_set_of_hugging_face_is_its_folder(saved, folder):
    data = open_dataset(saved, 4)
    _same(data, folder)
    assert data.source == saved
    bare = open_dataset(saved + "@bare", 4)
    assert (bare.num_classes, len(bare)) == (0, len(folder))


def test_data_sets_of_hugging_face_that_will_not_do(saved, tmp_path, monkeypatch):
    import datasets

    with pytest.raises(InputError, match=r"has the columns note; none of them holds images"):
        open_dataset(saved + "@words", 4)
    with pytest.raises(InputError, match=r"@test cannot be loaded .*NAME@SPLIT"):
        open_dataset(saved + "@test", 4)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing cannot be loaded"):
        open_dataset("huggingface:nobody/nothing", 4)


def test_a_broken_image_of_hugging_face_is_named_by_its_row(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    contents = [PICTURES["red/a.png"], PICTURES["red/a.png"][:40]]
    columns = {"image": [{"bytes": content, "path": None} for content in contents]}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(image=datasets.Image()))
    rows.save_to_disk(tmp_path / "hub")
    with pytest.raises(InputError, match=r"hub, row 1 is not a whole image"):
        open_dataset(f"huggingface:{tmp_path / 'hub'}", 4)
    data = open_dataset(f"huggingface:{tmp_path / 'hub'}", 4, corrupt_limit=1)
    assert (len(data), len(data.preparation["left_out"])) == (1, 1)


def test_corrupt_images_are_counted_named_and_left_out_up_to_a_limit(tmp_path, folder):
    for name in ("red/x.png", "blue/y.png"):
        (tmp_path / "pictures" / name).write_bytes(PICTURES["red/a.png"][:40])
    with pytest.raises(InputError, match=r"blue/y.png is not a whole image.*--corrupt-limit N"):
        open_dataset(tmp_path / "pictures", 4)
    with pytest.raises(InputError, match=r"2 images cannot be read.*limit 1: .*y.png, .*x.png"):
        open_dataset(tmp_path / "pictures", 4, corrupt_limit=1)
    data = open_dataset(tmp_path / "pictures", 4, corrupt_limit=2)
    _same(data, folder)
    assert [name.rsplit("/", 1)[1] for name in data.preparation["left_out"]] == ["y.png", "x.png"]
    assert data.fingerprint() == folder.fingerprint()


def test_balanced_batches_show_every_class_equally_often():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 7, np.int64)
    order = BalancedOrder(labels, 6, seed=4)
    rows = np.concatenate([order.rows(i) for i in range(70)])
    assert np.bincount(labels[rows]).tolist() == [140, 140, 140]
    small, large = (np.bincount(rows, minlength=60)[labels == c] for c in (1, 0))
    assert (small.max() - small.min() <= 1, large.max() - large.min() <= 1) == (True, True)
    again = BalancedOrder(labels, 6, seed=4)
    assert np.array_equal(again.rows(30), rows[180:186])  # by number, whatever was asked before
    assert not np.array_equal(BalancedOrder(labels, 6, seed=5).rows(0), rows[:6])


def test_the_rows_of_two_processes_are_the_rows_of_one():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)  # no image is its own mirror image
    data = Dataset("noise", images, np.arange(12, dtype=np.int64) % 2, ("a", "b"))
    whole = Batches(data, 4, seed=1, flip=True, balanced=True)
    parts = [Batches(data, 4, seed=1, flip=True, balanced=True, rows=part) for part in (slice(0, 2), slice(2, 4))]
    for index in range(8):
        images, labels = whole.batch(index)
        for i, part in enumerate(parts):
            some, their = part.batch(index)
            assert np.array_equal(some, images[2 * i : 2 * i + 2])
            assert np.array_equal(their, labels[2 * i : 2 * i + 2])


def test_classes_can_be_ignored(folder):
    bare = without_classes(folder)
    assert (bare.num_classes, bare.labels, len(bare)) == (0, None, 4)
