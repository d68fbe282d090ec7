"""Moving pixels of whole batches: crops, mirror images and affine maps as one gather, bit for bit
as Pillow does them.

Affine maps lead from a pixel of the result to the place in the original that it shows, as (n, 6)
coefficients a: column a0 x + a1 y + a2 and row a3 x + a4 y + a5, where pixel (i, j) covers the unit
square whose centre is x = j + 1/2, y = i + 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

ONE = 1 << 16
"""The number 1 in the fixed-point arithmetic of nearest-pixel maps."""


@dataclass(frozen=True)
class Grid:
    """For every pixel of the results the pixel of the original that it shows, or black where not
    `inside`.

    `rows` and `columns` are int64 and broadcast, like `inside`, to (B, H, W). Each map goes one
    step further back: the chain `Grid.of(images).mirror(m).shift(s)` shows images that were first
    shifted and then mirrored.
    """

    rows: Tensor
    columns: Tensor
    inside: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, images: Tensor) -> Grid:
        """Every pixel shows itself."""
        height, width = images.shape[2:]
        rows = torch.arange(height, device=images.device).view(1, -1, 1)
        columns = torch.arange(width, device=images.device).view(1, 1, -1)
        return cls(
            rows,
            columns,
            torch.ones((1, 1, 1), dtype=torch.bool, device=images.device),
            height,
            width,
        )

    def shift(self, offset: Tensor) -> Grid:
        """Windows into the black-bordered originals, off by `offset` (B, 2), rows then columns."""
        return self._to(
            self.rows + offset[:, 0].view(-1, 1, 1), self.columns + offset[:, 1].view(-1, 1, 1)
        )

    def mirror(self, mirrored: Tensor) -> Grid:
        """Left and right exchanged where `mirrored` (B,)."""
        columns = torch.where(mirrored.view(-1, 1, 1), self.width - 1 - self.columns, self.columns)
        return Grid(self.rows, columns, self.inside, self.height, self.width)

    def affine(self, fixed: Tensor) -> Grid:
        """Affine maps to the nearest pixel, given by `fixed_point` coefficients (B, 6)."""
        a = fixed.view(-1, 6, 1, 1)
        columns = (a[:, 0] * self.columns + a[:, 1] * self.rows + a[:, 2]) >> 16
        return self._to((a[:, 3] * self.columns + a[:, 4] * self.rows + a[:, 5]) >> 16, columns)

    def _to(self, rows: Tensor, columns: Tensor) -> Grid:
        inside = (
            self.inside
            & (rows >= 0)
            & (rows < self.height)
            & (columns >= 0)
            & (columns < self.width)
        )
        return Grid(
            rows.clamp(0, self.height - 1),
            columns.clamp(0, self.width - 1),
            inside,
            self.height,
            self.width,
        )

    def show(self, images: Tensor) -> Tensor:
        """What the grid shows of `images` (B, C, H, W) of any type: the same shape and type,
        channels last.
        """
        batch, channels, height, width = images.shape
        flat = images.permute(0, 2, 3, 1).reshape(-1, channels)
        black = len(flat)
        pixel = torch.where(
            self.inside, self.rows * width + self.columns + _first_pixels(images), black
        )
        sampled = torch.cat([flat, flat.new_zeros(1, channels)]).index_select(0, pixel.view(-1))
        return sampled.view(batch, height, width, channels).permute(0, 3, 1, 2)


def fixed_point(matrices: Floats) -> NDArray[np.int64]:
    """Affine coefficients (n, 6) for `Grid.affine`: times 2^16, rounded, and shifted to count from
    the centre of pixel (0, 0).
    """
    a = matrices.reshape(-1, 2, 3).copy()
    a[:, :, 2] += a[:, :, 0] * 0.5 + a[:, :, 1] * 0.5
    return np.floor(a.reshape(-1, 6) * ONE + 0.5).astype(np.int64)


def bilinear(images: Tensor, matrices: Tensor) -> Tensor:
    """uint8 `images` (B, C, H, W) under float64 affine maps (B, 6), between pixels, rounded down,
    black outside.

    Places are float64 like Pillow's, values float32 where Pillow's are float64: where the value
    between pixels is an integer but for the last digits, the result can be one less or one more.
    """
    batch, channels, height, width = images.shape
    a = matrices.view(-1, 6, 1, 1)
    x = torch.arange(width, device=images.device, dtype=torch.float64) + 0.5
    y = (torch.arange(height, device=images.device, dtype=torch.float64) + 0.5).view(-1, 1)
    column, row = (a[:, i] * x + a[:, i + 1] * y + a[:, i + 2] for i in (0, 3))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    left, top = (column - 0.5).floor(), (row - 0.5).floor()
    across, down = (column - 0.5 - left).float(), (row - 0.5 - top).float()
    columns = torch.stack([left, left + 1]).clamp_(0, width - 1).long()
    rows = torch.stack([top, top + 1]).clamp_(0, height - 1).long() * width + _first_pixels(images)
    corners = (rows.unsqueeze(1) + columns).view(-1)
    planes = images.permute(1, 0, 2, 3).reshape(channels, -1).float()
    values = torch.stack([plane.index_select(0, corners) for plane in planes.unbind()]).view(
        channels, 2, 2, batch, height, width
    )
    lines = values[:, :, 0] + (values[:, :, 1] - values[:, :, 0]) * across
    value = lines[:, 0] + (lines[:, 1] - lines[:, 0]) * down
    return (value * inside).to(images.dtype).permute(1, 0, 2, 3)


def rotation(degrees: Floats, height: int, width: int) -> Floats:
    """Counter-clockwise rotations by `degrees` (n,) about the centre, as affine coefficients (n,
    6).
    """
    angle = -np.radians(degrees)
    cosine, sine = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    x, y = width / 2, height / 2
    return np.stack(
        [cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y], axis=1
    )


def shear_x(amount: Floats, height: int, width: int) -> Floats:
    """Rows moved left by `amount` (n,) times their distance from the top."""
    return _matrices({1: amount}, len(amount))


def shear_y(amount: Floats, height: int, width: int) -> Floats:
    """Columns moved up by `amount` (n,) times their distance from the left."""
    return _matrices({3: amount}, len(amount))


def translate_x(pixels: Floats, height: int, width: int) -> Floats:
    """Everything moved right by `pixels` (n,)."""
    return _matrices({2: -pixels}, len(pixels))


def translate_y(pixels: Floats, height: int, width: int) -> Floats:
    """Everything moved down by `pixels` (n,)."""
    return _matrices({5: -pixels}, len(pixels))


MAPS: dict[str, Callable[[Floats, int, int], Floats]] = {
    "rotate": rotation,
    "shear-x": shear_x,
    "shear-y": shear_y,
    "translate-x": translate_x,
    "translate-y": translate_y,
}
"""The affine maps of the augmentation policies by name: amounts (n,), height and width to
coefficients (n, 6).
"""


def unit(images: Tensor) -> Tensor:
    """uint8 pixels (B, C, H, W) as float32 in [0, 1], channels last in memory; real numbers as they
    are.
    """
    if images.is_floating_point():
        return images
    return images.to(torch.float32, memory_format=torch.channels_last).div_(
        divisor(255, images.device)
    )


def divisor(number: int, device: torch.device) -> Tensor:
    """`number` in float32, to divide by: with a plain one a GPU multiplies by its reciprocal, which
    rounds otherwise.
    """
    return torch.full((), number, dtype=torch.float32, device=device)


def take(images: Tensor, chosen: Tensor) -> Tensor:
    """Images number `chosen` (n,) of `images` (B, C, H, W), channels last."""
    return images.permute(0, 2, 3, 1).index_select(0, chosen).permute(0, 3, 1, 2)


def _matrices(changed: dict[int, Floats], count: int) -> Floats:
    matrices = np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (count, 1))
    for coefficient, values in changed.items():
        matrices[:, coefficient] = values
    return matrices


def _first_pixels(images: Tensor) -> Tensor:
    """The number of each image's first pixel, counted through the batch: (B, 1, 1)."""
    batch, _, height, width = images.shape
    return torch.arange(0, batch * height * width, height * width, device=images.device).view(
        -1, 1, 1
    )
