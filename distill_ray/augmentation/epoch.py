"""One epoch of training batches: the order of the images, and each worker's share of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.augmentation.source import BatchSource, EpochImages, RowsOnDisk
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

    Yields:
        This worker's share of each batch.

    Raises:
        ValueError: the arrays do not match, the augmentation cannot be applied to such images, or a
            batch is too small to give every worker an image.
    """
    # What was passed
    draws, device = Draws(seed, epoch), torch.device(device)
    pixels = images if isinstance(images, RowsOnDisk) else as_tensor(images)
    targets = as_tensor(labels)
    targets = targets.float() if targets.is_floating_point() else targets.long()
    _check(augmentation, pixels, targets)
    split = np.arange(pixels.shape[0]) if rows is None else np.asarray(rows, dtype=np.int64)
    total = len(split)
    steps = steps_per_epoch(total, batch_size, drop_last)
    _check_shares(total, batch_size, steps, world_size, drop_last)

    # The order, wherever it is used to look something up
    order = torch.from_numpy(split[draws.permutation("order", total)])
    order_of_images = order.to(pixels.device) if isinstance(pixels, Tensor) else order
    of_epoch = EpochImages(pixels, targets, order, order_of_images, order.to(targets.device), mean)

    def shares_of(step: int) -> list[tuple[int, int]]:
        """The positions of each worker's share, as (start, stop)."""
        first, last = step * batch_size, min((step + 1) * batch_size, total)
        return [share(first, last, worker, world_size) for worker in range(world_size)]

    def fetch(step: int) -> None:
        if isinstance(pixels, RowsOnDisk) and step < steps:
            start, stop = shares_of(step)[rank]
            pixels.will_read(order[start:stop].numpy())

    def batches() -> Iterator[Batch]:
        for step in range(AHEAD):
            fetch(step)
        for step in range(steps):
            fetch(step + AHEAD)
            shares = shares_of(step)
            (first, _), (start, stop), (_, last) = shares[0], shares[rank], shares[-1]
            source = BatchSource(of_epoch, draws, step, first, last, start, stop, device)
            parts = enumerate(augmentation.parts(source))
            yield Batch(
                parts=tuple(_addressed(part, number, start, stop) for number, part in parts),
                positions=torch.arange(start, stop),
                rows=order[start:stop],
                weight=(stop - start) * world_size / (last - first),
                step=step,
                draws=draws,
                shares=tuple(end - begin for begin, end in shares),
            )

    return batches()


def steps_per_epoch(images: int, batch_size: int, drop_last: bool = False) -> int:
    """How many batches one pass over that many images has."""
    return images // batch_size if drop_last else -(-images // batch_size)


def share(first: int, last: int, rank: int, world_size: int) -> tuple[int, int]:
    """Worker `rank`'s contiguous share (start, stop) of the positions from `first` to `last`;
    shares differ by at most one.
    """
    size = last - first
    return first + size * rank // world_size, first + size * (rank + 1) // world_size


def _check(augmentation: Augmentation, pixels: Tensor | RowsOnDisk, targets: Tensor) -> None:
    types = ("uint8", "float32") if augmentation.real_valued else ("uint8",)
    if str(pixels.dtype).removeprefix("torch.") not in types or len(pixels.shape) != 4:
        raise ValueError(
            f"images must be {' or '.join(types)} (N, H, W, C), "
            f"found {pixels.dtype} {tuple(pixels.shape)}"
        )
    if targets.shape != pixels.shape[:1]:
        raise ValueError(
            f"labels must be ({pixels.shape[0]},) like the images, found {tuple(targets.shape)}"
        )
    augmentation.check_images(pixels.shape[3], pixels.shape[1], pixels.shape[2])


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


def _addressed(part: Part, number: int, start: int, stop: int) -> Part:
    """`part` with its number, and with its slots if it has equally many versions of every image of
    the share.
    """
    versions, uneven = divmod(len(part.images), stop - start)
    if uneven:
        return replace(part, number=number)
    positions = torch.arange(start, stop)
    slots = torch.cat([positions * versions + version for version in range(versions)])
    return replace(part, number=number, slots=slots)
