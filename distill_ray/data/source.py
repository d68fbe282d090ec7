"""What a data set offers before anything is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from distill_ray.errors import RequestError
from distill_ray.registry import Registry, unknown_name
from distill_ray.task import Task

if TYPE_CHECKING:
    import numpy as np

    from distill_ray.data.pixels import Images

SplitName = Literal["train", "test"]

Part = Literal["train", "validation", "test"]
"""The splits that a data set may come with."""

PART_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""What the files or the folder of a part may be called. The first that is there counts."""

PARTS: dict[SplitName, tuple[Part, ...]] = {"train": ("train", "validation"), "test": ("test",)}
"""The parts of a split, in the order of its rows. A validation split that the data set comes with
is the end of `train`, from which another one would be cut.
"""

USUAL_LABELS = ("label", "fine_label")
"""Names of the column to learn where several could be; the first that is there is taken."""

MAX_ENCODED = 100_000_000
"""Bytes of the largest encoded image that is read."""

SOURCES: Registry[Callable[[str | None], Source]] = Registry("data")
"""Data sets that have a name of their own. A member takes the label column asked for (or None) and
returns the source.
"""


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive rows of a split. Labels are as found, not yet checked against the number of
    classes.
    """

    encoded: Sequence[bytes | None]
    """One encoded image per row (PNG, JPEG, WebP, ...); None where the data set has no image."""
    labels: np.ndarray
    """int64, one per row."""
    where: Callable[[int], str]
    """Names row `i` of this batch for the user: the file, and the row within it."""

    def check_labels(self, column: str, num_classes: int) -> None:
        """Raise `RequestError`, naming the row, when a label is not one of 0..num_classes-1."""
        for row in ((self.labels < 0) | (self.labels >= num_classes)).nonzero()[0]:
            raise RequestError(
                f"{self.where(int(row))}: {column} is {self.labels[row]}, but the {num_classes} "
                f"classes are 0 to {num_classes - 1}; correct it or remove the row"
            )


def parts_among(present: Collection[str], *, cuts_test: bool) -> dict[Part, str]:
    """What is called how among the splits that are `present`.

    Where there is no test split, the validation split is taken for it, since many sets hide the
    test labels; but not with `cuts_test`, where test images are cut from the training split.
    """
    parts: dict[Part, str] = {}
    for part, names in PART_NAMES.items():
        name = next((name for name in names if name in present), None)
        if name is not None:
            parts[part] = name
    if "validation" in parts and "test" not in parts and not cuts_test:
        parts["test"] = parts.pop("validation")
    if "train" not in parts:
        parts.pop("validation", None)
    return parts


class Source(ABC):
    """A data set that was found: its columns, classes and row counts, and a way to read its rows in
    order.

    Rows keep the order of the files, so that splits by index range mean what the papers mean.
    Subclasses read the rows in batches of limited size, never a whole split at once.
    """

    name: str
    location: str
    label: str
    """The column that is learned."""
    label_columns: tuple[str, ...]
    """Every column that could be."""
    task: Task = "classification"
    real_valued = False
    """Whether inputs are real numbers, not pixels."""
    remarks: tuple[str, ...] = ()
    """What the user should know of it, such as what was left out; one line each."""
    cuts_test = False
    """Whether test images are to be cut from the training split; see `parts_among`."""
    reopens = False
    """Whether another process can find it by `location`, `label` and `cuts_test`, and its `batches`
    can begin at any row.
    """

    @cached_property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """One name per class, by label. The labels themselves, as text, where the data set has no
        names. Empty for regression.
        """

    @property
    def num_classes(self) -> int:
        """How many classes there are; labels are 0 to `num_classes - 1`."""
        return len(self.class_names)

    @abstractmethod
    def rows(self, split: SplitName) -> int:
        """The number of images in `split`; 0 where the data set has no such split."""

    @property
    def validation_rows(self) -> int:
        """How many rows at the end of `train` are a validation split that the data set has."""
        return 0

    @cached_property
    @abstractmethod
    def digest(self) -> str:
        """32 hexadecimal digits of SHA-256 over the content of both splits, wherever they are
        stored.
        """

    @abstractmethod
    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The rows of `split` in order. Raises `RequestError` where they cannot be read.

        Those that can be reopened are also asked for the rows from `first` to before `last`.
        """

    def labels(self, split: SplitName) -> np.ndarray:
        """The labels of `split`, (N,), in the order of its rows. Raises as `batches`, which it
        reads: sources whose labels lie apart from the images do better.
        """
        import numpy as np

        return np.concatenate([batch.labels for batch in self.batches(split)])

    def check_unchanged(self) -> None:
        """Raise `RequestError` when the files are no longer those that were found."""
        return


class Generated(Source):
    """A data set that is made, not found: its inputs are real numbers, float32 and never scaled,
    and are not cached.
    """

    real_valued = True

    @abstractmethod
    def images(self, split: SplitName) -> Images:
        """`split`, ready to use."""

    def labels(self, split: SplitName) -> np.ndarray:
        return self.images(split).labels

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """Nothing: there is nothing to decode."""
        return iter(())


def pick_label(asked: str | None, columns: Sequence[str], location: str) -> str:
    """The label column to learn: `asked`, else one of `USUAL_LABELS`, else the only one. Raises
    `RequestError`.
    """
    if asked is not None:
        if asked in columns:
            return asked
        raise RequestError(
            f"data.label: {unknown_name('label column', asked, list(columns))} in {location}"
        )
    usual = [name for name in USUAL_LABELS if name in columns]
    if usual or len(columns) == 1:
        return (usual or list(columns))[0]
    if not columns:
        raise RequestError(f"{location} has no column of integers or text to learn")
    raise RequestError(
        f"data.label: {location} has several label columns, name one: "
        f"{', '.join(map(repr, columns))}"
    )
