"""Corrupted test images: the fifteen corruptions of Hendrycks & Dietterich 2019, "Benchmarking
neural network robustness to common corruptions and perturbations",
https://arxiv.org/abs/1903.12261, each at five severities, with the parameters of the code that made
CIFAR-10-C for images of up to 64 pixels and those of ImageNet-C above.

Frost blends in photographs of frost, which are not ours to ship: it is there where the package
`imagecorruptions-imaug` is, which has them. Where the published code departs from the paper's
words, the code is followed, since the published images come from it. Motion blur is ImageMagick's,
which that code calls, by its formula.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, special

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.draws import Draws, integers
from distill_ray.errors import RunError

if TYPE_CHECKING:
    import cv2
else:
    cv2 = LazyModule("cv2")

SEVERITIES = (1, 2, 3, 4, 5)

LEAST_SIDE = 16
"""Smaller images are not corrupted: the parameters are lengths in pixels, made for 32, and kernels
of up to 17 would cover the whole image.
"""

LARGEST_SMALL_SIDE = 64
"""Sides up to which an image is corrupted as those of CIFAR, of 32 pixels, are."""

_VALUES_AT_ONCE = 2**22

_OF_224 = 244 / 224
"""The published code has lengths of `elastic` in shares of 244 pixels, for images of 224."""

Floats: TypeAlias = NDArray[Any]


def refusal(shape: tuple[int, ...]) -> str | None:
    """Why images of this shape (H, W, C) cannot be corrupted; None where they can."""
    height, width, channels = shape
    if channels not in (1, 3):
        return f"its images have {channels} channels; corruptions are defined for 1 and 3"
    if min(height, width) < LEAST_SIDE:
        return (
            f"its images have {height}x{width} pixels; corruptions are made for 32 and more, and "
            f"mean nothing below {LEAST_SIDE}"
        )
    return None


def corrupted(images: NDArray[np.uint8], name: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """`images` (N, H, W, C) with 1 or 3 channels, uint8, under corruption `name` of `CORRUPTIONS`.

    What is random depends on seed, corruption, severity and the index of the image alone: the same
    for everyone who is shown the images, and the same for the first of them without the rest.
    """
    small = max(images.shape[1:3]) <= LARGEST_SMALL_SIDE
    corrupt, for_small, for_large = _CORRUPTIONS[name]
    parameters = (for_small if small else for_large)[severity - 1]
    result = np.empty_like(images)
    step = max(1, _VALUES_AT_ONCE // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        some = np.asarray(images[start : start + step])
        numbers = _Numbers(Draws(seed, severity), f"corruption/{name}", start, start + len(some))
        values = corrupt(some, parameters, numbers)
        # Cut off, not rounded, as the published images are
        result[start : start + step] = (np.clip(values, 0, 1) * 255 + 1e-6).astype(np.uint8)
    return result


@dataclass(frozen=True)
class _Numbers:
    """The random numbers of images `start` to `stop` for one corruption."""

    draws: Draws
    purpose: str
    start: int
    stop: int

    def uniform(self, part: str, *shape: int) -> Floats:
        """In [0, 1), (N, *shape)."""
        count = int(np.prod(shape))
        numbers = self.draws.uniform(f"{self.purpose}/{part}", self.start, self.stop, count)
        return numbers.reshape(-1, *shape)

    def normal(self, part: str, *shape: int) -> Floats:
        """Of mean 0 and standard deviation 1, (N, *shape)."""
        numbers: Floats = special.ndtri(self.uniform(part, *shape) + 2.0**-54)
        return numbers


# Noise


def _gaussian_noise(images: Floats, scale: float, numbers: _Numbers) -> Floats:
    return images / 255 + scale * numbers.normal("noise", *images.shape[1:])


def _shot_noise(images: Floats, photons: float, numbers: _Numbers) -> Floats:
    """Poisson counts, of `photons` on average where a pixel is white, by inversion."""
    uniform = numbers.uniform("noise", *images.shape[1:])
    counts = np.zeros(images.shape)
    most = np.arange(int(photons + 12 * np.sqrt(photons) + 12))
    for value in np.unique(images):
        here = images == value
        counts[here] = np.searchsorted(special.pdtr(most, value / 255 * photons), uniform[here])
    return counts / photons


def _impulse_noise(images: Floats, share: float, numbers: _Numbers) -> Floats:
    """A share of the values is black or white, each channel for itself."""
    uniform = numbers.uniform("noise", *images.shape[1:])
    values = np.where(uniform < share, 1.0, images / 255)
    return np.where(uniform < share / 2, 0.0, values)


# Blur


def _blurred(values: Floats, sigma: float) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(values, (0, sigma, sigma, 0), mode="nearest")
    return blurred


def _defocus_blur(images: Floats, parameters: tuple[float, float], _: _Numbers) -> Floats:
    radius, softness = parameters
    reach, side = (8, 3) if radius <= 8 else (int(radius), 5)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (side, side), softness)
    return np.stack([_filtered(image, kernel, cv2.BORDER_REFLECT_101) for image in images / 255])


def _filtered(image: Floats, kernel: Floats, border: int) -> Floats:
    """`image` (H, W, C) correlated with `kernel`."""
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=border)).reshape(image.shape)


def _glass_blur(images: Floats, parameters: tuple[float, int, int], numbers: _Numbers) -> Floats:
    """Pixel by pixel, from the last, takes the colour of one nearby. (The published code means to
    exchange the two, but assigns through views of the same array.)
    """
    sigma, reach, rounds = parameters
    pixels = (_blurred(images / 255, sigma) * 255 + 1e-6).astype(np.uint8)
    rows = range(images.shape[1] - reach, reach, -1)
    columns = range(images.shape[2] - reach, reach, -1)
    every_image = np.arange(len(images))
    for number in range(rounds):
        uniform = numbers.uniform(f"places-{number}", len(rows), len(columns), 2)
        moves = integers(uniform, 2 * reach) - reach
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                right, down = moves[:, i, j].T
                pixels[:, row, column] = pixels[every_image, row + down, column + right]
    return _blurred(pixels / 255, sigma)


def _motion_blur(images: Floats, parameters: tuple[int, float], numbers: _Numbers) -> Floats:
    radius, sigma = parameters
    degrees = numbers.uniform("angle", 1)[:, 0] * 90 - 45
    return _moved(images / 255, radius, sigma, degrees)


def _moved(values: Floats, radius: int, sigma: float, degrees: Floats) -> Floats:
    """One-sided Gaussian means along a line, of another angle in each image of `values`."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    moved = []
    for image, angle in zip(values, np.deg2rad(degrees), strict=True):
        down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
        right = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
        kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
        np.add.at(kernel, (2 * radius + down, 2 * radius + right), weights)
        moved.append(_filtered(image, kernel, cv2.BORDER_REPLICATE))
    return np.stack(moved)


