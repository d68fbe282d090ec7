"""Images without labels: any folder of image files, however they lie in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from distill_ray.data.files import Folder
from distill_ray.data.image_folder import ENDINGS, FILES_PER_BATCH, reason_to_leave_out
from distill_ray.data.source import MAX_ENCODED, EncodedBatch, Source, SplitName
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal

NO_LABEL = -1
"""Stands in the labels of a data set where an image has none."""


class UnlabelledImages(Source):
    """Every image file below a folder, in the order of the sorted paths, as one `train` split.

    Hidden files and folders, folders of tools and files with other endings are left out and counted
    in `remarks`. The folders in it mean nothing.
    """

    label = "none"
    label_columns = ("none",)
    class_names = ("none",)

    def __init__(self, folder: Folder) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self._folder = folder
        top = f"{folder.path.rstrip('/')}/"
        self._files = []
        left_out: Counter[str] = Counter()
        for entry in folder.walk(""):
            # Files need be in no class folder, so the reason that they are not does not count
            reason = reason_to_leave_out(f"any/{entry.path.removeprefix(top)}", entry)
            if reason is None:
                self._files.append(entry)
            else:
                left_out[reason] += 1
        self.remarks = tuple(
            f"left out {count} files without labels: {reason}" for reason, count in left_out.items()
        )
        if not self._files:
            raise RequestError(
                f"data.unlabelled: {for_terminal(self.location)} holds no image "
                f"({', '.join(ENDINGS)})"
            )

    def rows(self, split: SplitName) -> int:
        return len(self._files) if split == "train" else 0

    @cached_property
    def digest(self) -> str:
        """Digest of the files, in order."""
        return self._folder.digest([("unlabelled", self._files)])

    def check_unchanged(self) -> None:
        self._folder.check_unchanged(self._files)

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The files by path, at most 128 at a time."""
        files = self._files if split == "train" else []
        files = files[first:last]
        for start in range(0, len(files), FILES_PER_BATCH):
            some = files[start : start + FILES_PER_BATCH]
            yield EncodedBatch(
                [self._folder.read(entry.path, MAX_ENCODED) for entry in some],
                np.zeros(len(some), np.int64),
                [self._folder.shown(entry.path) for entry in some].__getitem__,
            )


def open_unlabelled(path_or_uri: str) -> UnlabelledImages:
    """Find a folder of images without labels. Raises `RequestError` when there is none."""
    folder = Folder.find(path_or_uri)
    if folder is None:
        raise RequestError(f"data.unlabelled: there is no folder {for_terminal(path_or_uri)}")
    return UnlabelledImages(folder)
