"""The data of a job, ready to train on: images that the node's processes share, and the rows of
each split. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from distill_ray.data import Images, Pixels, load_images, open_source, split_indices
from distill_ray.data.source import SplitName
from distill_ray.errors import RunError
from distill_ray.job import Data, Split
from distill_ray.task import GAUSSIAN, Task, task_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, and the rows of the splits among them.

    `images` is uint8 (N, H, W, C), memory-mapped or on the disk, or float32 where inputs are real
    numbers; `labels` is int64 (N,), or float32 for regression; `train` and `validation` are rows,
    int64; `mean` and `std` are per channel, for images in [0, 1].
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
        """How many outputs a network has: one per class; mean and log-variance for regression."""
        return len(self.class_names if self.task == "classification" else GAUSSIAN)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, height, width, channels = self.images.shape
        return channels, height, width


def load_dataset(data: Data) -> Dataset:
    """The training images of `data`, cut into training and validation rows.

    Raises `RunError` when what lies at its location is no longer the data set that the job was made
    for.
    """
    images = load_split(data, "train")
    cut = {field.name: getattr(data.split, field.name) for field in fields(Split)}
    train, validation = split_indices(images.labels, **cut)
    return Dataset(
        images.images, images.labels, train, validation, images.class_names, images.mean, images.std
    )


def load_split(data: Data, split: SplitName) -> Images:
    """The images of a split as files have it: train, which validation images are cut from, or test.

    Raises `RunError` as `load_dataset` does.
    """
    source = open_source(data.location, label=data.label)
    if source.digest != data.digest:
        raise RunError(
            f"data set {data.location} has changed since this study began; run the same "
            "command again to begin anew"
        )
    return load_images(source, split, size=data.size, memory=data.memory_gb * 1e9)
