"""Moving pixels of whole batches: crops and mirror images as one gather."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill_ray.augment.draws import integers

if TYPE_CHECKING:
    from distill_ray.augment.epoch import BatchSource


def standard(source: BatchSource, padding: int | None) -> Tensor:
    """The share's images after a random crop and a random flip, drawn per image: uint8 (B, C, H, W).

    `padding` is the black border before the crop, 0 for no crop, None for an eighth of the shorter side (4 at 32 pixels).
    """
    images = source.images()
    border = default_padding(images) if padding is None else padding
    shift = integers(source.per_image("crop", 2), 2 * border + 1) - border
    mirrored = source.per_image("flip", 1)[:, 0] < 0.5
    return crop_flip(images, source.tensor(shift), source.tensor(mirrored))


def default_padding(images: Tensor) -> int:
    """The border of a random crop: an eighth of the shorter side of `images` (B, C, H, W), at least 1."""
    return max(1, round(min(images.shape[2:]) / 8))


def crop_flip(images: Tensor, shift: Tensor, mirrored: Tensor) -> Tensor:
    """Windows moved by `shift` (B, 2), rows then columns, black outside, of which those in `mirrored` (B,) are flipped.

    `images` is (B, C, H, W) of any type and comes back in the same type, channels last.
    """
    batch, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) + shift[:, :1]
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = torch.where(mirrored.unsqueeze(1), columns.flip(1), columns) + shift[:, 1:]
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    rows = rows.clamp(0, height - 1) + torch.arange(0, batch * height, height, device=images.device).unsqueeze(1)
    pixel = rows.unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    return _take_pixels(images, pixel, inside)


def unit(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return images.float().div_(255)


def _take_pixels(images: Tensor, pixel: Tensor, inside: Tensor) -> Tensor:
    """Pixels number `pixel` (B, H, W), counted through the batch, and 0 where not `inside`."""
    batch, channels, height, width = images.shape
    flat = images.permute(0, 2, 3, 1).reshape(-1, channels)
    taken = flat.index_select(0, pixel.reshape(-1)).reshape(batch, height, width, channels)
    return taken.mul_(inside.unsqueeze(3)).permute(0, 3, 1, 2)
