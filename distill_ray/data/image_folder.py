"""Data sets as image trees: a folder per split, in it a folder per class, in it the images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from pyarrow import fs

from distill_ray.data.files import Folder
from distill_ray.data.source import SPLIT_NAMES, EncodedBatch, Source, SplitName, pick_label
from distill_ray.errors import RequestError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".pgm", ".bmp", ".gif", ".tif", ".tiff")
FILES_PER_BATCH = 128


class ImageTree(Source):
    """`train/<class>/*.png` and `test/<class>/*.png` (or `val/<class>/...`), at any depth below the
    class. Other files are passed over.

    Classes are numbered by the sorted names of the training folders; rows are in the order of the
    sorted paths.
    """

    label_columns = ("label",)
    reopens = True

    def __init__(self, folder: Folder, label: str | None) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self.label = pick_label(label, self.label_columns, self.location)
        self._folder = folder
        present = {entry.base_name for entry in folder.entries()}
        self._files: dict[SplitName, dict[str, list[fs.FileInfo]]] = {
            split: next((self._files_by_class(name) for name in names if name in present), {})
            for split, names in SPLIT_NAMES.items()
        }
        if not any(self._files.values()):
            raise RequestError(
                f"{self.location}: no images in train/<class>/ or test/<class>/ ({', '.join(ENDINGS)})"
            )
        if self._files["train"]:
            for name in self._files["test"]:
                if name not in self.class_names:
                    raise RequestError(
                        f"{self.location}: test has a class {name!r} that train does not have; rename or remove it"
                    )

    def _files_by_class(self, split: str) -> dict[str, list[fs.FileInfo]]:
        top = f"{self._folder.path}/{split}/"
        files: dict[str, list[fs.FileInfo]] = {}
        for entry in self._folder.entries(split, recursive=True):
            name, _, rest = entry.path.removeprefix(top).partition("/")
            if (
                rest
                and entry.is_file
                and entry.path.lower().endswith(ENDINGS)
                and not entry.base_name.startswith(".")
            ):
                files.setdefault(name, []).append(entry)
        return dict(sorted(files.items()))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders of the training split, or of the test split where there is
        no other.
        """
        return tuple(self._files["train"] or self._files["test"])

    def rows(self, split: SplitName) -> int:
        """The number of images in `split`."""
        return sum(map(len, self._files[split].values()))

    @cached_property
    def digest(self) -> str:
        """Digest of the class names and of the files of each class, in order."""
        return self._folder.digest(
            [
                (f"{split}/{name}", files)
                for split, classes in self._files.items()
                for name, files in classes.items()
            ]
        )

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The files of `split` by class and path, at most 128 at a time."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        rows = [
            (entry.path, numbers[name])
            for name, files in self._files[split].items()
            for entry in files
        ][first:last]
        for start in range(0, len(rows), FILES_PER_BATCH):
            paths, labels = zip(*rows[start : start + FILES_PER_BATCH], strict=True)
            shown = [self._folder.shown(path) for path in paths]
            yield EncodedBatch(
                [self._folder.read(path) for path in paths],
                np.array(labels, np.int64),
                shown.__getitem__,
            )
