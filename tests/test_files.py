"""Whole files or nothing."""

import os

import pytest

from sagan_deploy.errors import InputError
from sagan_deploy.files import new_folder, remove, sha256, sha256_bytes, write_bytes


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_write_replaces_the_whole_file(tmp_path):
    path = write_bytes(tmp_path / "new" / "file", b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert sha256(path) == sha256_bytes(b"two")
    assert not leftovers(path.parent)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "file", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_an_output_that_cannot_be_a_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_bytes(tmp_path / "file" / "inside", b"")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_folder_appears_whole_or_not_at_all(tmp_path, error):
    with pytest.raises(error), new_folder(tmp_path / "out", marker="m") as folder:
        (folder / "half").write_text("")
        raise error
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out", marker="m") as folder:
        (folder / "m").write_text("")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]


def test_only_a_folder_of_ours_is_replaced_and_only_by_force(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists already"), new_folder(home, marker="m"):
        pass
    with (
        pytest.raises(InputError, match="not a folder that this command made"),
        new_folder(home, marker="m", force=True),
    ):
        pass
    assert (home / "thesis.tex").read_text() == "years of work"
    (home / "m").write_text("")
    with new_folder(home, marker="m", force=True) as folder:
        (folder / "m").write_text("new")
    assert [p.name for p in home.iterdir()] == ["m"]
    assert not leftovers(tmp_path)


def test_two_at_once_do_not_mix(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="cannot put"), new_folder(out, marker="m") as first:
        (first / "m").write_text("first")
        with new_folder(out, marker="m") as second:
            (second / "m").write_text("second")
    assert (out / "m").read_text() == "second"
    assert not leftovers(tmp_path)


def test_remove(tmp_path):
    path = write_bytes(tmp_path / "a", b"1")
    remove(path)
    remove(path)
    assert not path.exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot remove"):
        remove(tmp_path / "folder")
