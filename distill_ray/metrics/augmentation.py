"""T. stddev: how good an augmentation is for distillation, judged by the teacher alone, and how far
chance moves it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray, IntegerArray
from distill_ray.metrics.uncertainty import entropy

BLOCKS = 20
"""Into so many blocks images are put, each of which is left out once."""

LEVEL = 0.95
"""Confidence level of intervals and of what counts as beyond chance."""

Name = TypeVar("Name")


@dataclass(frozen=True)
class Deviation:
    """T. stddev, and what it is without each block of images and without each teacher.

    These give its standard errors by the jackknife (Tukey 1958; delete-a-group: Kott 2001): over
    images, as if other images had been drawn, and over the teachers' seeds, as if other teachers
    had been trained. Both are empty where nothing could be left out. The error over images is
    conservative: T. stddev is the root of a sum of squares, whose variance the jackknife
    overestimates, by a factor of 2 at most (Efron & Stein 1981).
    """

    value: float
    without_images: tuple[float, ...] = ()
    without_teachers: tuple[float, ...] = ()

    @property
    def over_images(self) -> float | None:
        """The standard error over images."""
        return _jackknife(self.without_images)

    @property
    def over_teachers(self) -> float | None:
        """The standard error over teachers; None for a single one."""
        return _jackknife(self.without_teachers)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval over both together; None where no error is known."""
        half = _half_width(self.without_images, self.without_teachers, LEVEL)
        return None if half is None else (self.value - half, self.value + half)

    def is_behind(self, best: "Deviation", level: float = LEVEL) -> bool:
        """Whether it is higher than that of `best` beyond chance.

        Both were measured with the same images and teachers, so that the differences are judged:
        what the two have in common cancels. False where no error is known.
        """
        half = _half_width(
            _differences(self.without_images, best.without_images),
            _differences(self.without_teachers, best.without_teachers),
            level,
        )
        return half is not None and self.value - best.value > half


def not_behind(measured: Mapping[Name, Deviation], level: float = LEVEL) -> list[Name]:
    """The names of the lowest T. stddev and of all that cannot be told apart from it.

    The probability that chance leaves any of them out is at most 1 - `level`, whatever their number
    (Bonferroni).
    """
    if not measured:
        return []
    best = min(measured.values(), key=lambda deviation: deviation.value)
    level_of_each = 1 - (1 - level) / max(1, len(measured) - 1)
    return [name for name, value in measured.items() if not value.is_behind(best, level_of_each)]


def _differences(mine: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    if len(mine) != len(others):
        return ()
    return tuple(np.subtract(mine, others).tolist())


def _jackknife(without: Sequence[float]) -> float | None:
    """The standard error of a statistic from its values without each of n parts; n at least 2."""
    if len(without) < 2:
        return None
    return float(np.sqrt((len(without) - 1) * np.var(without)))


def _half_width(images: Sequence[float], teachers: Sequence[float], level: float) -> float | None:
    """Half the width of the interval over images and teachers, by Student's t with the degrees of
    freedom of Satterthwaite 1946.
    """
    from scipy.special import stdtrit

    parts = [
        (len(values) - 1, error) for values in (images, teachers) if (error := _jackknife(values))
    ]
    if not parts:
        return None if len(images) < 2 and len(teachers) < 2 else 0.0
    variance = sum(error**2 for _, error in parts)
    degrees = variance**2 / sum(error**4 / degrees for degrees, error in parts)
    return float(np.sqrt(variance) * stdtrit(degrees, (1 + level) / 2))


class TeacherDeviation:
    """T. stddev and mean entropy of a teacher's predictions, gathered while the training data pass
    by.

    Feed it, per iteration, one block of the teacher's log-probabilities (rows, K) at temperature 1
    for the batch and one for its augmented copy. Every `blocks` blocks close a group, whose rows
    are averaged; T. stddev is the standard deviation (unbiased) of these averages over the groups,
    averaged over the classes. Lower predicts a better student. The value decreases with the number
    of samples per group: compare only equal batches and blocks. Memory is K numbers per group.

    Source: Wang et al. 2022, "What makes a good data augmentation in knowledge distillation", as
    coded: groups of 10 blocks (5 iterations) that straddle epochs, short batches averaged by row,
    and an unfinished last group left out.
    """

    def __init__(self, blocks: int = 10, images: int = 0) -> None:
        """With `images`, the number of groups of images, it also says what T. stddev is without
        each of them.
        """
        self.blocks = blocks
        self.images = images
        self._open: list[FloatArray] = []
        self._open_images: list[IntegerArray] = []
        self._means: list[FloatArray] = []
        # Without each group of images: mean over the groups of blocks, and sum of squares about it
        self._mean_without: FloatArray | float = 0.0
        self._squares_without: FloatArray | float = 0.0
        self._entropy = 0.0
        self._samples = 0

    def update(self, log_probabilities: ArrayLike, images: ArrayLike | None = None) -> None:
        """Adds one block (rows, K), with the group that the image of each row is in (rows,). Raises
        ValueError for another shape, other classes than before, or NaN.
        """
        block = np.asarray(log_probabilities, np.float64)
        expected = (self._open or self._means or [block])[0].shape[-1:]
        if (
            block.ndim != 2
            or block.size == 0
            or block.shape[1:] != expected
            or np.isnan(block).any()
        ):
            raise ValueError(
                "log_probabilities: expected numbers of the shape (rows, classes), found "
                f"{block.shape}"
            )
        self._entropy += entropy(block).sum()
        self._samples += len(block)
        self._open.append(np.exp(block))
        if images is not None:
            self._open_images.append(np.asarray(images))
        if len(self._open) == self.blocks:
            rows = np.concatenate(self._open)
            self._means.append(rows.mean(axis=0))
            if self._open_images:
                self._leave_out(rows, np.concatenate(self._open_images))
            self._open, self._open_images = [], []

    def _leave_out(self, rows: FloatArray, images: IntegerArray) -> None:
        """Note the mean of a group without the rows of each group of images (Welford 1962)."""
        sums = np.zeros((self.images, rows.shape[1]))
        np.add.at(sums, images, rows)
        counts = np.bincount(images, minlength=self.images)
        left = np.maximum(len(rows) - counts, 1)[:, None]
        means = (rows.sum(axis=0) - sums) / left
        change = means - self._mean_without
        self._mean_without = self._mean_without + change / self.groups
        self._squares_without = self._squares_without + change * (means - self._mean_without)

    @property
    def without_images(self) -> tuple[float, ...]:
        """T. stddev without each group of images, brought to the size of a whole group of blocks:
        the deviation of a mean falls with the root of its number of rows.
        """
        if self.groups < 2 or self.images < 2:
            return ()
        deviations = np.sqrt(np.asarray(self._squares_without) / (self.groups - 1)).mean(axis=1)
        return tuple((deviations * np.sqrt(1 - 1 / self.images)).tolist())

    @property
    def groups(self) -> int:
        """Groups that are complete."""
        return len(self._means)

    @property
    def value(self) -> float:
        """T. stddev over the complete groups. Raises ValueError before there are two."""
        if self.groups < 2:
            raise ValueError(
                f"T. stddev needs 2 groups of {self.blocks} blocks or more, found {self.groups}"
            )
        return float(np.std(self._means, axis=0, ddof=1).mean())

    @property
    def mean_entropy(self) -> float:
        """Mean entropy, in nats, of all rows so far. Raises ValueError before there are any."""
        if not self._samples:
            raise ValueError("the mean entropy needs at least one block")
        return self._entropy / self._samples
