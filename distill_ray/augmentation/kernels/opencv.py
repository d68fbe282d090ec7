"""The operations of `policy`, crops and mixtures for photographs in a CPU's memory, image by image
with OpenCV: batched tensor code goes through memory too often there.

Tables and nearest pixels are those of the batched code, bit for bit. What blends, blurs or
interpolates is rounded elsewhere, and a value can be one level off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.kernels import colour
from distill_ray.augmentation.kernels.geometry import MAPS, Floats, divisor, fixed_point

if TYPE_CHECKING:
    import cv2
else:
    cv2 = LazyModule("cv2")  # small images do without

LEAST = 56 * 56
"""Pixels of an image from which on this is faster than batched code; measured in BENCHMARKS.md."""

LARGEST = 2**14
"""Sides up to which fixed-point places fit into 32 bits, and rows and columns into 16."""

TRUNCATED = -0.498
"""What is added before rounding to round down, but for sums that miss a whole number by less."""

Pixels: TypeAlias = NDArray[Any]

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def suits(images: Tensor) -> bool:
    """Whether uint8 `images` (B, C, H, W) are better changed here."""
    _, channels, height, width = images.shape
    return (
        images.device.type == "cpu"
        and channels in (1, 3)
        and height * width >= LEAST
        and max(height, width) <= LARGEST
    )


def apply(images: Tensor, names: NDArray[np.str_], amount: Floats, between_pixels: bool) -> Tensor:
    """`policy.apply` for images that suit."""
    pixels = by_pixel(images)
    result = np.empty_like(pixels)
    tables = _tables(pixels, names, amount)

    def change(number: int) -> None:
        image, name = pixels[number], str(names[number])
        if name == "":
            result[number] = image
        elif number in tables:
            result[number] = cv2.LUT(image, tables[number]).reshape(image.shape)
        elif name in MAPS:
            matrix = MAPS[name](amount[number : number + 1], *image.shape[:2])[0]
            if between_pixels:
                result[number] = _bilinear(image, matrix)
            else:
                result[number] = _nearest(image, fixed_point(matrix[None])[0])
        else:
            changed = CHANGES[name](image, float(amount[number]))
            result[number] = changed.reshape(image.shape)

    _each(change, len(pixels))
    return of_pixels(result)


def crop_flip_rotate(
    images: Tensor,
    offset: NDArray[np.int64] | None,
    mirrored: NDArray[np.bool_] | None,
    rotation: NDArray[np.int64] | None,
    *,
    rotate_first: bool,
) -> Tensor:
    """Windows into black-bordered uint8 `images` (B, C, H, W) off by `offset` (B, 2), `mirrored`
    (B,), under `fixed_point` rotations (B, 6), as far as these are given; or in the opposite order.
    """
    pixels = by_pixel(images)
    result = np.empty_like(pixels)

    def change(number: int) -> None:
        steps: list[Callable[[Pixels], Pixels]] = []
        if offset is not None and offset[number].any():
            steps.append(lambda image: _shifted(image, offset[number]))
        if mirrored is not None and mirrored[number]:
            steps.append(lambda image: np.asarray(cv2.flip(image, 1)).reshape(image.shape))
        if rotation is not None:
            steps.append(lambda image: _nearest(image, rotation[number]))
        image = pixels[number]
        for step in reversed(steps) if rotate_first else steps:
            image = step(image)
        result[number] = image

    _each(change, len(pixels))
    return of_pixels(result)


def blend(images: Tensor, chains: Tensor, weights: Floats, share: Floats) -> Tensor:
    """What `augmix.blend` makes of uint8 `images` (B, C, H, W) and `chains` (J * B, C, H, W), chain
    by chain, by `weights` (B, J) and `share` (B,): float32 in [0, 1].
    """
    originals, changed = by_pixel(images), by_pixel(chains)
    result = np.empty(originals.shape, np.float32)
    parts = np.column_stack([1 - share, share[:, None] * weights])
    totals = np.maximum(parts.cumsum(1), np.finfo(np.float64).tiny)

    def change(number: int) -> None:
        mixed = result[number]
        np.copyto(mixed, originals[number])
        for chain in range(weights.shape[1]):
            one = changed[chain * len(originals) + number]
            newest = parts[number, chain + 1] / totals[number, chain + 1]
            cv2.accumulateWeighted(one, mixed, newest)
        mixed *= np.float32(1 / 255)

    _each(change, len(originals))
    return of_pixels(result)


def by_pixel(images: Tensor) -> Pixels:
    """Images (B, C, H, W) as an array (B, H, W, C), without a copy if they lie channels last."""
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def of_pixels(pixels: NDArray[np.generic]) -> Tensor:
    """The inverse of `by_pixel`."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


