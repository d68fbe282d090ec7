"""Published data sets in the form that torchvision reads and downloads, ready to be written as
Parquet.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distill_ray.data.decoding import decoder
from distill_ray.data.files import one_line
from distill_ray.data.source import EncodedBatch, SplitName
from distill_ray.errors import RequestError, RunError
from distill_ray.node_cache import cache_root

ROWS_PER_BATCH = 1000


@dataclass(frozen=True)
class Kind:
    """How torchvision offers one data set."""

    dataset: str
    """The class in `torchvision.datasets`."""
    label: str = "label"
    """The name of the label column to write."""
    class_names: tuple[str, ...] = ()
    """Used where torchvision knows none."""


ORIGINALS = {
    "cifar10": Kind("CIFAR10"),
    "cifar100": Kind("CIFAR100", label="fine_label"),
    "svhn": Kind("SVHN", class_names=tuple("0123456789")),
    "fashion-mnist": Kind("FashionMNIST"),
}
"""The data sets by the name they have for an import."""


class Original:
    """A data set of `ORIGINALS`, read whole by torchvision from the folder `root` and encoded as
    PNG in batches.

    Raises:
        RequestError: `root` does not hold the official files, and they may not be downloaded.
        RunError: the download failed.
    """

    def __init__(self, name: str, root: str | os.PathLike[str] | None, *, download: bool) -> None:
        kind = ORIGINALS[name]
        self.name = name
        self.label = kind.label
        self.root = str(Path(root).expanduser() if root else cache_root() / "downloads" / name)
        splits: tuple[SplitName, ...] = ("train", "test")
        datasets = {split: self._read(kind, split, download) for split in splits}
        self.class_names = tuple(getattr(datasets["train"], "classes", kind.class_names))
        self._splits = {split: _pixels_and_labels(dataset) for split, dataset in datasets.items()}

    def _read(self, kind: Kind, split: SplitName, download: bool) -> Any:
        import torchvision.datasets

        choice: dict[str, Any] = (
            {"split": split} if kind.dataset == "SVHN" else {"train": split == "train"}
        )
        read = partial(getattr(torchvision.datasets, kind.dataset), self.root, **choice)
        try:
            return read(download=False)
        except Exception as error:
            # torchvision lets through whatever pickle, SciPy and its own assertions raise
            if not download:
                raise RequestError(
                    f"{self.root} does not hold the official files of {self.name} "
                    f"({one_line(error)}); name the folder that does, or let them be downloaded"
                ) from error
        try:
            return read(download=True)
        except Exception as error:
            raise RunError(
                f"{self.name} could not be downloaded to {self.root} ({one_line(error)}); "
                "try again, or name a folder that holds its files"
            ) from error

    def rows(self, split: SplitName) -> int:
        """The number of images in `split`."""
        return len(self._splits[split][1])

    def batches(self, split: SplitName) -> Iterator[EncodedBatch]:
        """The rows of `split` in their official order."""
        pixels, labels = self._splits[split]
        with decoder() as threads:
            for start in range(0, len(labels), ROWS_PER_BATCH):
                rows = slice(start, start + ROWS_PER_BATCH)
                encoded = list(threads.map(_png, pixels[rows], chunksize=50))
                yield EncodedBatch(encoded, labels[rows], partial(self._where, split, start))

    def _where(self, split: SplitName, start: int, row: int) -> str:
        return f"{self.name}, {split} row {start + row}"


def _pixels_and_labels(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, H, W) or (N, H, W, 3) uint8 and labels (N,) int64 of a torchvision data set."""
    pixels = np.asarray(dataset.data)
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    return pixels, np.asarray(
        dataset.labels if hasattr(dataset, "labels") else dataset.targets, np.int64
    )


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