def _zoom_blur(images: Floats, parameters: tuple[float, float], _: _Numbers) -> Floats:
    """The mean of the image with itself at every factor from 1 to below the last."""
    last, step = parameters
    factors = np.arange(1, last, step)
    values = images / 255
    total = values.copy()
    for factor in factors:
        total += _zoomed(values, factor)
    mean: Floats = total / (len(factors) + 1)
    return mean


def _zoomed(values: Floats, factor: float) -> Floats:
    """The middle of `values` (N, H, W, C), `factor` times as large."""
    height, width = values.shape[1:3]
    rows, columns = _middle(height, factor), _middle(width, factor)
    large = ndimage.zoom(values[:, rows, columns], (1, factor, factor, 1), order=1)
    top, left = (large.shape[1] - height) // 2, (large.shape[2] - width) // 2
    middle: Floats = large[:, top : top + height, left : left + width]
    return middle


def _middle(length: int, factor: float) -> slice:
    kept = int(np.ceil(length / factor))
    first = (length - kept) // 2
    return slice(first, first + kept)


# Weather


def _snow(images: Floats, parameters: tuple[float, ...], numbers: _Numbers) -> Floats:
    mean, deviation, factor, threshold, radius, sigma, kept = parameters
    # Flakes: the brightest of enlarged noise, falling
    flakes = mean + deviation * numbers.normal("flakes", *images.shape[1:3], 1)
    flakes = _zoomed(flakes, factor)
    flakes[flakes < threshold] = 0
    flakes = np.floor(np.clip(flakes, 0, 1) * 255) / 255
    flakes = _moved(flakes, int(radius), sigma, numbers.uniform("angle", 1)[:, 0] * 90 - 135)
    # A whiter scene
    values = images / 255
    grey = values @ [[0.299], [0.587], [0.114]] if images.shape[-1] == 3 else values
    values = kept * values + (1 - kept) * np.maximum(values, grey * 1.5 + 0.5)
    snowed: Floats = values + flakes + flakes[:, ::-1, ::-1]
    return snowed


