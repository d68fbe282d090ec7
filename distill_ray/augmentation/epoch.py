"""One epoch of training batches: the order of the images, and each worker's share of a batch; and
one version of all images, for their teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.augmentation.source import BatchSource, EpochImages, RowsOnDisk, StripsOfRows
from distill_ray.augmentation.versions import Versions, check_versions
from distill_ray.device import as_tensor

AHEAD = 4
"""How many batches ahead the images on a disk are fetched."""


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
    versions: Versions | None = None,
    shape: tuple[int, int] | None = None,
    strips: Callable[[], StripsOfRows] | None = None,
) -> Iterator[Batch]:
    """The batches of one epoch, in an order that is a function of (seed, epoch).

    On a GPU nothing here waits for the device.

    Args:
        augmentation: What turns the images into those that the networks see.
        images: uint8 (N, H, W, C), or float32 for an augmentation that takes real numbers: an array
            (memory-mapped or not), a tensor that may already be on `device`, or rows on a disk, of
            which only a few batches are in memory.
        labels: (N,), integers or real numbers.
        seed: Seed of the run.
        epoch: Number of the epoch; each has an order and random numbers of its own.
        batch_size: Images in a batch, those of all workers together.
        device: Where the batches are made.
        rows: (n,) which of the images are the training split; default: all.
        mean: The data set's mean colour, one number in [0, 1] per channel, which some augmentations
            erase to.
        rank: The worker, which gets its contiguous share of every batch.
        world_size: The number of workers.
        drop_last: Whether a last batch that is smaller than the others is left out.
        versions: The versions of the images, one of which the epoch shows; default: new images.
        shape: Height and width that networks see, if `images` are larger; default: as they are.
        strips: Gives what lies outside `images`, if these are the squares in the middle of others;
            it is asked only for an augmentation that crops from whole images.

    Yields:
        This worker's share of each batch.

    Raises:
        ValueError: the arrays do not match, the augmentation cannot be applied to such images, or a
            batch is too small to give every worker an image.
    """
    # What was passed
    draws, device = Draws(seed, epoch), torch.device(device)
    split = _Split.of(augmentation, images, labels, rows, shape, strips)
    total = len(split.rows)
    steps = steps_per_epoch(total, batch_size, drop_last)
    _check_shares(total, batch_size, steps, world_size, drop_last)

    # The order. With versions, images are addressed by their place in the split, else by position
    places = draws.permutation("order", total)
    order = torch.from_numpy(split.rows[places])
    if versions is None:
        of_images, of_epoch = draws, split.by_address(order, mean)
    else:
        check_versions(augmentation)
        of_images = Draws(versions.seed, versions.shown_in(epoch, seed))
        of_epoch = split.by_address(torch.from_numpy(split.rows), mean)

    def shares_of(step: int) -> list[tuple[int, int]]:
        """The positions of each worker's share, as (start, stop)."""
        first, last = step * batch_size, min((step + 1) * batch_size, total)
        return [share(first, last, worker, world_size) for worker in range(world_size)]

    def fetch(step: int) -> None:
        if step < steps:
            start, stop = shares_of(step)[rank]
            split.will_read(order[start:stop].numpy())

    def batches() -> Iterator[Batch]:
        for step in range(AHEAD):
            fetch(step)
        for step in range(steps):
            fetch(step + AHEAD)
            shares = shares_of(step)
            (first, _), (start, stop), (_, last) = shares[0], shares[rank], shares[-1]
            own = None if versions is None else places[start:stop]
            source = BatchSource(of_epoch, of_images, step, first, last, start, stop, device, own)
            yield Batch(
                parts=_addressed_parts(augmentation, source),
                positions=torch.arange(start, stop),
                rows=order[start:stop],
                weight=(stop - start) * world_size / (last - first),
                step=step,
                draws=draws,
                shares=tuple(end - begin for begin, end in shares),
            )

    return batches()


