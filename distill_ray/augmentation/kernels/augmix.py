"""AugMix: chains of operations, mixed with each other and with the image they began from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import integers, shares
from distill_ray.augmentation.kernels import opencv
from distill_ray.augmentation.kernels.geometry import Floats, unit
from distill_ray.augmentation.kernels.policy import Names, apply

if TYPE_CHECKING:
    from distill_ray.augmentation.source import BatchSource

LONGEST = 3
"""Operations in the longest chain."""

OPERATIONS = np.array(
    [
        "autocontrast-by-table",
        "equalize",
        "posterize",
        "rotate",
        "solarize",
        "shear-x",
        "shear-y",
        "translate-x",
        "translate-y",
    ]
)


def augmix(
    source: BatchSource,
    images: Tensor,
    severity: float,
    width: int,
    depth: int | None,
    stream: str = "",
) -> Tensor:
    """The share's uint8 `images` (B, C, H, W) mixed with `width` chains of `depth` operations (1 to
    3 if None): float in [0, 1].

    Weights of the chains are Dirichlet(1, ..., 1), the weight of all of them against the image
    Beta(1, 1). Every level is uniform in [0.1, severity].

    Source: Hendrycks et al. 2020, "AugMix", and its code, whose operations are Pillow's,
    interpolating between pixels.
    """
    batch = len(images)
    photographs = opencv.suits(images)
    chains = (
        torch.cat([images] * width) if photographs else images.contiguous().repeat(width, 1, 1, 1)
    )
    drawn = [source.uniform(f"{stream}chain {chain}", 1 + 3 * LONGEST) for chain in range(width)]
    per_chain = np.concatenate(drawn)
    length = (
        integers(per_chain[:, 0], LONGEST) + 1 if depth is None else np.full(len(chains), depth)
    )
    for turn in range(LONGEST):
        which, level, sign = (
            per_chain[:, 1 + turn],
            per_chain[:, 1 + LONGEST + turn],
            per_chain[:, 1 + 2 * LONGEST + turn],
        )
        names = np.where(turn < length, OPERATIONS[integers(which, len(OPERATIONS))], "")
        strength = 0.1 + (severity - 0.1) * level
        amount = amounts(names, strength, sign < 0.5, *images.shape[2:])
        chains = apply(source, chains, names, amount, between_pixels=True)
    weights = (
        shares(source.uniform(f"{stream}chains", width - 1)) if width > 1 else np.ones((batch, 1))
    )
    share = source.uniform(f"{stream}share", 1)[:, 0]
    if photographs:
        return opencv.blend(images, chains, weights, share)
    return blend(
        unit(images),
        unit(chains).view(width, batch, *images.shape[1:]),
        source.tensor(weights),
        source.tensor(share),
    )


def amounts(
    names: Names, strength: Floats, negative: NDArray[np.bool_], height: int, width: int
) -> Floats:
    """What levels between 0 and 10 mean for each operation, in its own unit."""
    largest = {
        "rotate": 30.0,
        "shear-x": 0.3,
        "shear-y": 0.3,
        "translate-x": width / 3,
        "translate-y": height / 3,
    }
    result = np.zeros(len(names))
    for name in np.unique(names):
        where = names == name
        if name == "posterize":
            result[where] = 4 - np.trunc(strength[where] * 4 / 10)
        elif name == "solarize":
            result[where] = 256 - np.trunc(strength[where] * 256 / 10)
        elif name in largest:
            size = strength[where] * largest[name] / 10
            size = size if name.startswith("shear") else np.trunc(size)
            result[where] = np.where(negative[where], -size, size)
    return result


def blend(images: Tensor, chains: Tensor, weights: Tensor, share: Tensor) -> Tensor:
    """`(1 - share) * images + share * sum_j weights_j * chains_j`.

    `images` is (B, ...), `chains` (J, B, ...), `weights` (B, J) and `share` (B,).
    """
    shape = (-1, *[1] * (images.ndim - 1))
    mixed = torch.zeros_like(images)
    for chain, weight in zip(chains, weights.to(images).unbind(1), strict=True):
        mixed += chain * weight.view(shape)
    share = share.to(images).view(shape)
    return images * (1 - share) + mixed * share
