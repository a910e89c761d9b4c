"""Robots composed at run time from the hand-drawn parts that ship in the `robohash` package; class = colour.

Set 1 has ten colours and for each of them ten bodies, faces, eyes, mouths and accessories: a hundred thousand robots
per colour. The parts are layers of one size, laid over each other in the order that the names of their folders say.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.dataset import Dataset

ATTRIBUTION = "Robots: robohash.org set 1, artwork by Zikri Kader, CC BY 4.0"
ROBOTS_PER_COLOUR = 400
_SEED = 1805  # fixed, so that "robots" names one set of images
_BODY = "01Body"
_BACKGROUND = np.array([247, 247, 250], np.float32)  # light, and yet apart from the white robots
_SUPERSAMPLING = 2


def compose_robots(image_size: int, *, per_colour: int = ROBOTS_PER_COLOUR, progress: Progress = silent) -> Dataset:
    """The same `per_colour` robots of each colour on every machine, with the number of their body as an attribute.

    Raises:
        MissingError: the package `robohash` is not installed.
        InputError: the installed package has another layout than version 2.0.
    """
    root = _art_folder()
    colours = sorted(p.name for p in root.iterdir() if p.is_dir())
    images = np.empty((len(colours), per_colour, 3, image_size, image_size), np.uint8)
    bodies = np.empty((len(colours), per_colour), np.int64)
    for i, colour in enumerate(colours):
        layers = _read_layers(root / colour, image_size * _SUPERSAMPLING)
        # A stream per colour: the robots of one colour do not depend on how many the others have.
        choices = np.random.default_rng([_SEED, i])
        picks = {name: choices.integers(len(parts), size=per_colour) for name, parts in layers.items()}
        images[i] = _compose(layers, picks)
        bodies[i] = picks[_BODY]
        progress("compose robots", (i + 1) * per_colour, len(colours) * per_colour)
    labels = np.repeat(np.arange(len(colours), dtype=np.int64), per_colour)
    flat = images.reshape(-1, 3, image_size, image_size)
    return Dataset("robots", flat, labels, tuple(colours), ATTRIBUTION, {"body": bodies.reshape(-1)})


def _art_folder() -> Path:
    spec = find_spec("robohash")
    if spec is None or spec.origin is None:
        raise MissingError(
            "the robots come with the package 'robohash', which is not installed. "
            "Install it with: pip install 'sagan-deploy[quickstart]'"
        )
    folder = Path(spec.origin).parent / "sets" / "set1"
    if not folder.is_dir():
        raise InputError(
            f"the installed robohash has no {folder}; version 2.0 is known to work: pip install robohash==2.0"
        )
    return folder


def _read_layers(colour: Path, size: int) -> dict[str, NDArray[np.float32]]:
    """Layer name to its parts [k, size, size, 4], premultiplied by their alpha, in the order of laying them down."""
    from PIL import Image

    layers: dict[str, NDArray[np.float32]] = {}
    # "003#01Body" is drawn in the order of the second part of its name: 01Body, 02Face, Accessory, Eyes, Mouth.
    for folder in sorted((p for p in colour.iterdir() if p.is_dir()), key=lambda p: p.name.partition("#")[2]):
        # "007#blue_body-06.png": the last number is the shape, and the same one in every colour.
        files = sorted(folder.glob("*.png"), key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1]))
        parts = []
        for file in files:
            with Image.open(file) as opened:
                # RGBa is premultiplied: only so can colours be averaged across the edge of a part.
                parts.append(np.asarray(opened.convert("RGBa").resize((size, size), Image.Resampling.BOX), np.float32))
        if parts:
            layers[folder.name.partition("#")[2]] = np.stack(parts)
    if _BODY not in layers:
        raise InputError(f"{colour} has no layer {_BODY}; robohash 2.0 is known to work: pip install robohash==2.0")
    return layers


def _compose(layers: dict[str, NDArray[np.float32]], picks: dict[str, NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Lay the picked parts over the background: Porter and Duff's "over", out = part + (1 − α)·below."""
    count, size = len(picks[_BODY]), layers[_BODY].shape[1]
    picture = np.broadcast_to(_BACKGROUND, (count, size, size, 3)).copy()
    for name, parts in layers.items():
        part = parts[picks[name]]
        picture *= 1.0 - part[..., 3:] / 255.0
        picture += part[..., :3]
    small = size // _SUPERSAMPLING
    averaged = picture.reshape(count, small, _SUPERSAMPLING, small, _SUPERSAMPLING, 3).mean(axis=(2, 4))
    images: NDArray[np.uint8] = np.rint(averaged.clip(0, 255)).astype(np.uint8).transpose(0, 3, 1, 2)
    return images
