"""One epoch of training batches: the order of the images, each worker's share, and the source that
an augmentation draws from.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from distill_ray.augmentation.augmentation import Augmentation, Batch, Part, Per
from distill_ray.augmentation.draws import Draws
from distill_ray.augmentation.to_device import send

AHEAD = 4
"""How many batches ahead images on a disk are fetched."""


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


def epoch_batches(
    augmentation: Augmentation,
    images: ArrayLike | Tensor | RowsOnDisk,
    labels: ArrayLike | Tensor,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    device: torch.device | str,
    rows: ArrayLike | None = None,
    mean: Sequence[float] | None = None,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    first_step: int = 0,
) -> Iterator[Batch]:
    """The batches of one epoch, in an order that (seed, epoch) decides, beginning with step
    `first_step`.

    `images` is uint8 (N, H, W, C), or float32 for an augmentation that takes real numbers: an array
    (memory-mapped or not), a tensor that may already live on `device`, or rows on a disk, of which
    only those of a few batches are in memory. `labels` is (N,), integers or real numbers. `rows`
    (n,) says which of them are the training split, all by default. `mean` is the mean colour of the
    data set, one number in [0, 1] per channel, which some augmentations erase to. `batch_size`
    counts the images of all `world_size` workers together; worker `rank` gets its contiguous share
    of every batch. On a GPU nothing here waits for the device.

    Raises `ValueError` when the arrays do not match, when the augmentation cannot be applied to
    such images, or when a batch is too small to give every worker an image.
    """
    draws, device = Draws(seed, epoch), torch.device(device)
    pixels, targets = (
        images if isinstance(images, RowsOnDisk) else _as_tensor(images),
        _as_tensor(labels),
    )
    targets = targets.float() if targets.is_floating_point() else targets.long()
    wanted = "uint8 or float32" if augmentation.real_valued else "uint8"
    if (
        str(pixels.dtype).removeprefix("torch.") not in wanted.split(" or ")
        or len(pixels.shape) != 4
    ):
        raise ValueError(
            f"images must be {wanted} (N, H, W, C), found {pixels.dtype} {tuple(pixels.shape)}"
        )
    if targets.shape != pixels.shape[:1]:
        raise ValueError(
            f"labels must be ({pixels.shape[0]},) like the images, found {tuple(targets.shape)}"
        )
    augmentation.check_images(pixels.shape[3], pixels.shape[1], pixels.shape[2])
    split = np.arange(pixels.shape[0]) if rows is None else np.asarray(rows, dtype=np.int64)
    total = len(split)
    steps = steps_per_epoch(total, batch_size, drop_last)
    smallest = batch_size if steps * batch_size <= total else total % batch_size
    if steps == 0 or smallest < world_size:
        raise ValueError(
            f"batch_size {batch_size} splits {total} images into {steps} batches, the last of {smallest}: "
            f"too few for {world_size} workers{'' if drop_last else '; drop_last leaves the last one out'}"
        )
    order = torch.from_numpy(split[draws.permutation("order", total)])
    order_of_images = order.to(pixels.device) if isinstance(pixels, Tensor) else order
    store = _Store(pixels, targets, order, order_of_images, order.to(targets.device), mean)

    def limits(step: int) -> tuple[int, int]:
        return step * batch_size, min((step + 1) * batch_size, total)

    def fetch(step: int) -> None:
        if isinstance(pixels, RowsOnDisk) and step < steps:
            start, stop = share(*limits(step), rank, world_size)
            pixels.will_read(order[start:stop].numpy())

    def batches() -> Iterator[Batch]:
        for step in range(first_step, first_step + AHEAD):
            fetch(step)
        for step in range(first_step, steps):
            fetch(step + AHEAD)
            first, last = limits(step)
            places = [share(first, last, each, world_size) for each in range(world_size)]
            start, stop = places[rank]
            parts = augmentation.parts(
                BatchSource(store, draws, step, first, last, start, stop, device)
            )
            yield Batch(
                parts=tuple(
                    _addressed(part, number, start, stop) for number, part in enumerate(parts)
                ),
                positions=torch.arange(start, stop),
                rows=order[start:stop],
                weight=(stop - start) * world_size / (last - first),
                step=step,
                draws=draws,
                shares=tuple(behind - before for before, behind in places),
            )

    return batches()


def _addressed(part: Part, number: int, start: int, stop: int) -> Part:
    """`part` with its number, and with the place of every image if each of the share has as many
    versions in it.
    """
    versions, uneven = divmod(len(part.images), stop - start)
    if uneven:
        return replace(part, number=number)
    positions = torch.arange(start, stop)
    places = (
        positions
        if versions == 1
        else torch.cat([positions * versions + version for version in range(versions)])
    )
    return replace(part, number=number, places=places)


def steps_per_epoch(images: int, batch_size: int, drop_last: bool = False) -> int:
    """How many batches one pass over that many images has."""
    return images // batch_size if drop_last else -(-images // batch_size)


def share(first: int, last: int, rank: int, world_size: int) -> tuple[int, int]:
    """Worker `rank`'s contiguous share (start, stop) of the positions from `first` to `last`;
    shares differ by at most one.
    """
    size = last - first
    return first + size * rank // world_size, first + size * (rank + 1) // world_size


@dataclass(frozen=True)
class _Store:
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

    store: _Store
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
        return len(self.store.order)

    @property
    def mean(self) -> Tensor:
        """The mean colour of the data set, float32 (C, 1, 1) on the device. Raises `ValueError`
        when it was not given.
        """
        if self.store.mean is None:
            raise ValueError("mean: this augmentation needs the mean colour of the data set")
        return self.tensor(np.array(self.store.mean, np.float32)).view(-1, 1, 1)

    def images(self, positions: NDArray[np.int64] | None = None) -> Tensor:
        """The unchanged images of this share, or of any `positions` (B,): (B, C, H, W) on the
        device, channels last.
        """
        return self._take(self.store.images, self.store.order_of_images, positions).permute(
            0, 3, 1, 2
        )

    def labels(self, positions: NDArray[np.int64] | None = None) -> Tensor:
        """The labels that belong to `images(positions)`: int64 or float32 (B,) on the device."""
        return self._take(self.store.labels, self.store.order_of_labels, positions)

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
        return send(torch.from_numpy(array), self.device)

    def _take(
        self, values: Tensor | RowsOnDisk, order: Tensor, positions: NDArray[np.int64] | None
    ) -> Tensor:
        if positions is None:
            rows = order[self.start : self.stop]
        else:
            rows = order.index_select(0, send(torch.from_numpy(positions), order.device))
        taken = (
            values.index_select(0, rows)
            if isinstance(values, Tensor)
            else torch.from_numpy(values[rows.numpy()])
        )
        return send(taken, self.device)


def _as_tensor(values: ArrayLike | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values
    with warnings.catch_warnings():
        # It is only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(values))
