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

from distill_ray.data.source import EncodedBatch
from distill_ray.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP", "GIF", "TIFF")
GREY = frozenset({"1", "L", "LA"})
COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})
PER_TASK = 32


@dataclass(frozen=True)
class Shape:
    """Height, width and channels that every image has or, to `fit`, is given; and the image that
    set the example.
    """

    height: int
    width: int
    channels: int
    example: str
    fit: bool = False


class ColourFoundError(Exception):
    """A colour image in a data set that looked grey so far. Its argument names the row."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def decoder(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads to decode with, one per core by default; Pillow decodes without holding the
    interpreter lock.
    """
    with ThreadPoolExecutor(threads or cores(), thread_name_prefix="decode") as pool:
        yield pool


def shape_of(batch: EncodedBatch, size: int | None = None) -> Shape:
    """The shape that the first image of `batch` sets, or a square of `size`; one channel if it is
    grey and three otherwise.
    """
    with _image(batch, 0) as image:
        channels = 1 if _is_grey(image, batch, 0) else 3
        if size is not None:
            return Shape(size, size, channels, batch.where(0), fit=True)
        return Shape(image.height, image.width, channels, batch.where(0))


def draft(image: Image.Image, height: int, width: int) -> None:
    """Let a JPEG that was only opened be decoded at a half or less where that is still twice the
    size asked for.
    """
    image.draft(None, (2 * width, 2 * height))


def fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """`image` at the size asked for: the largest part in its middle with these proportions, resized
    (bilinear, antialiased).

    That is to resize until the shorter side fits, and to crop the rest off both ends.
    """
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def decode(batch: EncodedBatch, shape: Shape, threads: ThreadPoolExecutor) -> np.ndarray:
    """The pixels of `batch`, (B, H, W, C) uint8. Grey images become RGB where `shape` has three
    channels; alpha is dropped.

    Raises:
        RequestError: an image is missing, corrupt or, where `shape` is not to fit, of another size;
        the message names its row. ColourFoundError: an image has colour, and `shape` has one
        channel.
    """
    pixels = np.empty((len(batch.encoded), shape.height, shape.width, shape.channels), np.uint8)

    def decode_some(rows: Sequence[int]) -> None:
        for row in rows:
            _decode_one(batch, row, shape, pixels[row])

    tasks = [
        range(start, min(start + PER_TASK, len(pixels)))
        for start in range(0, len(pixels), PER_TASK)
    ]
    for _ in threads.map(decode_some, tasks):
        pass
    return pixels


def check(batch: EncodedBatch, threads: ThreadPoolExecutor) -> set[tuple[int, int]]:
    """Decode every image of `batch` and keep none; the sizes that were met, as (width, height).

    Raises:
        RequestError: an image is missing or corrupt; the message names its row.
    """

    def check_one(row: int) -> tuple[int, int]:
        with _image(batch, row) as image:
            _is_grey(image, batch, row)
            image.load()
            return image.size

    return set(threads.map(check_one, range(len(batch.encoded))))


def _decode_one(batch: EncodedBatch, row: int, shape: Shape, out: np.ndarray) -> None:
    with _image(batch, row) as image:
        if shape.fit:
            draft(image, shape.height, shape.width)
        elif (image.height, image.width) != (shape.height, shape.width):
            raise RequestError(
                f"{batch.where(row)}: the image is {image.width}x{image.height}, but {shape.example} is "
                f"{shape.width}x{shape.height}; set data.size, to which all images are then resized and cropped"
            )
        grey = _is_grey(image, batch, row)
        if shape.channels == 1 and not grey:
            raise ColourFoundError(batch.where(row))
        mode = "L" if shape.channels == 1 else "RGB"
        converted = image if image.mode == mode else image.convert(mode)
        out[:] = np.asarray(fitted(converted, shape.height, shape.width)).reshape(out.shape)


@contextmanager
def _image(batch: EncodedBatch, row: int) -> Iterator[Image.Image]:
    encoded = batch.encoded[row]
    if encoded is None:
        raise RequestError(
            f"{batch.where(row)}: there is no image in this row; remove the row, or embed its image"
        )
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            yield image
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:
        raise RequestError(
            f"{batch.where(row)}: the image cannot be decoded ({_reason(error)}); replace it, or get the data set again"
        ) from error


def _is_grey(image: Image.Image, batch: EncodedBatch, row: int) -> bool:
    if image.mode not in GREY | COLOUR:
        raise RequestError(
            f"{batch.where(row)}: images of mode {image.mode} are not supported; convert them to 8 bits per channel"
        )
    return image.mode in GREY


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not one of " + ", ".join(FORMATS)
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