def version_batches(
    augmentation: Augmentation,
    images: ArrayLike | Tensor | RowsOnDisk,
    labels: ArrayLike | Tensor,
    *,
    version: int,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    rows: ArrayLike | None = None,
    mean: Sequence[float] | None = None,
    first: int = 0,
    last: int | None = None,
    shape: tuple[int, int] | None = None,
    strips: Callable[[], StripsOfRows] | None = None,
) -> Iterator[Batch]:
    """One version of the images, in the order of the split: those with places from `first` to
    `last`. `seed` is that of the versions; the other arguments are those of `epoch_batches`.
    """
    check_versions(augmentation)
    device = torch.device(device)
    split = _Split.of(augmentation, images, labels, rows, shape, strips)
    order = torch.from_numpy(split.rows)
    of_epoch = split.by_address(order, mean)
    draws = Draws(seed, version)
    stop = len(split.rows) if last is None else last
    for step, start in enumerate(range(first, stop, batch_size)):
        end = min(start + batch_size, stop)
        # In this order an image's position is its place
        source = BatchSource(of_epoch, draws, step, start, end, start, end, device)
        yield Batch(
            parts=_addressed_parts(augmentation, source),
            positions=torch.arange(start, end),
            rows=order[start:end],
            step=step,
            draws=draws,
        )


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
class _Split:
    """The images and labels of a data set, and the rows of them that are the training split."""

    images: Tensor | RowsOnDisk
    labels: Tensor
    rows: NDArray[np.int64]
    shape: tuple[int, int]
    strips: StripsOfRows | None

    @classmethod
    def of(
        cls,
        augmentation: Augmentation,
        images: ArrayLike | Tensor | RowsOnDisk,
        labels: ArrayLike | Tensor,
        rows: ArrayLike | None,
        shape: tuple[int, int] | None,
        strips: Callable[[], StripsOfRows] | None,
    ) -> _Split:
        """The split, checked. Raises `ValueError` as `epoch_batches` does."""
        pixels = images if isinstance(images, RowsOnDisk) else as_tensor(images)
        targets = as_tensor(labels)
        targets = targets.float() if targets.is_floating_point() else targets.long()
        _check(pixels, targets, augmentation.real_valued)
        height, width = (pixels.shape[1], pixels.shape[2]) if shape is None else shape
        if height > pixels.shape[1] or width > pixels.shape[2]:
            raise ValueError(f"shape must be within {pixels.shape[1:3]}, found {shape}")
        augmentation.check_images(pixels.shape[3], height, width)
        split = np.arange(pixels.shape[0]) if rows is None else np.asarray(rows, dtype=np.int64)
        outside = strips() if strips is not None and augmentation.crops_whole else None
        return cls(pixels, targets, split, (height, width), outside)

    def will_read(self, rows: NDArray[np.int64]) -> None:
        """Begin to fetch `rows` from the disk, if they are there."""
        if isinstance(self.images, RowsOnDisk):
            self.images.will_read(rows)
        if self.strips is not None:
            self.strips.will_read(rows)

    def by_address(self, order: Tensor, mean: Sequence[float] | None) -> EpochImages:
        """The images in this order of rows, wherever it is used to look something up."""
        order_of_images = order
        if isinstance(self.images, Tensor):
            order_of_images = order.to(self.images.device)
        order_of_labels = order.to(self.labels.device)
        return EpochImages(
            self.images,
            self.labels,
            order,
            order_of_images,
            order_of_labels,
            mean,
            self.shape,
            self.strips,
        )


def _check(pixels: Tensor | RowsOnDisk, targets: Tensor, real_valued: bool) -> None:
    types = ("uint8", "float32") if real_valued else ("uint8",)
    if str(pixels.dtype).removeprefix("torch.") not in types or len(pixels.shape) != 4:
        raise ValueError(
            f"images must be {' or '.join(types)} (N, H, W, C), "
            f"found {pixels.dtype} {tuple(pixels.shape)}"
        )
    if targets.shape != pixels.shape[:1]:
        raise ValueError(
            f"labels must be ({pixels.shape[0]},) like the images, found {tuple(targets.shape)}"
        )


def _check_shares(
    total: int, batch_size: int, steps: int, world_size: int, drop_last: bool
) -> None:
    smallest = batch_size if steps * batch_size <= total else total % batch_size
    if steps == 0 or smallest < world_size:
        remedy = "" if drop_last else "; drop_last leaves the last one out"
        raise ValueError(
            f"batch_size {batch_size} splits {total} images into {steps} batches, "
            f"the last of {smallest}: too few for {world_size} workers{remedy}"
        )


def _addressed_parts(augmentation: Augmentation, source: BatchSource) -> tuple[Part, ...]:
    """The parts of a batch with their numbers, and with their slots where they have equally many
    copies of every image of the share.
    """
    places = source.places
    addresses = torch.arange(source.start, source.stop) if places is None else as_tensor(places)
    parts = []
    for number, part in enumerate(augmentation.parts(source)):
        copies, uneven = divmod(len(part.images), len(source))
        slots = None
        if not uneven:
            slots = torch.cat([addresses * copies + copy for copy in range(copies)])
        parts.append(replace(part, number=number, slots=slots))
    return tuple(parts)