# ---- Values that depend on nothing but the value before ------------------------------------------


def _tables(
    pixels: Pixels, names: NDArray[np.str_], amount: Floats
) -> dict[int, NDArray[np.uint8]]:
    """For images whose operation is a table (1, 256, C) or (256,) of levels: that, by number."""
    tables: dict[int, NDArray[np.uint8]] = {}
    for name in set(names.tolist()) & set(TABLES):
        numbers = np.flatnonzero(names == name)
        # The batched code makes the tables, of images that hold every level once
        levels = TABLES[name]([pixels[number] for number in numbers], torch.tensor(amount[numbers]))
        by_level = levels.flatten(2).transpose(1, 2).numpy()
        for number, table in zip(numbers.tolist(), by_level, strict=True):
            tables[number] = np.ascontiguousarray(table)[None]
    return tables


def _of_amount(
    change: Callable[[Tensor, Tensor], Tensor], images: list[Pixels], amount: Tensor
) -> Tensor:
    """Tables of what depends on nothing but the amount."""
    return change(LEVELS.expand(len(images), images[0].shape[2], 16, 16), amount)


def _of_range(change: Callable[[Tensor], Tensor], images: list[Pixels], amount: Tensor) -> Tensor:
    """Tables of what depends on the lowest and highest level of each channel."""
    ranges = [[cv2.minMaxLoc(plane)[:2] for plane in cv2.split(image)] for image in images]
    lowest, highest = torch.tensor(ranges, dtype=torch.int64).unsqueeze(-1).unsqueeze(-1).unbind(2)
    return change(LEVELS.long().clamp(lowest, highest).to(torch.uint8))


def _contrast(images: list[Pixels], factor: Tensor) -> Tensor:
    sums = torch.tensor([cv2.sumElems(_grey(image))[0] for image in images], dtype=torch.float64)
    mean = sums.float().view(-1, 1, 1, 1) / divisor(images[0][..., 0].size, sums.device)
    return colour.contrast_about(
        LEVELS.expand(len(images), images[0].shape[2], 16, 16), mean, factor
    )


def _equalize(images: list[Pixels], amount: Tensor) -> Tensor:
    channels = range(images[0].shape[2])
    counts = [
        [cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel() for channel in channels]
        for image in images
    ]
    tables = colour.equalizing_table(torch.from_numpy(np.array(counts)).long())
    return tables.view(len(images), len(channels), 16, 16)


TABLES: dict[str, Callable[[list[Pixels], Tensor], Tensor]] = {
    "brightness": functools.partial(_of_amount, colour.brightness),
    "posterize": functools.partial(_of_amount, colour.posterize),
    "solarize": functools.partial(_of_amount, colour.solarize),
    "invert": functools.partial(_of_amount, lambda levels, _: colour.invert(levels)),
    "autocontrast": functools.partial(_of_range, colour.autocontrast),
    "autocontrast-by-table": functools.partial(_of_range, colour.autocontrast_by_table),
    "contrast": _contrast,
    "equalize": _equalize,
}
"""Operations by name: images and their amounts to levels (n, C, 16, 16)."""


# ---- Other colours -------------------------------------------------------------------------------

GREY = np.array([[0.2989, 0.5870, 0.1140, -0.49995]], np.float32)
"""Brightness, so that rounding rounds down: it is a multiple of 1/10,000."""

SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def _grey(image: Pixels) -> Pixels:
    return image[..., 0] if image.shape[2] == 1 else np.asarray(cv2.transform(image, GREY))


def _in_colour(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB))


def _saturation(image: Pixels, factor: float) -> Pixels:
    if image.shape[2] == 1:
        return image
    return np.asarray(cv2.addWeighted(image, factor, _in_colour(image), 1 - factor, TRUNCATED))


def _sharpness(image: Pixels, factor: float) -> Pixels:
    inner = (slice(1, -1), slice(1, -1))
    smooth = cv2.filter2D(image, -1, SMOOTH).reshape(image.shape)
    blended = cv2.addWeighted(image, factor, smooth, 1 - factor, TRUNCATED).reshape(image.shape)
    result = image.copy()
    result[inner] = blended[inner]
    return result


def _hue(image: Pixels, shift: float) -> Pixels:
    if image.shape[2] == 1:
        return image
    hsv: Any = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0]
    hue += 360 * shift
    hue -= 360 * np.floor(hue / 360)
    values: Any = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    values += 0.5 - 1e-3
    shifted: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return shifted


def _blur(image: Pixels, sigma: float) -> Pixels:
    span = 2 * colour.blur_reach(*image.shape[:2]) + 1
    blurred = cv2.GaussianBlur(image, (span, span), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred)


CHANGES: dict[str, Callable[[Pixels, float], Pixels]] = {
    "color": _saturation,
    "sharpness": _sharpness,
    "grey": lambda image, _: image if image.shape[2] == 1 else _in_colour(image),
    "hue": _hue,
    "blur": _blur,
}


# ---- Places --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None]


NO_MAP = np.empty(0, np.uint16)


def _nearest(image: Pixels, fixed: NDArray[np.int64]) -> Pixels:
    """`Grid.affine` of one image."""
    rows, columns = _grid(*image.shape[:2])
    a = fixed.astype(np.int32)
    column = a[0] * columns + (a[1] * rows + a[2])
    row = a[3] * columns + (a[4] * rows + a[5])
    places = np.empty((*column.shape, 2), np.int16)
    np.right_shift(column, 16, out=column)
    np.right_shift(row, 16, out=row)
    places[..., 0] = column
    places[..., 1] = row
    sampled = cv2.remap(image, places, NO_MAP, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(sampled).reshape(image.shape)


def _bilinear(image: Pixels, matrix: Floats) -> Pixels:
    """`geometry.bilinear` of one image."""
    height, width = image.shape[:2]
    a = matrix.reshape(2, 3)
    centred = a.copy()
    centred[:, 2] += (a[:, 0] + a[:, 1] - 1) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    values: Any = cv2.warpAffine(
        image.astype(np.float32),
        centred,
        (width, height),
        flags=flags,
        borderMode=cv2.BORDER_REPLICATE,
    )
    values += 1e-4
    pixels: Pixels = values.astype(np.uint8).reshape(image.shape)
    x, y = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    column, row = (a[place, 0] * x + (a[place, 1] * y + a[place, 2]) for place in (0, 1))
    pixels[(column < 0) | (column >= width) | (row < 0) | (row >= height)] = 0
    return pixels


def _shifted(image: Pixels, offset: NDArray[np.int64]) -> Pixels:
    """A window into the black-bordered image."""
    height, width = image.shape[:2]
    down, right = offset.tolist()
    top, left = max(0, -down), max(0, -right)
    bottom, end = min(height, height - down), min(width, width - right)
    window = np.zeros_like(image)
    window[top:bottom, left:end] = image[top + down : bottom + down, left + right : end + right]
    return window


# ---- Threads -------------------------------------------------------------------------------------


def _each(change: Callable[[int], None], count: int) -> None:
    """`change` each image, on as many threads as torch computes with."""
    cv2.setNumThreads(1)
    threads = torch.get_num_threads()
    if threads == 1:
        for number in range(count):
            change(number)
        return
    for _ in _pool(threads).map(change, range(count)):
        pass


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="images")
