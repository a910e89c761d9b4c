"""Draw images from whatever holds a generator (checkpoint, ONNX model, plan, bundle) and put them on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import new_folder, refuse_existing, write_bytes, write_text
from sagan_deploy.filetypes import detect
from sagan_deploy.images import encode_png, grid, to_uint8
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import RuntimeGenerator, load
from sagan_deploy.runtime.contract import Contract
from sagan_deploy.runtime.loading import BackendName

INDEX_NAME = "images.json"
_PART = 64  # images between two steps of the progress bar


@dataclass(frozen=True)
class Drawing:
    """Images [n, h, w, 3] uint8, what they were drawn from and what drew them."""

    images: NDArray[np.uint8]
    z: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    seed: int
    start: int
    choice: str
    rejected: tuple[str, ...]


def open_generator(
    path: Path | str, *, backend: BackendName = "auto", device: str | None = None, threads: int | None = None
) -> RuntimeGenerator:
    """`sagan_deploy.runtime.load`, and checkpoints as well, which run in PyTorch on the CPU.

    Raises:
        InputError, MissingError, ConfigError: as `load`.
    """
    if detect(path) != "checkpoint":
        return load(path, backend=backend, device=device, threads=threads)
    if backend != "auto" or device not in (None, "cpu"):
        raise ConfigError(
            f"a checkpoint runs in PyTorch on the CPU, not with backend {backend!r} and device {device!r}"
        )
    return _open_checkpoint(Path(path), threads)


def draw(
    path: Path | str,
    count: int,
    *,
    seed: int = 0,
    classes: Sequence[int | str] | None = None,
    truncation: float | None = None,
    start: int = 0,
    backend: BackendName = "auto",
    device: str | None = None,
    progress: Progress = silent,
) -> Drawing:
    """Draw images of a seed. The same seed gives the same images from every file made of one checkpoint.

    Args:
        path: checkpoint, ONNX model, plan or bundle.
        count: how many images, at least 1.
        seed: 0 ≤ seed < 2⁶⁴.
        classes: numbers or names, taken in turn; None draws them.
        truncation: redraw latents whose magnitude exceeds it.
        start: index of the first image of the seed.
        backend: as in `sagan_deploy.runtime.load`.
        device: as in `sagan_deploy.runtime.load`.
        progress: told how many images are done.

    Raises:
        InputError: the file or a class is wrong, or the images hold NaN.
        ConfigError: a number is out of range.
        MissingError: this machine lacks what the file needs.
    """
    if count < 1:
        raise ConfigError(f"count (={count}) must be at least 1")
    with open_generator(path, backend=backend, device=device) as generator:
        z, labels = generator.sample_inputs(count, seed, classes, truncation, start)
        parts = []
        for low in range(0, count, _PART):
            progress("generate", low, count)
            part = slice(low, low + _PART)
            images = generator(z[part], None if labels is None else labels[part])
            if not np.isfinite(images).all():
                raise InputError(
                    f"{generator.artifact} draws NaN or infinite values: its weights or its precision are bad."
                )
            parts.append(images if images.dtype == np.uint8 else to_uint8(images.astype(np.float32)))
        progress("generate", count, count)
        return Drawing(
            np.concatenate(parts), z, labels, generator.class_names, seed, start,
            generator.choice, tuple(map(str, generator.rejected)),
        )  # fmt: skip


def output_form(out: Path) -> Literal["grid", "arrays", "folder"]:
    """What `save_drawing` writes: ``.png`` one grid, ``.npz`` arrays, no suffix a folder of single images.

    Raises:
        ConfigError: another suffix.
    """
    forms: dict[str, Literal["grid", "arrays", "folder"]] = {".png": "grid", ".npz": "arrays", "": "folder"}
    if out.is_dir():
        return "folder"
    if out.suffix.lower() not in forms:
        raise ConfigError(f"--out (={out}) must end in .png (a grid), in .npz (arrays) or be a folder (single images)")
    return forms[out.suffix.lower()]


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written before anything is drawn.

    Raises:
        ConfigError: another suffix than `output_form` knows.
        InputError: it exists already and may not be replaced.
    """
    if output_form(out) == "folder":
        refuse_existing(out, marker=INDEX_NAME, force=force)
    elif out.exists() and not force:
        raise InputError(f"{out} exists already. Choose another --out, or replace it with --force.")


def save_drawing(drawing: Drawing, out: Path, *, columns: int | None = None, force: bool = False) -> list[Path]:
    """Write the images in the form that the name of `out` asks for, whole or not at all.

    Args:
        drawing: the images.
        out: see `output_form`.
        columns: images per row of a grid; None makes it about square.
        force: replace what is there.

    Returns:
        The files written.
    """
    check_output(out, force=force)
    form = output_form(out)
    if form == "grid":
        side = columns or max(1, round(len(drawing.images) ** 0.5))
        return [write_bytes(out, encode_png(grid(drawing.images, side)))]
    if form == "arrays":
        return [write_bytes(out, _arrays(drawing))]
    entries = [_entry(drawing, i) for i in range(len(drawing.images))]
    with new_folder(out, marker=INDEX_NAME, force=force) as folder:
        for entry, image in zip(entries, drawing.images, strict=True):
            write_bytes(folder / entry["file"], encode_png(image))
        write_text(folder / INDEX_NAME, json.dumps({"seed": drawing.seed, "images": entries}, indent=2) + "\n")
    return [out / entry["file"] for entry in entries]


def _entry(drawing: Drawing, i: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": f"{drawing.start + i:06d}.png", "index": drawing.start + i}
    if drawing.labels is not None:
        label = int(drawing.labels[i])
        entry |= {"label": label} | ({"class": drawing.class_names[label]} if drawing.class_names else {})
    return entry


def _arrays(drawing: Drawing) -> bytes:
    arrays: dict[str, NDArray[Any]] = {"images": drawing.images, "z": drawing.z}
    if drawing.labels is not None:
        arrays["labels"] = drawing.labels
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


class _TorchBackend:
    name = "pytorch-cpu"
    max_batch = 16

    def __init__(self, network: Any) -> None:
        self._network = network

    def run(self, z: NDArray[Any], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        import torch

        with torch.inference_mode():
            images = self._network(torch.from_numpy(z), None if labels is None else torch.from_numpy(labels))
        result: NDArray[Any] = images.numpy()
        return result

    def close(self) -> None:
        self._network = None


def _open_checkpoint(path: Path, threads: int | None) -> RuntimeGenerator:
    from sagan_deploy.checkpoints.native import load_checkpoint

    checkpoint = load_checkpoint(path)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    float32 = np.dtype(np.float32)
    contract = Contract(checkpoint.config, checkpoint.class_names, "fp32", "float", float32, float32)
    return RuntimeGenerator(contract, _TorchBackend(checkpoint.generator().float()), artifact=path.name)
