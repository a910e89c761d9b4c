"""The disk: whole files or nothing, and hashes. Every write of this package goes through here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import IO

from sagan_deploy.errors import InputError


def sha256(path: Path) -> str:
    """The SHA-256 of a file as 64 lower-case hexadecimal digits."""
    with held_open(path) as stream:
        return sha256_stream(stream)


def sha256_bytes(payload: bytes) -> str:
    """The SHA-256 of bytes in memory as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(payload).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The whole file, or an `InputError` that names it."""
    with _readable(path):
        return path.read_bytes()


@contextlib.contextmanager
def held_open(path: Path) -> Iterator[BufferedReader]:
    """The file as it is now, or an `InputError`: another one that is renamed to `path` meanwhile changes nothing."""
    with _readable(path):
        stream = path.open("rb")
    with stream:
        yield stream


def sha256_stream(stream: BufferedReader) -> str:
    """The SHA-256 of an open file, from its beginning, as 64 lower-case hexadecimal digits."""
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def path_of(stream: BufferedReader) -> Path:
    """A path for libraries that want one: on Linux one that opens the very file that is held open, else its name."""
    same = Path(f"/proc/self/fd/{stream.fileno()}")
    return same if same.exists() else Path(stream.name)


def write_bytes(path: Path, payload: bytes | memoryview) -> Path:
    """Replace `path` by `payload` in one step: readers see the old file or the new one, never a half.

    Raises:
        InputError: the folder is missing, read-only or full; the old file is still whole then.
    """
    with replacing(path) as stream:
        stream.write(payload)
    return Path(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Fill a temporary neighbour of `path`, also by its name; it takes the place in one step when the block succeeds.

    An exception (Ctrl-C included) removes the neighbour and leaves `path` as it was.

    Raises:
        InputError: the folder is missing, read-only or full; the old file is still whole then.
    """
    path = Path(path)
    temporary = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
                temporary = Path(stream.name)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode())


def remove(path: Path) -> None:
    """Delete a file; that it is not there is fine.

    Raises:
        InputError: the disk refuses.
    """
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path}: {error.strerror or error}.") from error


def keep_as(path: Path, second: Path) -> Path:
    """Give a file that will be replaced a second name under which it stays; does nothing where that one exists.

    Raises:
        InputError: the disk refuses.
    """
    if second.exists():
        return second
    try:
        second.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, second)  # costs no space; not every file system has it
    except OSError:
        write_bytes(second, read_bytes(path))
    return second


@contextlib.contextmanager
def new_folder(path: Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """Fill a temporary neighbour of `path` and rename it into place when the block succeeds.

    An exception (Ctrl-C included) removes the neighbour and leaves `path` as it was.

    Args:
        path: the folder that appears at the end.
        marker: the file that every folder of this kind holds, for example ``"manifest.json"``.
        force: replace an existing folder of this kind; without it an existing one is refused at once.

    Raises:
        InputError: `path` exists and `force` is not set, or the disk refuses.
    """
    path = Path(path)
    refuse_existing(path, marker=marker, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        neighbour = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        neighbour.chmod(0o777 & ~_umask())
    except OSError as error:
        raise InputError(f"cannot create {path}: {error.strerror or error}. Choose another --out.") from error
    try:
        yield neighbour
        _swap(neighbour, path, force=force)
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses in this block, or has no room for, becomes an `InputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}. Choose another --out.") from error


def new_file(path: Path) -> BufferedRandom:
    """A file to fill piece by piece, each within `writing`; for a `new_folder`, which appears when all is done.

    Raises:
        InputError: it exists, or the disk refuses.
    """
    with writing(path):
        return path.open("x+b")


def refuse_existing(path: Path, *, marker: str, force: bool) -> None:
    """Stop before any work is done when the output folder exists already and may not be replaced.

    ``force`` replaces a folder that holds `marker`, or an empty one, and never anything else: a slip in
    ``--out`` must not delete somebody's home.
    """
    path = Path(path)
    if not path.exists():
        return
    if not force:
        raise InputError(f"{path} exists already. Choose another --out, or replace it with --force.")
    if not path.is_dir() or (any(path.iterdir()) and not (path / marker).is_file()):
        raise InputError(f"{path} is not a folder that this command made (it has no {marker}), so it is not replaced.")


def refuse_existing_file(path: Path, *, force: bool) -> None:
    """Stop before any work is done when the output file exists already and may not be replaced."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; --out must name a file.")
    if path.exists() and not force:
        raise InputError(f"{path} exists already. Choose another --out, or replace it with --force.")


def _swap(new: Path, path: Path, *, force: bool) -> None:
    # Two runs may finish at once: the loser's rename fails because the folder is not empty, and says so.
    retired = None
    try:
        if force and path.exists():
            retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old.")) / "old"
            path.rename(retired)
        new.rename(path)
    except OSError as error:
        if retired is not None and retired.exists() and not path.exists():
            retired.rename(path)
        raise InputError(f"cannot put {path} in place: {error.strerror or error}.") from error
    finally:
        if retired is not None:
            shutil.rmtree(retired.parent, ignore_errors=True)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error


def _umask() -> int:
    # The mask can only be read by setting it; 0o022 is what nearly every system has.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
