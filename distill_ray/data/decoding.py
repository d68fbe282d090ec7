"""Encoded images to arrays of pixels, many at a time."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from distill_ray.data.source import EncodedBatch
from distill_ray.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP", "GIF", "TIFF", "AVIF")

MAX_PIXELS = 50_000_000
"""Width times height of the largest image that is decoded, which takes up to 400 MB."""

TOO_MANY = f"pixels, more than the {MAX_PIXELS // 10**6} million that are decoded; make it smaller"

LARGE = 4_000_000
"""Pixels from which on a process decodes only one image at a time."""

SIXTEEN_BITS = frozenset({"I;16", "I;16B", "I;16L"})
"""Grey with 16 bits per pixel, of which the high byte is kept. (Pillow does so with colours.)"""
GREY = frozenset({"1", "L", "LA"}) | SIXTEEN_BITS
PALETTE = frozenset({"P", "PA"})
COLOUR = frozenset({"RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}) | PALETTE
PER_TASK = 32

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns the pixels of a file upright, by its orientation; from 5 on they lie on their side."""

_one_large_image = threading.Lock()


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


class UnreadableImageError(Exception):
    """Content that is no image, is damaged, or is not decoded. Its argument is the reason."""


@contextmanager
def opened_image(encoded: bytes | IO[bytes]) -> Iterator[Image.Image]:
    """The image in a file's content, of whose pixels none are decoded yet.

    Raises:
        UnreadableImageError: it is no image of `FORMATS`, it has more than `MAX_PIXELS`, it does
            not have 8 bits per channel, or it turns out in the block that it is damaged.
    """
    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"{image.width}x{image.height} {TOO_MANY}")
            if image.mode not in GREY | COLOUR:
                raise UnreadableImageError(
                    f"images of mode {image.mode} are not supported; convert it to 8 bits per "
                    "channel"
                )
            large = image.width * image.height > LARGE
            with _one_large_image if large else nullcontext():
                yield image
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"it has {TOO_MANY}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not one of " + ", ".join(FORMATS)) from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UnreadableImageError(lines[0][:200]) from error


def is_grey(image: Image.Image) -> bool:
    """Whether `image` has no colours: by its mode or, if that is a palette, by the palette."""
    if image.mode in PALETTE:
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of `image`, 1 to 8; 1 is upright, as are images that do not say.

    Pillow turns TIFF itself.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG":
        image.load()  # EXIF may follow the pixels, and damage is not to be taken for its absence
    try:
        number = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow lets through what its parsers raise; such EXIF says nothing
        return 1
    return number if number in UPRIGHT else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of `image` once it is turned upright."""
    return (image.height, image.width) if orientation(image) >= 5 else image.size


def pixels_of(image: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """The pixels of an opened image, (height, width, channels) uint8: upright, its middle at that
    size.

    That is: turned as its EXIF orientation says, resized until the shorter side fits (bilinear,
    antialiased), the rest cropped off both ends. Alpha is dropped. A JPEG of more than twice the
    size is decoded at a half or less.
    """
    turned = orientation(image)
    if upright_size(image) != (width, height):
        image.draft(None, (2 * width, 2 * height) if turned < 5 else (2 * height, 2 * width))
    result = as_mode(image, "L" if channels == 1 else "RGB")
    if turned in UPRIGHT:
        result = result.transpose(UPRIGHT[turned])
    return np.asarray(_fitted(result, height, width)).reshape(height, width, channels)


def strips_of(image: Image.Image, side: int, channels: int) -> tuple[int, np.ndarray]:
    """What `pixels_of` crops off an opened image to make a square of that side: the margin, and the
    pixels of both strips, one after the other and flat, uint8 (2 * |margin| * side * channels,).

    The margin is the width of each strip, or the height as a negative number where image is taller
    than wide. Strips are at the scale of the square, so that both and it are the image, resized
    until its shorter side fits, but for less than a pixel at each end. None is longer than `side`.
    """
    width, height = upright_size(image)
    if width == height:
        return 0, np.empty(0, np.uint8)
    turned = orientation(image)
    image.draft(None, (2 * side, 2 * side))
    result = as_mode(image, "L" if channels == 1 else "RGB")
    if turned in UPRIGHT:
        result = result.transpose(UPRIGHT[turned])
    shorter, longer = sorted(result.size)
    margin = min(side, (longer * side // shorter - side) // 2)
    scale = shorter / side
    begin, end = (longer - shorter) / 2, (longer + shorter) / 2
    parts = []
    for first, last in ((begin - margin * scale, begin), (end, end + margin * scale)):
        first, last = max(0.0, first), min(float(longer), last)
        if width > height:
            size, box = (margin, side), (first, 0.0, last, float(shorter))
        else:
            size, box = (side, margin), (0.0, first, float(shorter), last)
        if margin:
            strip = result.resize(size, Image.Resampling.BILINEAR, box=box)
            parts.append(np.asarray(strip).reshape(-1))
    pixels = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    return (margin if width > height else -margin), pixels


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """An opened image as `L` or `RGB`, 8 bits per channel."""
    if image.mode in SIXTEEN_BITS:  # Pillow would make 255 of all that is above
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest part in the middle of `image` with these proportions, resized."""
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


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
        channels = 1 if is_grey(image) else 3
        if size is not None:
            return Shape(size, size, channels, batch.where(0), fit=True)
        width, height = upright_size(image)
        return Shape(height, width, channels, batch.where(0))


