"""Data sets as image trees: a folder per split, in it a folder per class, in it the images."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from pyarrow import fs

from distill_ray.data.files import Folder
from distill_ray.data.source import (
    MAX_ENCODED,
    PARTS,
    EncodedBatch,
    Part,
    Source,
    SplitName,
    parts_among,
    pick_label,
)
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal

ENDINGS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".ppm",
    ".pgm",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
)

TOOL_FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
)
"""Folders that systems and tools make beside a user's, as they do those that begin with a dot."""

FILES_PER_BATCH = 128

Files = dict[str, list[fs.FileInfo]]
"""The image files of a split, by class."""


class ImageTree(Source):
    """`train/<class>/*.png`, `test/<class>/*.png` and `val/<class>/...`, at any depth below the
    class; see `PART_NAMES`. Where none of these folders is there, the classes are at the top, and
    all images are for training.

    Classes are numbered by the sorted names of the training folders; rows are in the order of the
    sorted paths. Hidden files and folders, folders of tools, files with other endings and class
    folders without images are left out and counted in `remarks`. Links to files are followed, links
    to folders are not.
    """

    label_columns = ("label",)
    reopens = True

    def __init__(self, folder: Folder, label: str | None, cuts_test: bool = False) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self.label = pick_label(label, self.label_columns, self.location)
        self._folder = folder
        present = {entry.base_name for entry in folder.entries()}
        self.cuts_test = cuts_test
        self._files: dict[Part, Files] = {"train": {}, "test": {}, "validation": {}}
        left_out: list[str] = []
        parts: dict[Part, str] = parts_among(present, cuts_test=cuts_test) or {"train": ""}
        for part, name in parts.items():
            self._files[part], remarks = _by_class(folder, name)
            left_out += remarks
        self.remarks = tuple(left_out)
        if not any(self._files.values()):
            raise RequestError(
                f"{self.location}: no images in train/<class>/ or test/<class>/ "
                f"({', '.join(ENDINGS)}){''.join(f'; {remark}' for remark in left_out)}"
            )
        if self._files["train"]:
            self._check_classes("test")
            self._check_classes("validation")

    def _check_classes(self, part: Part) -> None:
        for name in self._files[part]:
            if name not in self.class_names:
                raise RequestError(
                    f"{self.location}: {part} has a class {name!r} that train does not have; "
                    "rename or remove it"
                )

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders of the training split, or of the test split where there is
        no other.
        """
        return tuple(self._files["train"] or self._files["test"])

    def rows(self, split: SplitName) -> int:
        return sum(self._count(part) for part in PARTS[split])

    @property
    def validation_rows(self) -> int:
        return self._count("validation")

    def _count(self, part: Part) -> int:
        return sum(map(len, self._files[part].values()))

    @cached_property
    def digest(self) -> str:
        """Digest of the class names and of the files of each class, in order."""
        return self._folder.digest(
            [
                (f"{part}/{name}", files)
                for part, classes in self._files.items()
                for name, files in classes.items()
            ]
        )

    def check_unchanged(self) -> None:
        for classes in self._files.values():
            for files in classes.values():
                self._folder.check_unchanged(files)

    def labels(self, split: SplitName) -> np.ndarray:
        return np.array([number for _, number in self._rows(split)], np.int64)

    def _rows(self, split: SplitName) -> list[tuple[str, int]]:
        """The path of each file, and the number of its class."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return [
            (entry.path, numbers[name])
            for part in PARTS[split]
            for name, files in self._files[part].items()
            for entry in files
        ]

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The files of `split` by part, class and path, at most 128 at a time."""
        rows = self._rows(split)[first:last]
        for start in range(0, len(rows), FILES_PER_BATCH):
            paths, labels = zip(*rows[start : start + FILES_PER_BATCH], strict=True)
            locations = [self._folder.shown(path) for path in paths]
            yield EncodedBatch(
                [self._folder.read(path, MAX_ENCODED) for path in paths],
                np.array(labels, np.int64),
                locations.__getitem__,
            )


def _by_class(folder: Folder, split: str) -> tuple[Files, list[str]]:
    """The image files of the folder `split` by class, sorted, and sentences about what else lies
    there; an empty name is the data set's folder itself.
    """
    top = f"{folder.path}/{split}".rstrip("/") + "/"
    place = split or folder.path.rstrip("/").rpartition("/")[2]
    files: Files = {}
    left_out: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for entry in folder.walk(split):
        path = entry.path.removeprefix(top)
        reason = reason_to_leave_out(path, entry)
        if reason is None:
            files.setdefault(path.partition("/")[0], []).append(entry)
        else:
            left_out[reason] += 1
            examples.setdefault(reason, for_terminal(path))
    remarks = [
        f"left out {count} of the files below {place}: {reason}, such as {place}/{examples[reason]}"
        for reason, count in left_out.items()
    ]
    empty = [
        entry.base_name
        for entry in folder.entries(split)
        if entry.type == fs.FileType.Directory
        and entry.base_name not in files
        and not _is_hidden(entry.base_name)
    ]
    if empty:
        names = ", ".join(map(repr, empty[:5]))
        remarks.append(
            f"left out {len(empty)} of the class folders of {place}, which hold no image: {names}"
        )
    return dict(sorted(files.items())), remarks


def holds_classes(folder: Folder) -> bool:
    """Whether some folder in it, which is not hidden, has an image."""
    for entry in folder.entries():
        name = entry.base_name
        if entry.type == fs.FileType.Directory and not _is_hidden(name):
            names = [file.base_name.lower() for file in folder.entries(name)]
            if any(name.endswith(ENDINGS) for name in names):
                return True
    return False


def reason_to_leave_out(path: str, entry: fs.FileInfo) -> str | None:
    """Why a file at `path` below a split's folder is not one of its images; None if it is one."""
    if any(_is_hidden(name) for name in path.split("/")):
        return "hidden, or made by a tool"
    if entry.type != fs.FileType.File:
        return "links to folders or to nothing, which are not followed, or no regular files"
    if "/" not in path:
        return "in no class folder"
    if not path.lower().endswith(ENDINGS):
        ending = posixpath.splitext(path)[1]
        return f"not images by their ending ({for_terminal(ending) or 'none'})"
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in TOOL_FOLDERS
