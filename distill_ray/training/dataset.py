"""The data of a job, ready to train on: images in memory that the node's processes share, and the rows of each split."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from distill_ray.data import Images, load_images, open_source, split_indices
from distill_ray.errors import RunError
from distill_ray.job import Data, Split
from distill_ray.task import GAUSSIAN, Task, task_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, and the rows of the splits among them.

    `images` is uint8 (N, H, W, C), usually memory-mapped, or float32 where inputs are real numbers; `labels` is int64 (N,), or
    float32 for regression; `train` and `validation` are rows, int64; `mean` and `std` are per channel, for images in [0, 1].
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def task(self) -> Task:
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
    images = _images(data, "train")
    cut = {field.name: getattr(data.split, field.name) for field in fields(Split)}
    train, validation = split_indices(images.labels, **cut)
    return Dataset(images.images, images.labels, train, validation, images.class_names, images.mean, images.std)


@functools.lru_cache(maxsize=2)
def resident(dataset: Dataset, device: torch.device) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
    """Images and labels where batches are made of them: on a GPU if they take no more than a quarter of what is free there.

    They stay for the next job that this process trains on the same data.
    """
    if device.type != "cuda" or dataset.images.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return dataset.images, dataset.labels
    return torch.tensor(dataset.images, device=device), torch.tensor(dataset.labels, device=device)


def load_test_split(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, H, W, C) and labels (N,) of the test split. Raises `RunError` as `load_dataset` does."""
    images = _images(data, "test")
    return images.images, images.labels


def _images(data: Data, split: str) -> Images:
    source = open_source(data.location, label=data.label)
    if source.digest != data.digest:
        raise RunError(f"data set {data.location} has changed since this study began; run the same command again to begin anew")
    return load_images(source, "train" if split == "train" else "test")
