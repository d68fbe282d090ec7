"""Data sets in tar files, as the library webdataset writes them: `train-000000.tar` and so on, each
sample a few members with one key, such as `0001.jpg` and `0001.cls`.

They are read by the standard library. webdataset itself reads them as a stream, in which no row can
be asked for, and loads torch, which a check of a study file must not.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any, cast

import numpy as np
from pyarrow import fs

from distill_ray.data.files import Folder, one_line, reading
from distill_ray.data.image_folder import ENDINGS
from distill_ray.data.label_column import classes_in
from distill_ray.data.source import (
    MAX_ENCODED,
    PART_NAMES,
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

SHARD = re.compile(
    rf"(?P<split>{'|'.join(name for names in PART_NAMES.values() for name in names)})"
    r"([-_.].*)?\.tar"
)
ROWS_PER_BATCH = 128
MAX_LABEL = 100_000
"""Bytes of the largest member that has labels."""

CLASS, VALUES = "cls", "json"
"""Endings of the members with labels: the class alone, or several values by name."""


@dataclass
class _Shard:
    """One tar file and where its samples are."""

    entry: fs.FileInfo
    shown: str
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    keys: list[str] = field(default_factory=list)
    labels: list[int | str] = field(default_factory=list)


class TarShards(Source):
    """A folder of `train-*.tar`, `val-*.tar` and `test-*.tar`. The label is the member `.cls`, a
    number or text, or a value in the member `.json`.

    Rows are in the order of the files and of the samples in them. Opening it reads the headers of
    all members, no images.
    """

    reopens = True

    def __init__(self, folder: Folder, label: str | None, cuts_test: bool = False) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self.cuts_test = cuts_test
        self._folder = folder
        named = shards_of(folder)
        self._shards: dict[Part, list[_Shard]] = {part: [] for part in PART_NAMES}
        parts = parts_among(named, cuts_test=cuts_test)
        if not parts:
            raise RequestError(f"{self.location}: no tar file is called train-*.tar or test-*.tar")
        first = named[parts["train" if "train" in parts else "test"]][0]
        self.label_columns = self._columns(first)
        self.label = pick_label(label, self.label_columns, self.location)
        for part, name in parts.items():
            self._shards[part] = [self._indexed(entry) for entry in named[name]]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The labels that occur in the training split, sorted."""
        return tuple(map(str, self._values))

    @cached_property
    def _values(self) -> list[Any]:
        values: dict[Part, set[Any]] = {}
        for part, shards in self._shards.items():
            values[part] = set().union(*(shard.labels for shard in shards))
        kinds = {type(value) for column in values.values() for value in column}
        if len(kinds) > 1:
            raise RequestError(
                f"{self.location}: {self.label} is a number in some rows, text in others"
            )
        return classes_in(
            values, self.rows("train") or self.rows("test"), self.label, self.location
        )

    def rows(self, split: SplitName) -> int:
        return sum(len(shard.keys) for part in PARTS[split] for shard in self._shards[part])

    @property
    def validation_rows(self) -> int:
        return sum(len(shard.keys) for shard in self._shards["validation"])

    @cached_property
    def digest(self) -> str:
        """Digest of the files, in order."""
        return self._folder.digest(
            [
                (part, [shard.entry for shard in shards])
                for part, shards in self._shards.items()
                if shards
            ]
        )

    def check_unchanged(self) -> None:
        shards = [shard.entry for shards in self._shards.values() for shard in shards]
        self._folder.check_unchanged(shards)

    def labels(self, split: SplitName) -> np.ndarray:
        numbers = {value: number for number, value in enumerate(self._values)}
        shards = [shard for part in PARTS[split] for shard in self._shards[part]]
        return np.array([numbers[label] for shard in shards for label in shard.labels], np.int64)

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The samples of `split` in order, at most 128 at a time, none of which spans two files."""
        numbers = {value: number for number, value in enumerate(self._values)}
        stop = self.rows(split) if last is None else last
        for shard in (shard for part in PARTS[split] for shard in self._shards[part]):
            count = len(shard.keys)
            for start in range(max(0, first), min(stop, count), ROWS_PER_BATCH):
                end = min(start + ROWS_PER_BATCH, stop, count)
                yield self._batch(shard, start, end, numbers)
            first, stop = first - count, stop - count

    def _batch(
        self, shard: _Shard, start: int, end: int, numbers: dict[int | str, int]
    ) -> EncodedBatch:
        encoded: list[bytes | None] = []
        names = [f"{shard.shown}, {for_terminal(key)}" for key in shard.keys[start:end]]
        with reading(shard.shown, "read"):
            file = self._folder.filesystem.open_input_file(shard.entry.path)
        with reading(shard.shown, "read"), file:
            for row in range(start, end):
                file.seek(shard.offsets[row])
                encoded.append(file.read(shard.sizes[row]))
        labels = np.array([numbers[label] for label in shard.labels[start:end]], np.int64)
        return EncodedBatch(encoded, labels, names.__getitem__)

    def _columns(self, entry: fs.FileInfo) -> tuple[str, ...]:
        """What could be learned, by the first sample of a file."""
        with self._members(entry) as members:
            for _, members_of_key in _samples(members):
                if CLASS in members_of_key:
                    return (CLASS,)
                if VALUES in members_of_key:
                    values = self._values_in(entry, members, members_of_key[VALUES])
                    return tuple(
                        name for name, value in values.items() if type(value) in (int, str)
                    )
        return ()

    def _indexed(self, entry: fs.FileInfo) -> _Shard:
        """Where the images of a file are, and their labels."""
        shard = _Shard(entry, self._folder.shown(entry.path))
        with self._members(entry) as members:
            for key, members_of_key in _samples(members):
                images = [member for end, member in members_of_key.items() if f".{end}" in ENDINGS]
                if not images:
                    continue
                where = f"{shard.shown}, {for_terminal(key)}"
                if len(images) > 1 or images[0].size > MAX_ENCODED:
                    problem = (
                        "has several images"
                        if len(images) > 1
                        else f"has more than {MAX_ENCODED / 1e6:.0f} MB"
                    )
                    raise RequestError(f"{where} {problem}; write the file anew")
                shard.offsets.append(images[0].offset_data)
                shard.sizes.append(images[0].size)
                shard.keys.append(key)
                shard.labels.append(self._label_of(entry, members, members_of_key, where))
            # A whole file has an empty header here; tarfile takes the end of a torn one for it
            if entry.size is not None and entry.size <= members.offset:
                raise RequestError(f"{shard.shown} ends too early; get it again")
        return shard

    def _label_of(
        self,
        entry: fs.FileInfo,
        members: tarfile.TarFile,
        of_key: dict[str, tarfile.TarInfo],
        where: str,
    ) -> int | str:
        value: object = None
        if self.label == CLASS and CLASS in of_key:
            text = _content(members, of_key[CLASS]).decode("utf-8", "replace").strip()
            value = int(text) if re.fullmatch(r"\d{1,18}", text) else text
        elif self.label != CLASS and VALUES in of_key:
            value = self._values_in(entry, members, of_key[VALUES]).get(self.label)
        if value in (None, "") or type(value) not in (int, str):
            raise RequestError(f"{where}: {self.label} is missing; add it or remove the sample")
        return cast("int | str", value)

    def _values_in(
        self, entry: fs.FileInfo, members: tarfile.TarFile, member: tarfile.TarInfo
    ) -> dict[str, Any]:
        try:
            values = json.loads(_content(members, member))
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"{self._folder.shown(entry.path)}, {for_terminal(member.name)}: {one_line(error)}"
            ) from None
        return values if isinstance(values, dict) else {}

    @contextmanager
    def _members(self, entry: fs.FileInfo) -> Iterator[tarfile.TarFile]:
        location = self._folder.shown(entry.path)
        with reading(location, "read as a tar file"):
            file = self._folder.filesystem.open_input_file(entry.path)
        try:
            with (
                reading(location, "read as a tar file"),
                file,
                tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:") as members,
            ):
                yield members
        except tarfile.TarError as error:
            raise RequestError(
                f"{location} cannot be read as a tar file ({one_line(error)}); get it again"
            ) from None


def shards_of(folder: Folder) -> dict[str, list[fs.FileInfo]]:
    """The tar files of a folder by the name of their split, in order."""
    shards: dict[str, list[fs.FileInfo]] = {}
    for entry in folder.entries():
        match = SHARD.fullmatch(entry.base_name)
        if match is not None and entry.is_file:
            shards.setdefault(match["split"], []).append(entry)
    return shards


def _samples(members: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The members of each sample by their ending: those next to each other with one key, which is
    the path up to the first dot of the file's name.
    """
    current, of_key = "", dict[str, tarfile.TarInfo]()
    for member in members:
        folder, name = posixpath.split(member.name)
        stem, dot, ending = name.partition(".")
        if not member.isreg() or not dot or not stem:
            continue
        key = posixpath.join(folder, stem)
        if key != current and of_key:
            yield current, of_key
            of_key = {}
        current = key
        of_key[ending.rpartition(".")[2].lower()] = member
        members.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
    if of_key:
        yield current, of_key


def _content(members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = members.extractfile(member)
    return b"" if file is None else file.read(MAX_LABEL)
