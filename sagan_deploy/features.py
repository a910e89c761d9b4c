"""What a network of the user's own sees in images, for distances between distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes
from sagan_deploy.optional import require

Features = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # images [n, c, h, w] in [−1, 1] → [n, d]


@dataclass(frozen=True)
class Extractor:
    """A network's name for reports, and its features and, if it has a second output, class logits [n, k] of images."""

    name: str
    see: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64] | None]]

    def features(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Images [n, c, h, w] in [−1, 1] → [n, d]."""
        return self.see(images)[0]


def extractor_of_file(path: Path) -> Extractor:
    """A network as ONNX.

    Args:
        path: with one input [n, c, h, w], float32 images in [−1, 1], the features [n, d] as first output and, if it
            classifies, logits [n, k] as second. With Inception's, the distances are FID and KID, the score is IS.

    Raises:
        InputError: it is no such file; also from `see`, for images or outputs of another shape.
        MissingError: ONNX Runtime is not installed.
    """
    ort = require("onnxruntime", "onnxruntime")
    payload = read_bytes(path)
    try:
        session = ort.InferenceSession(payload, providers=["CPUExecutionProvider"])
        (name,) = [value.name for value in session.get_inputs()]
    except Exception as error:  # ONNX Runtime's errors share no public base
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is no ONNX feature extractor with one input ({first}).") from error

    def see(images: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        try:
            found: list[NDArray[Any]] = session.run(None, {name: images.astype(np.float32)})[:2]
        except Exception as error:  # as above
            raise InputError(
                f"{path} does not take images of shape {images.shape}, float32 in [-1, 1]: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        for what, output in zip(("features", "logits"), found, strict=False):
            if output.ndim != 2 or len(output) != len(images):
                raise InputError(f"{path} gives {what} of shape {output.shape}; (n, d) is expected, n = {len(images)}.")
        wide = [output.astype(np.float64) for output in found]
        return wide[0], wide[1] if len(wide) > 1 else None

    return Extractor(f"features of {path.name}", see)
