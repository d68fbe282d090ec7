"""What an augmentation makes a batch from: the images of an epoch, and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation.draws import Draws, Per
from distill_ray.device import to_device


@dataclass(frozen=True)
class EpochImages:
    """The images, and the rows of the training split by address: on the host, with the images, with
    the labels.

    An address is a position in the epoch's order; with versions it is the image's place in the
    split, which is the same in every epoch and for every seed.
    """

    images: Tensor | RowsOnDisk
    labels: Tensor
    order: Tensor
    order_of_images: Tensor
    order_of_labels: Tensor
    mean: Sequence[float] | None
    shape: tuple[int, int]
    """Height and width that networks see; the images may be larger."""
    strips: StripsOfRows | None = None
    """What whole images have beyond `images`, the squares in their middle."""
    drawn: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    """With versions the numbers of the whole epoch by purpose and count, as images are shown in
    another order than they are addressed in.
    """


@dataclass(frozen=True)
class BatchSource:
    """What an augmentation makes a batch from: the images of the epoch, and random numbers, both by
    address.

    The whole batch has the positions from `first` to `last`, this worker's share those from `start`
    to `stop`. They are the addresses of its images, unless there are `places` (B,), which are then.
    Draws are NumPy arrays on the host, so that an augmentation can decide by them
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
    places: NDArray[np.int64] | None = None

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

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images that networks see."""
        return self.epoch.shape

    @property
    def margin(self) -> tuple[int, int]:
        """By how much the whole images are higher and wider."""
        (height, width), whole = self.shape, self.epoch.images.shape
        return whole[1] - height, whole[2] - width

    def whole_images(self, positions: NDArray[np.int64] | None = None) -> Tensor:
        """The images of this share, or of any addresses `positions` (B,), as they are kept: (B, C,
        H, W) on the device, channels last, maybe larger than networks see them.
        """
        return self._take(self.epoch.images, self.epoch.order_of_images, positions).permute(
            0, 3, 1, 2
        )

    def images(self, positions: NDArray[np.int64] | None = None) -> Tensor:
        """The middle of `whole_images`, in the size that networks see."""
        whole, (height, width), margin = self.whole_images(positions), self.shape, self.margin
        top, left = margin[0] // 2, margin[1] // 2
        return whole[:, :, top : top + height, left : left + width]

    def rectangles(self, positions: NDArray[np.int64] | None = None) -> Rectangles:
        """The images of this share, or of any addresses `positions` (B,), whole: `whole_images` and
        what lies outside them.
        """
        squares, strips = self.whole_images(positions), self.epoch.strips
        if strips is None:
            return Rectangles(squares)
        addresses = self.places if positions is None else positions
        if addresses is None:
            rows = self.epoch.order[self.start : self.stop].numpy()
        else:
            rows = self.epoch.order.numpy()[addresses]
        margins = strips.margins[rows]
        if not margins.any():
            return Rectangles(squares)
        flat = self.tensor(np.concatenate(strips.of_rows(rows)))
        return Rectangles(squares, margins, flat)

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
        """`count` numbers in [0, 1) for each image of this share, or of any addresses `positions`:
        (B, count).

        Per image they belong to its address, in whatever batch it lies; per batch all workers and
        images have the same, which versions do not allow.
        """
        if per == "batch":
            drawn = self.draws.uniform(f"{purpose} per batch", self.step, self.step + 1, count)
            return np.repeat(drawn, len(self), axis=0)
        if self.places is not None:
            return self._of_epoch(purpose, count)[self.places if positions is None else positions]
        if positions is None:
            return self.draws.uniform(purpose, self.start, self.stop, count)
        lowest, highest = int(positions.min()), int(positions.max())
        return self.draws.uniform(purpose, lowest, highest + 1, count)[positions - lowest]

    def _of_epoch(self, purpose: str, count: int) -> NDArray[np.float64]:
        drawn = self.epoch.drawn
        if (purpose, count) not in drawn:
            drawn[purpose, count] = self.draws.uniform(purpose, 0, self.epoch_size, count)
        return drawn[purpose, count]

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """`array` as a tensor on the device."""
        return to_device(torch.from_numpy(array), self.device)

    def _take(
        self, values: Tensor | RowsOnDisk, order: Tensor, positions: NDArray[np.int64] | None
    ) -> Tensor:
        positions = self.places if positions is None else positions
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


@dataclass(frozen=True)
class Rectangles:
    """Images of one shorter side and any longer one, on the device: the `squares` in their middle,
    (B, C, S, S), and the strips outside these. Where there are no strips, squares may be any
    images.

    `margins` (B,) has the width of both strips of an image, or their height as a negative number;
    `strips` is one tensor of their pixels (H, W, C), flat, image by image.
    """

    squares: Tensor
    margins: NDArray[np.int64] | None = None
    strips: Tensor | None = None

    def __len__(self) -> int:
        return len(self.squares)

    @cached_property
    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Height (B,) and width (B,) of each image."""
        margins = np.zeros(len(self), np.int64) if self.margins is None else self.margins
        height, width = self.squares.shape[2:]
        return height + 2 * np.maximum(-margins, 0), width + 2 * np.maximum(margins, 0)

    def __getitem__(self, number: int) -> Tensor:
        """A whole image (C, H, W), channels last."""
        square = self.squares[number]
        if self.margins is None or self.strips is None or not self.margins[number]:
            return square
        channels, side, _ = square.shape
        margin, begin = int(self.margins[number]), int(self._begins[number])
        strips = self.strips[begin : begin + 2 * abs(margin) * side * channels]
        shape = (2, side, margin, channels) if margin > 0 else (2, -margin, side, channels)
        before, after = strips.view(shape)
        along = 1 if margin > 0 else 0
        return torch.cat([before, square.permute(1, 2, 0), after], along).permute(2, 0, 1)

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """Where the strips of each image begin."""
        assert self.margins is not None
        _, channels, side, _ = self.squares.shape
        sizes: NDArray[np.int64] = 2 * np.abs(self.margins) * side * channels
        begins: NDArray[np.int64] = np.cumsum(sizes) - sizes
        return begins


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


class StripsOfRows(Protocol):
    """What lies outside the squares of a split, such as `distill_ray.data.strips.StripsInFile`."""

    margins: NDArray[np.int64]
    """(N,), see `Rectangles`."""

    def of_rows(self, rows: NDArray[np.int64]) -> Sequence[NDArray[np.uint8]]:
        """The pixels of both strips of each of these `rows` (B,), flat."""

    def will_read(self, rows: NDArray[np.int64]) -> None:
        """Begin to fetch `rows`, without waiting for them."""
