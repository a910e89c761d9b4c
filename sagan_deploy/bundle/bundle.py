"""The folder on disk: open it without trusting it, and finish it so that others can."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from sagan_deploy.bundle.golden import Golden, parse_golden
from sagan_deploy.bundle.manifest import MANIFEST_NAME, Artifact, HashedFile, Manifest, check_path
from sagan_deploy.bundle.readme import README_NAME, render_readme
from sagan_deploy.errors import InputError
from sagan_deploy.files import held_open, read_bytes, sha256, sha256_bytes, sha256_stream, write_text
from sagan_deploy.progress import Progress, silent


class CorruptError(InputError):
    """A file is not what its manifest says. Nothing falls back to another file because of it."""


@dataclass(frozen=True)
class Bundle:
    """An open bundle: its folder and its manifest. Files are read through it, which checks their hashes first."""

    folder: Path
    manifest: Manifest

    def file_path(self, file: Artifact | HashedFile) -> Path:
        """Where a listed file lies; a path that leaves the folder, also through a link, is refused."""
        check_path(file.path)
        path = self.folder
        for part in file.path.split("/"):
            path = path / part
            if path.is_symlink():
                raise InputError(f"{path} is a symbolic link; a bundle holds plain files, so that it stays whole.")
        if not path.is_file():
            raise InputError(f"{self.folder} lacks {file.path}, which its manifest lists. Copy the whole folder again.")
        return path

    def read(self, file: Artifact | HashedFile) -> bytes:
        """The content of a listed file, after its hash was checked.

        Raises:
            InputError: the file is missing or not the one that was put into the bundle.
        """
        payload = read_bytes(self.file_path(file))
        _check_hash(self.folder, file, sha256_bytes(payload))
        return payload

    @contextmanager
    def hold(self, file: Artifact | HashedFile) -> Iterator[BufferedReader]:
        """A listed file held open, after its hash was checked: for one too large to be in memory twice.

        Raises:
            InputError: as `read`.
        """
        with held_open(self.file_path(file)) as stream:
            _check_hash(self.folder, file, sha256_stream(stream))
            yield stream

    def golden(self) -> Golden | None:
        """The golden images, or None when the bundle has none."""
        golden = self.manifest.golden
        return None if golden is None else parse_golden(self.read(golden), self.manifest.generator)

    def verify_hashes(self, progress: Progress = silent) -> int:
        """Check every file that the manifest lists, and return how many they are.

        Raises:
            InputError: a file is missing or differs.
        """
        files = self.manifest.hashed_files
        for done, file in enumerate(files):
            progress("hashes", done, len(files))
            _check_hash(self.folder, file, sha256(self.file_path(file)))
        progress("hashes", len(files), len(files))
        return len(files)


def is_bundle(path: Path) -> bool:
    """Whether `path` is a folder with a manifest."""
    return (path / MANIFEST_NAME).is_file()


def open_bundle(path: Path | str) -> Bundle:
    """Read the manifest of a bundle. Nothing else is read before its hash is checked.

    Raises:
        InputError: no such folder, no manifest in it, or one that cannot be trusted.
    """
    folder = Path(path)
    if not is_bundle(folder):
        what = "has no manifest.json" if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}, so it is no bundle. Make one with: sagan-deploy deploy")
    return Bundle(folder, read_manifest(folder / MANIFEST_NAME))


def read_manifest(path: Path) -> Manifest:
    """A manifest or a plan's sidecar, checked."""
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file ({error.reason} at byte {error.start}).") from error
    return Manifest.from_json(text, str(path))


def sidecar_path(plan: Path) -> Path:
    """Where the manifest of a single plan lies: ``model.plan`` has ``model.plan.json`` beside it."""
    return plan.with_name(plan.name + ".json")


def find_manifest(plan: Path) -> tuple[Manifest, Artifact] | None:
    """The manifest that describes a plan, and its entry: the sidecar, or that of the bundle in which the plan lies.

    Raises:
        InputError: a manifest is there and damaged, or the sidecar describes something else than one plan.
    """
    sidecar = sidecar_path(plan)
    if sidecar.is_file():
        manifest = read_manifest(sidecar)
        if len(manifest.artifacts) != 1 or manifest.artifacts[0].kind != "plan":
            raise InputError(f"{sidecar} must describe one plan; it describes {[a.path for a in manifest.artifacts]}.")
        return manifest, manifest.artifacts[0]
    absolute = plan.absolute()
    for folder in absolute.parents[:3]:
        if is_bundle(folder):
            manifest = open_bundle(folder).manifest
            name = absolute.relative_to(folder).as_posix()
            return next(((manifest, artifact) for artifact in manifest.artifacts if artifact.path == name), None)
    return None


def hashed_file(folder: Path, path: str) -> HashedFile:
    """A file of the folder with its hash, as the manifest lists it."""
    return HashedFile(path, sha256(folder / path))


def finish_bundle(folder: Path, manifest: Manifest) -> Manifest:
    """Write the README and the manifest into a folder that holds everything else, and check the whole.

    Args:
        folder: usually the temporary neighbour of `sagan_deploy.files.new_folder`.
        manifest: all that it lists must lie in the folder already; the README is added to it here.

    Returns:
        The manifest as written.

    Raises:
        InputError: a listed file is missing or has another hash, or an unlisted one lies in the folder.
    """
    write_text(folder / README_NAME, render_readme(manifest))
    manifest = dataclasses.replace(manifest, files=(*manifest.files, hashed_file(folder, README_NAME)))
    write_text(folder / MANIFEST_NAME, manifest.to_json())
    bundle = open_bundle(folder)
    bundle.verify_hashes()
    if extra := unlisted_files(bundle):
        raise InputError(f"{', '.join(extra)} must be listed in the manifest or not lie in the bundle.")
    return manifest


def unlisted_files(bundle: Bundle) -> tuple[str, ...]:
    """Files in the folder that the manifest does not know; nothing reads them."""
    listed = {file.path for file in bundle.manifest.hashed_files} | {MANIFEST_NAME}
    found = (p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if not p.is_dir())
    return tuple(sorted(set(found) - listed))


def _check_hash(folder: Path, file: Artifact | HashedFile, found: str) -> None:
    if found != file.sha256:
        raise CorruptError(
            f"{folder / file.path} is not the file that was put into the bundle: its SHA-256 is {found[:16]}…, "
            f"the manifest says {file.sha256[:16]}…. Copy the bundle again."
        )
