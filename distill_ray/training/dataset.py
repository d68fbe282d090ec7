"""The data of a job, ready to train on: images that the node's processes share, and the rows of
each split. Needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from distill_ray.data import Images, Pixels, load_images, open_source
from distill_ray.data.pixels import JoinedPixels, PixelsOnDisk, middle
from distill_ray.data.source import SplitName
from distill_ray.data.split import cut_rows, some_rows
from distill_ray.data.strips import JoinedStrips, Strips, load_strips
from distill_ray.data.unlabelled import NO_LABEL, open_unlabelled
from distill_ray.errors import RequestError, RunError
from distill_ray.job import Data, Unlabelled
from distill_ray.task import GAUSSIAN, Task, task_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, and the rows of the splits among them.

    `images` is uint8 (N, H, W, C), memory-mapped or on the disk, or float32 where inputs are real
    numbers; `labels` is int64 (N,), or float32 for regression; `train` and `validation` are rows,
    int64; `mean` and `std` are per channel, for images in [0, 1]. Images without a label, which is
    then -1, may be among those of `train`. Where training crops come from `larger` images than
    networks see, `images` are their middle. `strips` gives what lies outside squares that were made
    of photographs; the first to call it waits until they are decoded.
    """

    images: Pixels
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    larger: Pixels | None = None
    strips: Callable[[], Strips] | None = None

    @property
    def whole_images(self) -> Pixels:
        """What augmentations start from."""
        return self.images if self.larger is None else self.larger

    @property
    def task(self) -> Task:
        """Classification for labels that are whole numbers, regression for real ones."""
        return task_of(self.labels)

    @property
    def num_classes(self) -> int:
        """How many outputs a network has: one per class; mean and log-variance for regression."""
        return len(self.class_names if self.task == "classification" else GAUSSIAN)

    @property
    def balanced_weights(self) -> np.ndarray:
        """A weight for each class, float32 (K,): that of an image of the training split is 1 on
        average, and the sum over the images of each class that occurs is the same.

        With n images, C classes that occur and n_k images of class k it is n / (C n_k), and 0 for
        classes that do not occur. Source: scikit-learn's `class_weight="balanced"`, after King &
        Zeng 2001, "Logistic regression in rare events data".
        """
        labels = self.labels[self.train]
        counts = np.bincount(labels[labels >= 0], minlength=self.num_classes)
        present = max(1, np.count_nonzero(counts))
        weights = counts.sum() / (present * np.maximum(counts, 1))
        return np.where(counts > 0, weights, 0).astype(np.float32)

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
    cut = cut_rows(images.labels, **asdict(data.split))
    train = cut.train
    if data.unlabelled is not None:
        images, rows = _with_unlabelled(images, data, data.unlabelled)
        train = np.concatenate([train, rows])
    return Dataset(
        images.images if data.crop is None else middle(images.images, data.crop),
        images.labels,
        train,
        cut.validation,
        images.class_names,
        images.mean,
        images.std,
        None if data.crop is None else images.images,
        None if data.size is None else functools.cache(lambda: _strips(data, images.images)),
    )


def _with_unlabelled(
    images: Images, data: Data, unlabelled: Unlabelled
) -> tuple[Images, np.ndarray]:
    """The images followed by those without labels, and the rows of these that are trained on."""
    source = open_unlabelled(unlabelled.location)
    if source.digest != unlabelled.digest:
        raise RunError(
            f"images in {unlabelled.location} have changed since this study began; run the same "
            "command again to begin anew"
        )
    more = load_images(
        source, "train", size=data.resize or data.size, memory=data.memory_gb * 1e9
    ).images
    *ours, channels = images.images.shape[1:]
    *theirs, other_channels = more.shape[1:]
    if ours != theirs or other_channels not in (1, channels):
        raise RequestError(
            f"data.unlabelled: images are {more.shape[1:]} (height, width, channels), those with "
            f"labels {images.images.shape[1:]}; set data.size, and make their colours alike"
        )
    labels = np.concatenate([images.labels, np.full(len(more), NO_LABEL, np.int64)])
    rows = some_rows(len(more), unlabelled.images, unlabelled.seed) + len(images.labels)
    return replace(images, images=JoinedPixels(images.images, more), labels=labels), rows


def _strips(data: Data, squares: Pixels) -> Strips:
    """What lies outside the squares of the training images, and of those without labels after
    them. It is memory-mapped as far as the memory that `data` leaves to a split is not for these.
    """
    left = data.memory_gb * 1e9 - squares.nbytes
    source = open_source(data.location, label=data.label, cuts_test=data.cuts_test)
    if not isinstance(squares, JoinedPixels):
        return load_strips(source, "train", squares.shape, memory=left)
    assert data.unlabelled is not None
    more = open_unlabelled(data.unlabelled.location)
    ours = load_strips(source, "train", squares.first.shape, memory=left)
    theirs = load_strips(more, "train", squares.second.shape, memory=left - ours.nbytes)
    return JoinedStrips(ours, theirs, squares.shape[3] // squares.second.shape[3])


def load_split(data: Data, split: SplitName) -> Images:
    """The images of a split: train, which others are cut from as files have it, or test, in the
    size that networks see.

    Raises `RunError` as `load_dataset` does.
    """
    source = open_source(data.location, label=data.label, cuts_test=data.cuts_test)
    if source.digest != data.digest:
        raise RunError(
            f"data set {data.location} has changed since this study began; run the same "
            "command again to begin anew"
        )
    file: SplitName = "train" if data.cuts_test else split
    images = load_images(source, file, size=data.resize or data.size, memory=data.memory_gb * 1e9)
    if split == "test" and data.cuts_test:
        rows = cut_rows(images.labels, **asdict(data.split)).test
        pixels = images.images
        taken = pixels.of_rows(rows) if isinstance(pixels, PixelsOnDisk) else pixels[rows]
        images = replace(images, images=taken, labels=images.labels[rows])
    if split == "test" and data.crop is not None:
        images = replace(images, images=middle(images.images, data.crop))
    return images