def _frost(images: Floats, parameters: tuple[float, ...], numbers: _Numbers) -> Floats:
    """A piece of a photograph of frost over the image."""
    scale, kept, amount = parameters
    height, width, channels = images.shape[1:]
    uniform = numbers.uniform("piece", 3)
    photographs = np.array(_photographs())[integers(uniform[:, 0], len(_photographs()))]
    frosted = np.empty(images.shape)
    for number, photograph in enumerate(photographs):
        frost = _frost_above(photograph, scale, height, width)
        room = np.subtract(frost.shape[:2], (height, width))
        top, left = np.floor(uniform[number, 1:] * room).astype(int)
        piece = frost[top : top + height, left : left + width]
        if channels == 1:
            piece = piece @ [[0.299], [0.587], [0.114]]
        frosted[number] = (kept * images[number] + amount * piece) / 255
    return frosted


@cache
def _frost_above(photograph: str, scale: float, height: int, width: int) -> Floats:
    """A photograph (H, W, 3) at `scale`, or enlarged so that an image of this height and width lies
    within it: the published code knows 32 and 224 pixels only, `imagecorruptions` any.
    """
    frost = cv2.imread(photograph)
    if frost is None:
        raise RunError(f"{photograph}: not an image; install imagecorruptions-imaug again")
    scaled = cv2.resize(frost, (0, 0), fx=scale, fy=scale)
    if scaled.shape[0] <= height or scaled.shape[1] <= width:
        factor = 1.1 * max(height / frost.shape[0], width / frost.shape[1])
        size = (int(np.ceil(frost.shape[1] * factor)), int(np.ceil(frost.shape[0] * factor)))
        scaled = cv2.resize(frost, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(scaled)[..., ::-1]


@cache
def _photographs() -> tuple[str, ...]:
    """The five photographs of frost that the published code draws from; none where the package that
    has them is not installed. (That code lists a sixth, and never takes it.)
    """
    package = importlib.util.find_spec("imagecorruptions")
    folders = package.submodule_search_locations if package is not None else None
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    files = tuple(str(Path(folder, "frost", name)) for folder in folders or () for name in names)
    return files if all(Path(file).is_file() for file in files) else ()


def _fog(images: Floats, parameters: tuple[float, float], numbers: _Numbers) -> Floats:
    amount, decay = parameters
    height, width = images.shape[1:3]
    side = 1 << (max(height, width) - 1).bit_length()
    fog = _plasma(numbers.uniform("plasma", side * side), side, decay)[:, :height, :width, None]
    values = images / 255
    brightest = values.max(axis=(1, 2, 3), keepdims=True)
    fogged: Floats = (values + amount * fog) * brightest / (brightest + amount)
    return fogged


def _plasma(uniform: Floats, side: int, decay: float) -> Floats:
    """Height maps (N, side, side) in [0, 1] by the diamond-square algorithm, on a torus, from
    numbers (N, side * side) in [0, 1).
    """
    heights = np.zeros((len(uniform), side, side))
    used, step, amplitude = 0, side, 100.0
    while step >= 2:
        half, cells = step // 2, (side // step) ** 2
        corners = heights[:, ::step, ::step]
        noise = (2 * uniform[:, used : used + 3 * cells] - 1) * amplitude**2
        squares, upper, left = noise.reshape(-1, 3, *corners.shape[1:]).swapaxes(0, 1)
        used += 3 * cells
        # Middles of squares of corners, then of the edges between them
        beside = corners + np.roll(corners, -1, 2)
        below = corners + np.roll(corners, -1, 1)
        middles = (beside + np.roll(beside, -1, 1)) / 4 + squares
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = (middles + np.roll(middles, 1, 1) + beside) / 4 + upper
        heights[:, half::step, ::step] = (middles + np.roll(middles, 1, 2) + below) / 4 + left
        step //= 2
        amplitude /= decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    scaled: Floats = heights / heights.max(axis=(1, 2), keepdims=True)
    return scaled


def _brightness(images: Floats, amount: float, _: _Numbers) -> Floats:
    """The value of HSV raised, hue and saturation kept."""
    values = images / 255
    brightest = values.max(axis=3, keepdims=True)
    raised = np.minimum(brightest + amount, 1)
    brighter: Floats = np.where(
        brightest > 0, values * raised / np.maximum(brightest, 1e-9), raised
    )
    return brighter


# Digital


def _contrast(images: Floats, factor: float, _: _Numbers) -> Floats:
    values = images / 255
    means = values.mean(axis=(1, 2), keepdims=True)
    contrast: Floats = (values - means) * factor + means
    return contrast


def _elastic(images: Floats, parameters: tuple[float, ...], numbers: _Numbers) -> Floats:
    """A random affine map and a smooth random displacement, in shares of the shorter side."""
    height, width, channels = images.shape[1:]
    side = min(height, width)
    strength, sigma, spread = (side * share for share in parameters)
    # Where pixels come from
    noise = 2 * numbers.uniform("displacement", 2, height, width) - 1
    moves = strength * ndimage.gaussian_filter(
        noise, (0, 0, sigma, sigma), mode="reflect", truncate=3
    )
    places = np.mgrid[:height, :width] + moves
    # Three corners of a square in the middle, and where they go
    middle, third = np.array([width // 2, height // 2]), side // 3
    corners = (middle + third * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)
    moved = corners + spread * (2 * numbers.uniform("affine", 3, 2) - 1)
    result = np.empty(images.shape)
    for number, image in enumerate(images):
        matrix = cv2.getAffineTransform(corners, moved[number].astype(np.float32))
        turned = cv2.warpAffine(
            (image / 255).astype(np.float32),
            matrix,
            (width, height),
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(image.shape)
        for channel in range(channels):
            result[number, ..., channel] = ndimage.map_coordinates(
                turned[..., channel], places[number], order=1, mode="reflect"
            )
    return result


def _pixelate(images: Floats, share: float, _: _Numbers) -> Floats:
    height, width = images.shape[1:3]
    few = int(width * share), int(height * share)

    def pixelate(image: Image.Image) -> Image.Image:
        coarse = image.resize(few, Image.Resampling.BOX)
        return coarse.resize((width, height), Image.Resampling.BOX)

    return _by_pillow(images, pixelate)


def _jpeg(images: Floats, quality: int, _: _Numbers) -> Floats:
    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(images, compress)


def _by_pillow(images: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    changed = [np.asarray(change(Image.fromarray(pixels))) for pixels in squeezed]
    return np.stack(changed).reshape(images.shape) / 255


_Corrupt: TypeAlias = Callable[[Floats, Any, _Numbers], Floats]

_CORRUPTIONS: dict[str, tuple[_Corrupt, tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian-noise": (
        _gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.1),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot-noise": (_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse-noise": (
        _impulse_noise,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    "defocus-blur": (
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass-blur": (
        _glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion-blur": (
        _motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom-blur": (
        _zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (
        _frost,
        ((0.2, 1, 0.2), (0.2, 1, 0.3), (0.2, 0.9, 0.4), (0.2, 0.85, 0.4), (0.2, 0.75, 0.45)),
        ((1, 1, 0.4), (1, 0.8, 0.6), (1, 0.7, 0.7), (1, 0.65, 0.7), (1, 0.6, 0.75)),
    ),
    "fog": (
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic": (
        _elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        (
            (2 * _OF_224, 0.7 * _OF_224, 0.1 * _OF_224),
            (2 * _OF_224, 0.08 * _OF_224, 0.2 * _OF_224),
            (0.05 * _OF_224, 0.01 * _OF_224, 0.02 * _OF_224),
            (0.07 * _OF_224, 0.01 * _OF_224, 0.02 * _OF_224),
            (0.12 * _OF_224, 0.01 * _OF_224, 0.02 * _OF_224),
        ),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""By name: what is done, and its parameters by severity for small and for large images."""

CORRUPTIONS = tuple(name for name in _CORRUPTIONS if name != "frost" or _photographs())
"""All fifteen, or fourteen where there are no photographs of frost."""
