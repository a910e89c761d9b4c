"""Features of images from a network of the user's own, for distances between distributions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.files import read_bytes
from sagan_deploy.optional import require

Features = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # images [n, c, h, w] in [−1, 1] → [n, d]


def features_of_file(path: Path) -> tuple[str, Features]:
    """What an ONNX file sees in images, and its name for reports.

    Args:
        path: with one input [n, c, h, w], float32 images in [−1, 1], and the features [n, d] as first output. An
            Inception network makes distances between them FID and KID.

    Raises:
        InputError: it is no such file; also from the function, for images or features of another shape.
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

    def extract(images: NDArray[np.float64]) -> NDArray[np.float64]:
        try:
            found: NDArray[Any] = session.run(None, {name: images.astype(np.float32)})[0]
        except Exception as error:  # as above
            raise InputError(
                f"{path} does not take images of shape {images.shape}, float32 in [-1, 1]: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        if found.ndim != 2 or len(found) != len(images):
            raise InputError(f"{path} gives features of shape {found.shape}; (n, d) is expected, n = {len(images)}.")
        return found.astype(np.float64)

    return f"features of {path.name}", extract
