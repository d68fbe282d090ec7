"""What an augmentation makes a batch from: the images of an epoch, and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import Draws, Per
from distill_ray.device import to_device


@dataclass(frozen=True)
class EpochImages:
    """The images, and the rows of the training split in the epoch's order: on the host, with the
    images, with the labels.
    """

    images: Tensor | RowsOnDisk
    labels: Tensor
    order: Tensor
    order_of_images: Tensor
    order_of_labels: Tensor
    mean: Sequence[float] | None


@dataclass(frozen=True)
class BatchSource:
    """What an augmentation makes a batch from: the images of the epoch by position, and random
    numbers by address.

    The whole batch has the positions from `first` to `last`, this worker's share those from `start`
    to `stop`. Draws are NumPy arrays on the host, so that an augmentation can decide by them
    without waiting for the device; `tensor` carries what it derives from them over.
    """

    epoch: EpochImages
    draws: Draws
    step: int
    first: int
    last: int
    start: int
    stop: int
    device: torch.device

    def __len__(self) -> int:
        """Images in this worker's share."""
        return self.stop - self.start

    @property
    def within(self) -> tuple[int, int]:
        """This worker's share, counted from the beginning of the whole batch."""
        return self.start - self.first, self.stop - self.first

    @property
    def epoch_size(self) -> int:
        """Images in the training split."""
        return len(self.epoch.order)

    @property
    def mean(self) -> Tensor:
        """The mean colour of the data set, float32 (C, 1, 1) on the device. Raises `ValueError`
        when it was not given.
        """
        if self.epoch.mean is None:
            raise ValueError("mean: this augmentation needs the mean colour of the data set")
        return self.tensor(np.array(self.epoch.mean, np.float32)).view(-1, 1, 1)

    def images(self, positions: NDArray[np.int64] | None = None) -> Tensor:
        """The unchanged images of this share, or of any `positions` (B,): (B, C, H, W) on the
        device, channels last.
        """
        return self._take(self.epoch.images, self.epoch.order_of_images, positions).permute(
            0, 3, 1, 2
        )

    def labels(self, positions: NDArray[np.int64] | None = None) -> Tensor:
        """The labels that belong to `images(positions)`: int64 or float32 (B,) on the device."""
        return self._take(self.epoch.labels, self.epoch.order_of_labels, positions)

    def uniform(
        self,
        purpose: str,
        count: int,
        per: Per = "image",
        positions: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """`count` numbers in [0, 1) for each image of this share, or of any `positions`: (B,
        count).

        Per image they belong to its position, in whatever batch it lies; per batch all workers and
        images have the same.
        """
        if per == "batch":
            drawn = self.draws.uniform(f"{purpose} per batch", self.step, self.step + 1, count)
            return np.repeat(drawn, len(self), axis=0)
        if positions is None:
            return self.draws.uniform(purpose, self.start, self.stop, count)
        lowest, highest = int(positions.min()), int(positions.max())
        return self.draws.uniform(purpose, lowest, highest + 1, count)[positions - lowest]

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """`array` as a tensor on the device."""
        return to_device(torch.from_numpy(array), self.device)

    def _take(
        self, values: Tensor | RowsOnDisk, order: Tensor, positions: NDArray[np.int64] | None
    ) -> Tensor:
        if positions is None:
            rows = order[self.start : self.stop]
        else:
            rows = order.index_select(0, to_device(torch.from_numpy(positions), order.device))
        taken = (
            values.index_select(0, rows)
            if isinstance(values, Tensor)
            else torch.from_numpy(values[rows.numpy()])
        )
        return to_device(taken, self.device)


@runtime_checkable
class RowsOnDisk(Protocol):
    """Images (N, H, W, C) that come into memory by rows, such as
    `distill_ray.data.pixels.PixelsOnDisk`.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those of these `rows` (B,)."""

    def will_read(self, rows: NDArray[np.int64]) -> None:
        """Begin to fetch `rows`, without waiting for them."""
