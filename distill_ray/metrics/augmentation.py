"""T. stddev: how good an augmentation is for distillation, judged by the teacher alone."""

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.uncertainty import entropy


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

    def __init__(self, blocks: int = 10) -> None:
        self.blocks = blocks
        self._open: list[FloatArray] = []
        self._means: list[FloatArray] = []
        self._entropy = 0.0
        self._samples = 0

    def update(self, log_probabilities: ArrayLike) -> None:
        """Adds one block (rows, K). Raises ValueError for another shape, other classes than before,
        or NaN.
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
        if len(self._open) == self.blocks:
            self._means.append(np.concatenate(self._open).mean(axis=0))
            self._open = []

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
