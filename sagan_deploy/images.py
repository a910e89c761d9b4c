"""Arrays of images: to 8 bits, into one picture, into PNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit images with channels last, rounded half to even as ONNX does.

    Args:
        images: [n, 3, h, w] in [−1, 1]; what lies outside is cut off.

    Returns:
        [n, h, w, 3].
    """
    codes = np.rint(np.clip(images, -1.0, 1.0) * 127.5 + 127.5)
    return np.ascontiguousarray(codes.astype(np.uint8).transpose(0, 2, 3, 1))


def grid(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """One picture of many, row by row; places that are left over stay black.

    Args:
        images: [n, h, w, 3].
        columns: images per row, at least 1.

    Returns:
        [rows·h, columns·w, 3], with no more columns than images.
    """
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    padded = np.zeros((rows * columns, height, width, channels), np.uint8)
    padded[:count] = images
    tiles = padded.reshape(rows, columns, height, width, channels)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A picture [h, w, 3] as the content of a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()
