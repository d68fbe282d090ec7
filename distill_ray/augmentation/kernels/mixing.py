"""Images mixed from two: which two, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.augmentation import Part
from distill_ray.augmentation.draws import Draws, beta, integers, order_of
from distill_ray.augmentation.kernels import boxes
from distill_ray.augmentation.kernels.geometry import take, unit

if TYPE_CHECKING:
    from distill_ray.augmentation.draws import Per
    from distill_ray.augmentation.source import BatchSource

Scheme = Literal["mixup", "cutmix"]

Make = Callable[[NDArray[np.int64], str | None], Tensor]
"""What makes the augmented images of any positions (B,), by their own draws or by those of a name.
"""


def mix(
    source: BatchSource,
    images: Tensor,
    make: Make,
    scheme: Scheme,
    alpha: float,
    per: Per,
    stream: str = "",
) -> Part:
    """The share's `images` (B, C, H, W), already augmented, uint8 or float in [0, 1], mixed with
    partners that `make` augments alike.

    Per batch, one weight, one box and one order of the batch are drawn, and the partner of an image
    is the one that comes to its place. Under mixup an image may meet itself, under CutMix it never
    does. Per image, each has a weight and a box of its own and a partner out of the whole training
    split, with augmentation of its own.
    """
    if per == "image":
        positions = integers(source.uniform(f"{stream}partner", 1)[:, 0], source.epoch_size)
        partners = make(positions, f"{stream}partner's ")
    else:
        order = batch_order(
            source.draws,
            f"{stream}partner",
            source.first,
            source.last,
            meets_itself=scheme == "mixup",
        )
        positions = source.first + order[source.start - source.first : source.stop - source.first]
        whole = len(source) == len(order)
        partners = take(images, source.tensor(order)) if whole else make(positions, None)
    weight = beta(source.uniform(f"{stream}weight", 1, per)[:, 0], alpha)
    if scheme == "mixup":
        mixed = mixup(unit(images), unit(partners), source.tensor(weight.astype(np.float32)))
    else:
        height, width = images.shape[2:]
        centres = boxes.centres(source.uniform(f"{stream}box", 2, per), height, width)
        corners, weight = boxes.cutmix_box(weight, *centres, height, width)
        mixed = unit(
            torch.where(boxes.inside(source.tensor(corners), height, width), partners, images)
        )
    return Part(
        mixed, source.labels(), source.labels(positions), source.tensor(weight.astype(np.float32))
    )


def mixup(images: Tensor, partners: Tensor, weight: Tensor) -> Tensor:
    """`weight * images + (1 - weight) * partners` for weights (B,). Source: Zhang et al. 2018,
    "mixup".
    """
    weight = weight.view(-1, *[1] * (images.ndim - 1))
    return images * weight + partners * (1 - weight)


def batch_order(
    draws: Draws, purpose: str, first: int, last: int, *, meets_itself: bool
) -> NDArray[np.int64]:
    """A uniformly distributed order of the batch with positions from `first` to `last`: (last -
    first,), counted from 0.

    Unless a number may meet itself, it is one of those where none keeps its place; a batch of one
    image has no such order and keeps it.
    """
    own = np.arange(last - first)
    attempt = 0
    while True:
        order = order_of(draws.uniform(f"{purpose} {attempt}", first, last, 1)[:, 0])
        if meets_itself or len(own) == 1 or not (order == own).any():
            return order
        attempt += 1
