"""Shifted test images, unlike those seen in training: moved, rotated or brightened, each at five
levels.

Source: Ferianc & Rodrigues 2022 (Hydra+), as coded; filled with black, nearest-neighbour.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from distill_ray.augmentation.kernels.geometry import Grid, fixed_point, rotation

LEVELS: dict[str, tuple[float, ...]] = {
    "horizontal-shift": (0.1, 0.2, 0.3, 0.4, 0.5),
    "vertical-shift": (0.1, 0.2, 0.3, 0.4, 0.5),
    "rotation": (15, 30, 45, 60, 75),
    "brightness": (1.1, 1.2, 1.3, 1.4, 1.5),
}
"""How far images go: shares of the width to the right and of the height down, degrees clockwise,
factors of the brightness.
"""


def shifted(images: np.ndarray, kind: str, amount: float) -> np.ndarray:
    """uint8 `images` (N, H, W, C) shifted: uint8 again, but float32 in [0, 1] for a brightness,
    which is not rounded.
    """
    changed: np.ndarray = _SHIFTS[kind](images, amount)
    return changed


def _right(images: np.ndarray, share: float) -> np.ndarray:
    pixels = round(images.shape[2] * share)
    moved = np.zeros_like(images)
    moved[:, :, pixels:] = images[:, :, : images.shape[2] - pixels]
    return moved


def _down(images: np.ndarray, share: float) -> np.ndarray:
    return _right(images.swapaxes(1, 2), share).swapaxes(1, 2)


def _clockwise(images: np.ndarray, degrees: float) -> np.ndarray:
    batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    matrices = rotation(np.array([-degrees]), *images.shape[1:3])
    turned = Grid.of(batch).affine(torch.from_numpy(fixed_point(matrices))).show(batch)
    return turned.permute(0, 2, 3, 1).numpy()


def _brighter(images: np.ndarray, factor: float) -> np.ndarray:
    return np.minimum(images.astype(np.float32) / 255 * np.float32(factor), 1)


_SHIFTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "horizontal-shift": _right,
    "vertical-shift": _down,
    "rotation": _clockwise,
    "brightness": _brighter,
}
