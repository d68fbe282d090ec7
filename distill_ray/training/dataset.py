"""The data of a job, ready to train on: images that the node's processes share, and the rows of each split."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from distill_ray.data import Images, Pixels, load_images, open_source, split_indices
from distill_ray.data.source import SplitName
from distill_ray.errors import RunError
from distill_ray.job import Data, Split
from distill_ray.task import GAUSSIAN, Task, task_of

PIECE = 1024
"""Images that go to a GPU at a time: those on a disk need not fit into the host's memory."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, and the rows of the splits among them.

    `images` is uint8 (N, H, W, C), memory-mapped or on the disk, or float32 where inputs are real numbers; `labels` is int64
    (N,), or float32 for regression; `train` and `validation` are rows, int64; `mean` and `std` are per channel, for images in
    [0, 1].
    """

    images: Pixels
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def task(self) -> Task:
        """Classification for labels that are whole numbers, regression for real ones."""
        return task_of(self.labels)

    @property
    def num_classes(self) -> int:
        """How many outputs a network has: one per class, or mean and log-variance for regression."""
        return len(self.class_names if self.task == "classification" else GAUSSIAN)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, height, width, channels = self.images.shape
        return channels, height, width


def load_dataset(data: Data) -> Dataset:
    """The training images of `data`, cut into training and validation rows.

    Raises `RunError` when what lies at its location is no longer the data set that the job was made for.
    """
    images = load_split(data, "train")
    cut = {field.name: getattr(data.split, field.name) for field in fields(Split)}
    train, validation = split_indices(images.labels, **cut)
    return Dataset(images.images, images.labels, train, validation, images.class_names, images.mean, images.std)


@functools.lru_cache(maxsize=2)
def resident(dataset: Dataset, device: torch.device) -> tuple[Pixels | Tensor, np.ndarray | Tensor]:
    """Images and labels where batches are made of them: on a GPU if they take no more than a quarter of what is free there.

    They stay for the next job that this process trains on the same data.
    """
    if device.type != "cuda" or dataset.images.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return dataset.images, dataset.labels
    images = torch.empty(dataset.images.shape, dtype=torch.tensor(dataset.images[:1]).dtype, device=device)
    for first in range(0, len(images), PIECE):
        images[first : first + PIECE] = torch.tensor(dataset.images[first : first + PIECE])
    return images, torch.tensor(dataset.labels, device=device)


def load_split(data: Data, split: SplitName) -> Images:
    """The images of a split as files have it: train, which validation images are cut from, or test.

    Raises `RunError` as `load_dataset` does.
    """
    source = open_source(data.location, label=data.label)
    if source.digest != data.digest:
        raise RunError(f"data set {data.location} has changed since this study began; run the same command again to begin anew")
    return load_images(source, split, size=data.size, memory=data.memory_gb * 1e9)
