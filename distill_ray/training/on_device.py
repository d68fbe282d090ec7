"""Images and labels on the device that trains."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from distill_ray.data import Pixels
from distill_ray.training.dataset import Dataset

AT_A_TIME = 1024
"""Images that are copied to a GPU at a time: those on a disk need not fit into the host's memory.
"""


@functools.lru_cache(maxsize=2)
def on_device(
    dataset: Dataset, device: torch.device
) -> tuple[Pixels | Tensor, np.ndarray | Tensor]:
    """Whole images and labels where batches are made of them: on a GPU if they take no more than a
    quarter of what is free there.

    They stay for the next job that this process trains on the same data.
    """
    whole = dataset.whole_images
    if device.type != "cuda" or not fits(whole.nbytes, device):
        return whole, dataset.labels
    images = torch.empty(whole.shape, dtype=torch.tensor(whole[:1]).dtype, device=device)
    for first in range(0, len(images), AT_A_TIME):
        images[first : first + AT_A_TIME] = torch.tensor(whole[first : first + AT_A_TIME])
    return images, torch.tensor(dataset.labels, device=device)


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes are at most a quarter of what is free on a GPU, counting what torch
    holds there and does not use.
    """
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return size <= (torch.cuda.mem_get_info(device)[0] + held) // 4
