"""An import held against pictures of the original code, and the setting that explains a difference.

The user saves latents, labels and images of the original once (float64, evaluation mode, the first forward pass after
loading). Everything here is float64, where a right import agrees to about 1e-13 and any other reading of it shows.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sagan_deploy.checkpoints.importing import ImportedCheckpoint, OpenedCheckpoint, OwnCheckpoint, translate
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.checkpoints.settings import SETTINGS, Value
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes
from sagan_deploy.progress import Progress, silent

TOLERANCE = 1e-6  # of the images' peak; images kept in float32 are 4e-8 off by themselves
_ROWS = 2  # how many images an alternative is tried on
_FLOAT32 = 1e-3  # what a float32 run of the original is at most away from a float64 one


@dataclass(frozen=True)
class Examples:
    """What the original drew: z [n, z_dim], labels [n] or None, images [n, c, h, w] in [−1, 1]."""

    z: NDArray[np.float64]
    labels: NDArray[np.int64] | None
    images: NDArray[np.float64]


@dataclass(frozen=True)
class Alternative:
    """Other settings, and the error that the import would have with them."""

    settings: dict[str, Value]
    error: float

    @property
    def fits(self) -> bool:
        """Whether these settings draw the original's pictures."""
        return self.error <= TOLERANCE


@dataclass(frozen=True)
class Proof:
    """`error` is the largest difference of any pixel over the peak of the original's images.

    `alternatives` were tried because the import failed, the best first.
    """

    error: float
    images: int
    alternatives: tuple[Alternative, ...] = ()

    @property
    def passed(self) -> bool:
        """Within the tolerance; NaN is not."""
        return self.error <= TOLERANCE

    def sentence(self) -> str:
        """The verdict in words, with the likely cause of a failure."""
        measured = f"{self.error:.1e} of the peak over {self.images} images (limit {TOLERANCE:.0e})"
        if self.passed:
            return f"the import draws the original's pictures: {measured}, float64"
        text = f"the import does not draw the original's pictures: {measured}"
        best = self.alternatives[0] if self.alternatives else None
        if best is not None and best.fits:
            options = " ".join(f"--set {name}={value}" for name, value in best.settings.items())
            return f"{text}. It fits with {options} ({best.error:.1e})"
        tried = f"none of {len(self.alternatives)} other settings fits"
        if best is not None and best.error < self.error / 10:
            tried += f"; nearest is {' '.join(f'{n}={v}' for n, v in best.settings.items())} ({best.error:.1e})"
        hint = (
            "; were the images computed in float32? Run the original with .double()"
            if min(self.error, best.error if best is not None else self.error) < _FLOAT32
            else "; check that z, labels and images belong together: evaluation mode, first forward pass after loading"
        )
        return f"{text}; {tried}{hint}"


def read_examples(path: Path, config: GeneratorConfig) -> Examples:
    """An .npz with z, labels (for conditional generators) and images.

    Raises:
        InputError: not such a file, or arrays that do not belong to this generator.
    """
    payload = read_bytes(path)
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path} is not a whole .npz archive of plain arrays, as numpy.savez writes it.") from error
    wanted = {"z", "images"} | ({"labels"} if config.conditional else set())
    if missing := sorted(wanted - set(arrays)):
        raise InputError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}.")
    z, images = arrays["z"], arrays["images"]
    count = len(z) if z.ndim else 0
    shapes = {"z": (count, config.z_dim), "labels": (count,), "images": (count, *_image_shape(config))}
    for name in sorted(wanted):
        if arrays[name].shape != shapes[name] or not count:
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}; expected {shapes[name]} with n from 1.")
    for name in ("z", "images"):
        if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: {name} must be finite floating-point numbers, not {arrays[name].dtype}.")
    labels = _labels(path, arrays["labels"], config) if config.conditional else None
    if np.abs(images).max() > 1.0 or not np.abs(images).max():
        raise InputError(f"{path}: images must lie in [-1, 1], as the network draws them, and not be all zero.")
    return Examples(z.astype(np.float64), labels, images.astype(np.float64))


def prove(
    opened: OpenedCheckpoint | OwnCheckpoint,
    imported: ImportedCheckpoint,
    examples: Examples,
    *,
    progress: Progress = silent,
) -> Proof:
    """Hold an import against the original's pictures; when it fails, try what else the file could have meant.

    `opened` is what `imported` was translated from.
    """
    error = _error(_draw(imported.checkpoint, examples), examples)
    if error <= TOLERANCE or isinstance(opened, OwnCheckpoint):
        return Proof(error, len(examples.z))
    few = Examples(
        examples.z[:_ROWS], None if examples.labels is None else examples.labels[:_ROWS], examples.images[:_ROWS]
    )
    return Proof(error, len(examples.z), _alternatives(opened, imported, few, progress))


def _alternatives(
    opened: OpenedCheckpoint, imported: ImportedCheckpoint, examples: Examples, progress: Progress
) -> tuple[Alternative, ...]:
    """One setting changed; if none fits, two at once."""
    report = imported.report
    current = {**{name: value for name, (value, _) in report.assumed.items()}, **report.configured, **report.given}
    changes = [
        {name: value}
        for name, value in current.items()
        for value in SETTINGS[name].alternatives
        if value != current[name]
    ]
    few = [change for change in changes if not ({"truncation", "final_norm_eps", "activation_slope"} & set(change))]
    pairs = [a | b for a, b in itertools.combinations(few, 2) if not set(a) & set(b)]
    tried: list[Alternative] = []
    for stage in (changes, pairs):
        for number, change in enumerate(stage):
            progress("what else it could be", number, len(stage))
            error = _error_with(opened, {**report.configured, **report.given, **change}, examples)
            if error is not None:
                tried.append(Alternative(change, error))
                if tried[-1].fits:
                    return tuple(sorted(tried, key=lambda alternative: alternative.error))
        progress("what else it could be", len(stage), len(stage))
    return tuple(sorted(tried, key=lambda alternative: alternative.error))


def _error_with(opened: OpenedCheckpoint, settings: Mapping[str, Value], examples: Examples) -> float | None:
    try:
        return _error(_draw(translate(opened, settings).checkpoint, examples), examples)
    except (ConfigError, InputError):
        return None  # this file cannot have meant that


def _draw(checkpoint: Checkpoint, examples: Examples) -> NDArray[np.float64]:
    generator = checkpoint.generator().double()
    drawn = []
    with torch.inference_mode():
        for row in range(len(examples.z)):
            labels = None if examples.labels is None else torch.from_numpy(examples.labels[row : row + 1])
            drawn.append(generator(torch.from_numpy(examples.z[row : row + 1]), labels).numpy())
    return np.concatenate(drawn)


def _error(drawn: NDArray[np.float64], examples: Examples) -> float:
    difference = np.abs(drawn - examples.images).max()
    return float(difference / np.abs(examples.images).max()) if np.isfinite(difference) else float("inf")


def _labels(path: Path, labels: NDArray[Any], config: GeneratorConfig) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= config.num_classes:
        raise InputError(f"{path}: labels must be whole numbers from 0 to {config.num_classes - 1}.")
    return labels.astype(np.int64)


def _image_shape(config: GeneratorConfig) -> tuple[int, int, int]:
    return config.image_channels, config.image_size, config.image_size
