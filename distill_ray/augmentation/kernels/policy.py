"""Operations that differ from image to image, applied to a batch, and the policies made of them:
AutoAugment, RandAugment and TrivialAugment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import integers
from distill_ray.augmentation.kernels import colour, opencv
from distill_ray.augmentation.kernels.geometry import MAPS, Floats, Grid, bilinear, fixed_point

if TYPE_CHECKING:
    from distill_ray.augmentation.draws import Per
    from distill_ray.augmentation.source import BatchSource

Names = NDArray[np.str_]

COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": colour.brightness,
    "color": colour.saturation,
    "contrast": colour.contrast,
    "sharpness": colour.sharpness,
    "posterize": colour.posterize,
    "solarize": colour.solarize,
    "autocontrast": lambda images, _: colour.autocontrast(images),
    "autocontrast-by-table": lambda images, _: colour.autocontrast_by_table(images),
    "equalize": lambda images, _: colour.equalize(images),
    "invert": lambda images, _: colour.invert(images),
    "grey": lambda images, _: colour.grey(images),
    "hue": colour.hue,
    "blur": colour.blur,
}

Policy = Literal["cifar10", "imagenet"]

POLICIES: dict[Policy, str] = {
    "cifar10": """
        invert .1, contrast .2 6; rotate .7 2, translate-x .3 9; sharpness .8 1, sharpness .9 3
        shear-y .5 8, translate-y .7 9; autocontrast .5, equalize .9; shear-y .2 7, posterize .3 7
        color .4 3, brightness .6 7; sharpness .3 9, brightness .7 9; equalize .6, equalize .5
        contrast .6 7, sharpness .6 5; color .7 7, translate-x .5 8; equalize .3, autocontrast .4
        translate-y .4 3, sharpness .2 6; brightness .9 6, color .2 8; solarize .5 2, invert 0
        equalize .2, autocontrast .6; equalize .2, equalize .6; color .9 9, equalize .6
        autocontrast .8, solarize .2 8; brightness .1 3, color .7 0; solarize .4 5, autocontrast .9
        translate-y .9 9, translate-y .7 9; autocontrast .9, solarize .8 3; equalize .8, invert .1
        translate-y .7 9, autocontrast .9
    """,
    "imagenet": """
        posterize .4 8, rotate .6 9; solarize .6 5, autocontrast .6; equalize .8, equalize .6
        posterize .6 7, posterize .6 6; equalize .4, solarize .2 4; equalize .4, rotate .8 8
        solarize .6 3, equalize .6; posterize .8 5, equalize 1; rotate .2 3, solarize .6 8
        equalize .6, posterize .4 6; rotate .8 8, color .4 0; rotate .4 9, equalize .6
        equalize 0, equalize .8; invert .6, equalize 1; color .6 4, contrast 1 8
        rotate .8 8, color 1 2; color .8 8, solarize .8 7; sharpness .4 7, invert .6
        shear-x .6 5, equalize 1; color .4 0, equalize .6; equalize .4, solarize .2 4
        solarize .6 5, autocontrast .6; invert .6, equalize 1; color .6 4, contrast 1 8
        equalize .8, equalize .6
    """,
}
"""AutoAugment's sub-policies: two operations each, with probability and magnitude. Source: Cubuk et
al. 2019, tables 7 and 9.
"""


def sub_policies(policy: Policy) -> list[list[tuple[str, float, int]]]:
    """The sub-policies of `policy` as name, probability and magnitude (0 ... 9) of their two
    operations.
    """
    pairs = []
    for sub_policy in POLICIES[policy].strip().replace("\n", ";").split(";"):
        operations = [operation.split() for operation in sub_policy.split(",")]
        pairs.append(
            [
                (name, float(chance), int(level[0]) if level else 0)
                for name, chance, *level in operations
            ]
        )
    return pairs


def auto_augment(
    source: BatchSource, images: Tensor, policy: Policy, per: Per, stream: str = ""
) -> Tensor:
    """uint8 `images` of the share, each (or all alike, per batch) under a randomly drawn
    sub-policy.
    """
    table, images = sub_policies(policy), _laid_out(images)
    drawn = source.uniform(f"{stream}autoaugment", 5, per)
    chosen = integers(drawn[:, 0], len(table))
    for turn in (0, 1):
        names = np.array([sub_policy[turn][0] for sub_policy in table])[chosen]
        chances = np.array([sub_policy[turn][1] for sub_policy in table])[chosen]
        levels = np.array([sub_policy[turn][2] for sub_policy in table])[chosen]
        negative = drawn[:, 3 + turn] < 0.5
        names = np.where(drawn[:, 1 + turn] < chances, names, "")
        strengths = levels / 9
        images = apply(
            source, images, names, amounts(names, strengths, negative, *images.shape[2:])
        )
    return images


ANY = np.array(
    [
        "",
        "shear-x",
        "shear-y",
        "translate-x",
        "translate-y",
        "rotate",
        "brightness",
        "color",
        "contrast",
        "sharpness",
        "posterize",
        "solarize",
        "autocontrast",
        "equalize",
    ]
)
"""The operations that RandAugment and TrivialAugment draw from, none among them."""


def rand_augment(
    source: BatchSource,
    images: Tensor,
    operations: int,
    magnitude: int,
    at: NDArray[np.int64] | None = None,
) -> Tensor:
    """uint8 `images` of the share, or of the positions `at`, each under `operations` randomly drawn
    ones of `ANY`, all of strength `magnitude` / 30 of AutoAugment's largest.

    Source: Cubuk et al. 2020, "RandAugment", as in torchvision.
    """
    images = _laid_out(images)
    drawn = source.uniform("randaugment", 2 * operations, positions=at)
    strength = np.full(len(images), magnitude / 30)
    for which, sign in drawn.reshape(len(drawn), operations, 2).transpose(1, 2, 0):
        names = ANY[integers(which, len(ANY))]
        amount = amounts(names, strength, sign < 0.5, *images.shape[2:])
        images = apply(source, images, names, amount)
    return images


def trivial_augment(
    source: BatchSource, images: Tensor, at: NDArray[np.int64] | None = None
) -> Tensor:
    """uint8 `images` of the share, or of the positions `at`, each under one operation of `ANY` of a
    strength of its own, 0 to 30 thirtieths of a range wider than AutoAugment's.

    Source: Müller & Hutter 2021, "TrivialAugment", the wide space, as in torchvision.
    """
    images = _laid_out(images)
    which, level, sign = source.uniform("trivialaugment", 3, positions=at).T
    names = ANY[integers(which, len(ANY))]
    amount = amounts(names, integers(level, 31) / 30, sign < 0.5, *images.shape[2:], wide=True)
    return apply(source, images, names, amount)


def amounts(
    names: Names,
    strengths: Floats,
    negative: NDArray[np.bool_],
    height: int,
    width: int,
    *,
    wide: bool = False,
) -> Floats:
    """What `strengths` (n,) from 0 to 1 mean for each operation, in its own unit; `negative` turns
    those round that have a direction. The largest are AutoAugment's, or TrivialAugment's `wide`
    ones.
    """
    largest = {
        "shear-x": 0.99 if wide else 0.3,
        "shear-y": 0.99 if wide else 0.3,
        "translate-x": 32.0 if wide else 150 / 331 * width,
        "translate-y": 32.0 if wide else 150 / 331 * height,
        "rotate": 135.0 if wide else 30.0,
    }
    result = np.zeros(len(names))
    for name in np.unique(names):
        where = names == name
        strength = strengths[where]
        if name == "posterize":
            result[where] = 8 - np.round((6 if wide else 4) * strength)
        elif name == "solarize":
            result[where] = 255 - 255 * strength
        else:
            most = largest.get(name, 0.99 if wide else 0.9)
            signed = np.where(negative[where], -1, 1) * strength * most
            if name not in largest:
                signed = 1 + signed
            elif "translate" in name:
                signed = np.trunc(signed)
            result[where] = signed
    return result


def _laid_out(images: Tensor) -> Tensor:
    """`images` as `apply` goes through them fastest: channel by channel, or channels last."""
    return images if opencv.suits(images) else images.contiguous()


def apply(
    source: BatchSource,
    images: Tensor,
    names: Names,
    amount: Floats,
    *,
    between_pixels: bool = False,
) -> Tensor:
    """uint8 `images` (B, C, H, W), each changed by the operation of its name (B,) by its amount
    (B,); `""` changes nothing.

    Affine maps take the nearest pixel, or interpolate `between_pixels`. Photographs on a CPU are
    changed one by one with OpenCV.
    """
    if opencv.suits(images):
        return opencv.apply(images, names, amount, between_pixels)
    return apply_together(source, images, names, amount, between_pixels=between_pixels)


def apply_together(
    source: BatchSource,
    images: Tensor,
    names: Names,
    amount: Floats,
    *,
    between_pixels: bool = False,
) -> Tensor:
    """`apply` in tensor code, on any device: the images of one operation are changed together."""
    height, width = images.shape[2:]
    result = images.clone()
    maps = np.isin(names, list(MAPS))
    for name in np.unique(np.where(maps, "affine", names)):
        chosen = np.flatnonzero(maps if name == "affine" else names == name)
        if name == "":
            continue
        where = source.tensor(chosen)
        some = images.index_select(0, where)
        if name == "affine":
            matrices = np.zeros((len(chosen), 6))
            for kind in np.unique(names[chosen]):
                alike = names[chosen] == kind
                matrices[alike] = MAPS[kind](amount[chosen][alike], height, width)
            if between_pixels:
                some = bilinear(some, source.tensor(matrices))
            else:
                some = Grid.of(some).affine(source.tensor(fixed_point(matrices))).show(some)
        else:
            some = COLOURS[name](some, source.tensor(amount[chosen]))
        result.index_copy_(0, where, some)
    return result
