"""Encoded images to arrays of pixels, many at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from distill_ray.data.source import Batch
from distill_ray.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP", "GIF", "TIFF")
GREY = frozenset({"1", "L", "LA"})
COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})
PER_TASK = 32


@dataclass(frozen=True)
class Shape:
    """Height, width and channels that every image of a data set has, and the image that set the example."""

    height: int
    width: int
    channels: int
    example: str


class ColourFoundError(Exception):
    """A colour image in a data set that looked grey so far. Its argument names the row."""


@contextmanager
def decoder() -> Iterator[ThreadPoolExecutor]:
    """Threads to decode with, one per core this process may use; Pillow decodes without holding the interpreter lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores, thread_name_prefix="decode") as threads:
        yield threads


def shape_of(batch: Batch) -> Shape:
    """The shape that the first image of `batch` sets, with one channel if it is grey and three otherwise."""
    with _image(batch, 0) as image:
        return Shape(image.height, image.width, 1 if _is_grey(image, batch, 0) else 3, batch.where(0))


def decode(batch: Batch, shape: Shape, threads: ThreadPoolExecutor) -> np.ndarray:
    """The pixels of `batch`, (B, H, W, C) uint8. Grey images become RGB where `shape` has three channels; alpha is dropped.

    Raises:
        RequestError: an image is missing, corrupt or of another size; the message names its row.
        ColourFoundError: an image has colour, and `shape` has one channel.
    """
    pixels = np.empty((len(batch.encoded), shape.height, shape.width, shape.channels), np.uint8)

    def decode_some(rows: Sequence[int]) -> None:
        for row in rows:
            _decode_one(batch, row, shape, pixels[row])

    tasks = [range(start, min(start + PER_TASK, len(pixels))) for start in range(0, len(pixels), PER_TASK)]
    for _ in threads.map(decode_some, tasks):
        pass
    return pixels


def _decode_one(batch: Batch, row: int, shape: Shape, out: np.ndarray) -> None:
    with _image(batch, row) as image:
        if (image.height, image.width) != (shape.height, shape.width):
            raise RequestError(
                f"{batch.where(row)}: the image is {image.width}x{image.height}, but {shape.example} is "
                f"{shape.width}x{shape.height}; all images must have one size, resize them first"
            )
        grey = _is_grey(image, batch, row)
        if shape.channels == 1 and not grey:
            raise ColourFoundError(batch.where(row))
        mode = "L" if shape.channels == 1 else "RGB"
        out[:] = np.asarray(image if image.mode == mode else image.convert(mode)).reshape(out.shape)


@contextmanager
def _image(batch: Batch, row: int) -> Iterator[Image.Image]:
    encoded = batch.encoded[row]
    if encoded is None:
        raise RequestError(f"{batch.where(row)}: there is no image in this row; remove the row, or embed its image")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise RequestError(
            f"{batch.where(row)}: the image cannot be decoded ({_reason(error)}); replace it, or get the data set again"
        ) from error


def _is_grey(image: Image.Image, batch: Batch, row: int) -> bool:
    if image.mode not in GREY | COLOUR:
        raise RequestError(
            f"{batch.where(row)}: images of mode {image.mode} are not supported; convert them to 8 bits per channel"
        )
    return image.mode in GREY


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not one of " + ", ".join(FORMATS)
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
