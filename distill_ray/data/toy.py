"""The two toy tasks of Hydra+, small enough to see what a network has learned: points on a spiral,
and a noisy curve.

Both are made from a fixed seed wherever they are asked for. An input is a vector of D real numbers,
an image of shape (1, 1, D), without scaling. Source: code of Ferianc & Rodrigues 2022; the test
splits are larger than theirs.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from distill_ray._lazy import LazyModule
from distill_ray.data.source import SOURCES, Generated, SplitName, pick_label

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill_ray.data import pixels
else:
    np = LazyModule("numpy")
    pixels = LazyModule("distill_ray.data.pixels")

SEED = 1
VERSION = 1
"""Part of the digests. Raise it when the same name comes to mean other numbers."""


class Toy(Generated):
    """What the two have in common: they make inputs (N, D) and labels (N,) for either split."""

    label_columns = ("label",)

    def __init__(self, label: str | None = None) -> None:
        self.location = self.name
        self.label = pick_label(label, self.label_columns, self.name)

    @abstractmethod
    def samples(self, split: SplitName) -> tuple[NDArray[np.float64], np.ndarray]:
        """Inputs (N, D) and labels (N,) of `split`."""

    @cached_property
    def digest(self) -> str:
        """Stands for the rule, since the last digits of the numbers may differ between machines."""
        return hashlib.sha256(
            f"distill_ray {self.name} {VERSION} seed {SEED}".encode()
        ).hexdigest()[:32]

    def images(self, split: SplitName) -> pixels.Images:
        """The samples as float32 (N, 1, 1, D), with mean 0 and standard deviation 1, which change
        nothing.
        """
        inputs, labels = self.samples(split)
        width = inputs.shape[1]
        values = inputs.astype(np.float32).reshape(-1, 1, 1, width)
        return pixels.Images(
            values, labels, self.class_names, self.digest, (0.0,) * width, (1.0,) * width
        )

    def uniform(self, split: SplitName, count: int, numbers: int) -> NDArray[np.float64]:
        """Numbers inside (0, 1), (count, numbers): the raw output of Philox, which NumPy keeps
        stable.
        """
        key = hashlib.sha256(f"distill_ray {self.name} {split} {SEED}".encode()).digest()
        words = np.random.Philox(key=np.frombuffer(key[:16], "<u8")).random_raw(count * numbers)
        return ((words >> np.uint64(11)).astype(np.float64) + 0.5).reshape(
            count, numbers
        ) * 2.0**-53


@SOURCES.register("toy-spiral")
class Spiral(Toy):
    """`toy-spiral`: which of three arms of a spiral a point of the plane lies on; 90 training and
    1000 test points per arm.
    """

    name = "toy-spiral"
    class_names = ("arm 0", "arm 1", "arm 2")

    def rows(self, split: SplitName) -> int:
        """The number of points in `split`."""
        return len(self.class_names) * (90 if split == "train" else 1000)

    def samples(self, split: SplitName) -> tuple[NDArray[np.float64], np.ndarray]:
        """Points (N, 2), the arms in turn."""
        arms = np.arange(self.rows(split), dtype=np.int64) % len(self.class_names)
        drawn = self.uniform(split, len(arms), 3)
        return spiral(drawn[:, 0], drawn[:, 1:] / 2, arms), arms


@SOURCES.register("toy-regression")
class Regression(Toy):
    """`toy-regression`: a curve on [-6, 6]. 240 training inputs at random with noise of variance 1,
    then 30 equally spaced ones without noise, meant for validation (`validation: 30, split: last`);
    300 for testing, equally spaced and without noise.
    """

    name = "toy-regression"
    task = "regression"
    class_names = ()

    def rows(self, split: SplitName) -> int:
        """The number of inputs in `split`."""
        return 270 if split == "train" else 300

    def samples(self, split: SplitName) -> tuple[NDArray[np.float64], np.ndarray]:
        """Inputs (N, 1) and float32 targets."""
        if split == "test":
            inputs = np.linspace(-6, 6, 300)
            return inputs[:, None], curve(inputs).astype(np.float32)
        from scipy.special import ndtri

        drawn = self.uniform(split, 240, 2)
        noisy, exact = 12 * drawn[:, 0] - 6, np.linspace(-6, 6, 30)
        targets = np.concatenate([curve(noisy) + ndtri(drawn[:, 1]), curve(exact)])
        return np.concatenate([noisy, exact])[:, None], targets.astype(np.float32)


@SOURCES.register("toy-spiral-grid")
class SpiralGrid(Toy):
    """`toy-spiral-grid`: the plane around the spiral, 100 by 100 points on [-20, 20]², to see how
    uncertain networks are there.

    There is nothing to train on, and the labels mean nothing.
    """

    name = "toy-spiral-grid"
    class_names = Spiral.class_names

    def rows(self, split: SplitName) -> int:
        """The number of points in `split`."""
        return 0 if split == "train" else 10_000

    def samples(self, split: SplitName) -> tuple[NDArray[np.float64], np.ndarray]:
        """Points (N, 2), y the faster one."""
        axis = np.linspace(-20, 20, 100)
        return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2), np.zeros(
            10_000, dtype=np.int64
        )


@SOURCES.register("toy-regression-outside")
class RegressionOutside(Toy):
    """`toy-regression-outside`: of 1000 equally spaced inputs on [-12, 12] those 6.5 or farther
    from 0, where none was learned.

    There is nothing to train on.
    """

    name = "toy-regression-outside"
    task = "regression"
    class_names = ()

    def rows(self, split: SplitName) -> int:
        """The number of inputs in `split`."""
        return 0 if split == "train" else len(self.samples(split)[0])

    def samples(self, split: SplitName) -> tuple[NDArray[np.float64], np.ndarray]:
        """Inputs (N, 1) and float32 targets."""
        inputs = np.linspace(-12, 12, 1000)
        inputs = inputs[np.abs(inputs) >= 6.5]
        return inputs[:, None], curve(inputs).astype(np.float32)


def spiral(
    share: NDArray[np.float64], noise: NDArray[np.float64], arms: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Points (N, 2): t = 2 pi sqrt(share), (t cos t, t sin t) plus `noise` (N, 2), turned left by
    120 degrees per arm.
    """
    t = 2 * np.pi * np.sqrt(share)
    x, y = t * np.cos(t) + noise[:, 0], t * np.sin(t) + noise[:, 1]
    angle = arms * (2 * np.pi / 3)
    return np.stack(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1
    )


def curve(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """sin x - 0.1 x + 0.1 x² + 0.01 x³, for x of any shape. Source: the toy regression of Ferianc &
    Rodrigues 2022, as coded.
    """
    return np.asarray(np.sin(x) - 0.1 * x + 0.1 * x**2 + 0.01 * x**3)
