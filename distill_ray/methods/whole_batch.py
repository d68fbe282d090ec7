"""Losses that compare the images of a batch with each other, where workers share the batch.

Such a loss is no mean over images: every worker computes it for the whole batch, out of the rows of
all workers, of which only its own carry a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Batch
from distill_ray.device import to_device
from distill_ray.methods.method import Student


def of_all_workers(student: Student, batch: Batch, rows: Tensor) -> Tensor:
    """The rows (B, ...) of all workers for the images of one part, in the order of positions.

    Own rows keep their gradient, times the number of all rows over that of its own: the training
    loop weights a worker's gradients by its number of images and averages them over the workers,
    while those of a loss of the whole batch have to be added.
    """
    everywhere = student.gather(rows.detach())
    if len(everywhere) == len(rows):
        return rows
    if not rows.requires_grad:
        return everywhere
    factor = len(everywhere) / len(rows)
    own = rows.detach() + factor * (rows - rows.detach())
    positions = to_device(batch.positions, rows.device)
    places = torch.searchsorted(student.gather(positions), positions)
    return everywhere.index_copy(0, places, own)