def decode(batch: EncodedBatch, shape: Shape, threads: ThreadPoolExecutor) -> np.ndarray:
    """The pixels of `batch`, (B, H, W, C) uint8. Grey images become RGB where `shape` has three
    channels.

    Raises:
        RequestError: an image is missing, corrupt, too large or, where `shape` is not to fit, of
            another size; the message names its row.
        ColourFoundError: an image has colour, and `shape` has one channel.
    """
    pixels = np.empty((len(batch.encoded), shape.height, shape.width, shape.channels), np.uint8)

    def decode_some(rows: Sequence[int]) -> None:
        for row in rows:
            pixels[row] = _decode_one(batch, row, shape)

    tasks = [
        range(start, min(start + PER_TASK, len(pixels)))
        for start in range(0, len(pixels), PER_TASK)
    ]
    for _ in threads.map(decode_some, tasks):
        pass
    return pixels


def decode_strips(
    batch: EncodedBatch, side: int, channels: int, threads: ThreadPoolExecutor
) -> list[tuple[int, np.ndarray]]:
    """`strips_of` every image of `batch`. Raises `RequestError` as `decode` does."""

    def decode_one(row: int) -> tuple[int, np.ndarray]:
        with _image(batch, row) as image:
            return strips_of(image, side, channels)

    return list(threads.map(decode_one, range(len(batch.encoded))))


def check(batch: EncodedBatch, threads: ThreadPoolExecutor) -> set[tuple[int, int]]:
    """Decode every image of `batch` and keep none; the sizes that were met, as (width, height).

    Raises:
        RequestError: an image is missing, corrupt or too large; the message names its row.
    """

    def check_one(row: int) -> tuple[int, int]:
        with _image(batch, row) as image:
            image.load()
            return upright_size(image)

    return set(threads.map(check_one, range(len(batch.encoded))))


def _decode_one(batch: EncodedBatch, row: int, shape: Shape) -> np.ndarray:
    with _image(batch, row) as image:
        width, height = upright_size(image)
        if not shape.fit and (height, width) != (shape.height, shape.width):
            raise RequestError(
                f"{batch.where(row)}: the image is {width}x{height}, but {shape.example} is "
                f"{shape.width}x{shape.height}; set data.size, to which all images are then "
                "resized and cropped"
            )
        if shape.channels == 1 and not is_grey(image):
            raise ColourFoundError(batch.where(row))
        return pixels_of(image, shape.height, shape.width, shape.channels)


@contextmanager
def _image(batch: EncodedBatch, row: int) -> Iterator[Image.Image]:
    encoded = batch.encoded[row]
    if encoded is None:
        raise RequestError(
            f"{batch.where(row)}: there is no image in this row; remove the row, or embed its image"
        )
    try:
        with opened_image(encoded) as image:
            yield image
    except UnreadableImageError as error:
        raise RequestError(
            f"{batch.where(row)}: the image cannot be decoded ({error}); replace it, or download "
            "the data set again"
        ) from error
