"""The 1,797 handwritten digits that scikit-learn bundles, 8x8 grey: the data set that needs no
download.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import distribution, version
from typing import TYPE_CHECKING

from distill_ray.data.source import SOURCES, EncodedBatch, Source, SplitName, pick_label

if TYPE_CHECKING:
    import numpy as np

TEST_ROWS = 500
"""The test split: a fixed cut, stratified by class, by the rule and seed below. It never changes.
"""
TRAIN_ROWS = 1297
CUT_SEED = 0


@SOURCES.register("digits")
class Digits(Source):
    """`digits`: 1,297 training and 500 test images, 8x8x1, labels 0 to 9.

    Values 0..16 become `round(value * 255 / 16)`. The test split is `split_indices(labels,
    validation=500, seed=0)` of scikit-learn's rows, and both splits keep scikit-learn's order.
    """

    name = "digits"
    label_columns = ("label",)
    class_names = tuple("0123456789")

    def __init__(self, label: str | None = None) -> None:
        self.location = "digits"
        self.label = pick_label(label, self.label_columns, "digits")

    def rows(self, split: SplitName) -> int:
        """The number of images in `split`."""
        return TRAIN_ROWS if split == "train" else TEST_ROWS

    @cached_property
    def _splits(self) -> dict[SplitName, tuple[np.ndarray, np.ndarray]]:
        """Pixels (N, 8, 8) uint8 and labels (N,) int64 of each split."""
        import numpy as np

        from distill_ray.data.split import split_indices

        values, labels = _read_digits()
        pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        train, test = split_indices(labels, validation=TEST_ROWS, seed=CUT_SEED)
        return {"train": (pixels[train], labels[train]), "test": (pixels[test], labels[test])}

    @cached_property
    def digest(self) -> str:
        """Digest of pixels and labels of both splits."""
        from distill_ray.node_cache import remembered_digest

        return remembered_digest(
            f"digits, scikit-learn {version('scikit-learn')}", self._compute_digest
        )

    def _compute_digest(self) -> str:
        content = hashlib.sha256(b"distill_ray digits")
        for split in ("train", "test"):
            for array in self._splits[split]:
                content.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return content.hexdigest()[:32]

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The whole split as one batch of PGM images."""
        pixels, labels = self._splits[split]
        yield EncodedBatch(
            [b"P5 8 8 255\n" + image.tobytes() for image in pixels],
            labels,
            lambda i: f"digits, {split} row {i}",
        )


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Values (1797, 64) of 0..16 and labels (1797,) int64, as scikit-learn's `load_digits` returns
    them.

    Read from the file that it reads, because importing scikit-learn takes longer than training on
    the digits.
    """
    import numpy as np

    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    try:
        table = np.loadtxt(str(file), delimiter=",")
    except FileNotFoundError:
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        return values, labels.astype(np.int64)
    return table[:, :-1], table[:, -1].astype(np.int64)
