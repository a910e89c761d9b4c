"""A folder of images, or a .zip of one: every sub-folder is a class."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath

from sagan_deploy.errors import InputError
from sagan_deploy.training.data.collect import Picture, Reading, collect
from sagan_deploy.training.data.dataset import Dataset

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_folder(folder: Path, how: Reading) -> Dataset:
    """Read all images below `folder`; classes are its sub-folders in alphabetical order.

    Every image is scaled so that its shorter side fits and cut to the square in its middle. Without sub-folders the
    images have no labels.

    Raises:
        InputError: there are no images, too many of them cannot be decoded, or images lie both beside and in
            sub-folders.
    """
    # Sorted, because the order of a directory differs between file systems and the run must not.
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = _sorted_into_classes([PurePosixPath(path) for path in found], str(folder))
    pictures = (Picture(folder / file, label, str(folder / file)) for file, label in files)
    return collect(folder.name, pictures, how, len(files))


def load_zip(path: Path, how: Reading) -> Dataset:
    """The same for a zip archive, which is read without being unpacked. One folder around everything is looked through.

    Raises:
        InputError: not a whole archive, or as `load_folder`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
            members = [member for member in members if member.parts[0] != "__MACOSX"]
            around = _common_folder(members)
            files = _sorted_into_classes([member.relative_to(around) for member in members], str(path))
            pictures = (
                Picture(io.BytesIO(archive.read(str(around / file))), label, f"{path}/{around / file}")
                for file, label in files
            )
            return collect(path.stem, pictures, how, len(files))
    except (
        OSError,
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:  # encrypted, for example
        raise InputError(f"{path} is not a whole .zip of images ({error}). Make it again.") from error


def _sorted_into_classes(files: list[PurePosixPath], place: str) -> list[tuple[PurePosixPath, str | None]]:
    """Image files in order, each with the name of its class: the first folder of its path."""
    images = sorted(
        file
        for file in files
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.parts[0].startswith(".")
    )
    loose = [file for file in images if len(file.parts) == 1]
    if loose and len(loose) < len(images):
        raise InputError(
            f"{place} holds images both directly ({loose[0].name}) and in sub-folders. Sort them into classes."
        )
    if not images:
        raise InputError(f"{place} holds no images ({' '.join(SUFFIXES)}), neither directly nor in sub-folders.")
    return [(file, None if loose else file.parts[0]) for file in images]


def _common_folder(members: list[PurePosixPath]) -> PurePosixPath:
    # "pictures/red/1.png" and so on: an archive of a folder has it around everything. Classes lie below.
    first = {member.parts[0] for member in members}
    deep = all(len(member.parts) > 2 for member in members)
    return PurePosixPath(first.pop()) if len(first) == 1 and deep else PurePosixPath()
