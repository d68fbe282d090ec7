"""Data sets in Parquet, the Hugging Face layout: encoded images in one column, labels in others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from distill_ray.data.files import Folder, reading
from distill_ray.data.label_column import (
    choose_label,
    class_label_names,
    classes_in,
    values_of,
)
from distill_ray.data.source import (
    MAX_ENCODED,
    PART_NAMES,
    PARTS,
    EncodedBatch,
    Part,
    Source,
    SplitName,
    parts_among,
)
from distill_ray.errors import RequestError

SHARD = re.compile(
    rf"(?P<split>{'|'.join(name for names in PART_NAMES.values() for name in names)})"
    r"(-(?P<index>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?)?\.parquet"
)
NUMBERED = re.compile(r"\d{1,6}\.parquet")
"""A file in the folder of its split, as the Hugging Face Hub converts data sets."""
_SPLIT_FOLDERS = frozenset(name for names in PART_NAMES.values() for name in names)

ROWS_PER_BATCH, BYTES_PER_BATCH = 128, 32_000_000
"""A batch ends with so many rows or so many encoded bytes, whichever comes first."""

MAX_UNPACKED, MAX_RATIO = 32_000_000, 100
"""A row group whose images unpack to more bytes, and to more than that many times their size in the
file, is refused: images are encoded already and do not compress so.
"""

BUFFER = 1 << 23
"""Bytes of a column that are read at a time, so that a row group need not be in memory at once."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a split."""

    entry: fs.FileInfo
    shown: str
    rows: int
    schema: pa.Schema


class ParquetSource(Source):
    """A folder of `train-00000-of-0000N.parquet` and `test-...` or `validation-...` files, of
    `train.parquet` and `test.parquet`, or of folders `train` and `test` with `0000.parquet` and so
    on.

    The image column is the one that the Hugging Face metadata declare, else `img` or `image`: a
    struct with a field `bytes`, or plain binary. `choose_label` says which column is learned. Its
    classes have the names in the metadata; without any they are the values that occur, sorted.
    """

    reopens = True

    def __init__(self, folder: Folder, label: str | None, cuts_test: bool = False) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self._folder = folder
        self.cuts_test = cuts_test
        self._shards = {
            part: [self._open(entry) for entry in files]
            for part, files in _files_by_part(folder, cuts_test).items()
        }
        every = self._every_shard()
        first = every[0]
        self._features = _features(first.schema)
        self._image = self._image_column(first)
        self.label, self.label_columns = choose_label(
            label, first.schema, self._features, image=self._image, location=first.shown
        )
        for shard in every:
            self._check_agrees(shard, first)

    def _every_shard(self) -> list[Shard]:
        return [shard for shards in self._shards.values() for shard in shards]

    def _shards_of(self, split: SplitName) -> list[Shard]:
        return [shard for part in PARTS[split] for shard in self._shards[part]]

    def _check_agrees(self, shard: Shard, first: Shard) -> None:
        for column in (self._image, self.label):
            indices = shard.schema.get_all_field_indices(column)
            kind = first.schema.field(column).type
            if len(indices) != 1 or shard.schema.field(indices[0]).type != kind:
                raise RequestError(
                    f"{shard.shown}: column {column} is missing or not of the type it has in "
                    f"{first.shown}"
                )
        names = class_label_names(_features(shard.schema).get(self.label))
        if names != class_label_names(self._features.get(self.label)):
            raise RequestError(
                f"{shard.shown}: the classes of {self.label} are not those of {first.shown}"
            )

    def rows(self, split: SplitName) -> int:
        """The number of images in `split`."""
        return sum(shard.rows for shard in self._shards_of(split))

    @property
    def validation_rows(self) -> int:
        return sum(shard.rows for shard in self._shards["validation"])

    @cached_property
    def digest(self) -> str:
        """Digest of the files, in order."""
        return self._folder.digest(
            [
                (part, [shard.entry for shard in shards])
                for part, shards in self._shards.items()
                if shards or part != "validation"
            ]
        )

    def check_unchanged(self) -> None:
        self._folder.check_unchanged([shard.entry for shard in self._every_shard()])

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names in the metadata; without any, the values that occur in the label column, which
        is then read. Raises `RequestError` where these are no classes.
        """
        names = class_label_names(self._features.get(self.label))
        return names or tuple(map(str, self._values))

    @cached_property
    def _values(self) -> list[Any]:
        """What the label column holds for each class, where the metadata name none."""
        values: dict[Part, set[Any]] = {part: set() for part in self._shards}
        for part, shards in self._shards.items():
            for shard in shards:
                for start, batch in self._read(shard, [self.label]):
                    values[part].update(np.unique(self._column(batch, shard, start)).tolist())
        rows = self.rows("train") or self.rows("test")
        return classes_in(values, rows, self.label, self.location)

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The rows of `split` from `first` to before `last`, at most 128 at a time. Other row
        groups are not read.
        """
        for shard in self._shards_of(split):
            if first < shard.rows and (last is None or last > 0):
                yield from self._batches(shard, max(0, first), last)
            first, last = first - shard.rows, None if last is None else last - shard.rows

    def labels(self, split: SplitName) -> np.ndarray:
        return np.concatenate(
            [
                self._numbers(self._column(rows, shard, start), shard, start)
                for shard in self._shards_of(split)
                for start, rows in self._read(shard, [self.label])
            ]
        )

    def _batches(self, shard: Shard, first: int, last: int | None) -> Iterator[EncodedBatch]:
        is_struct = pa.types.is_struct(shard.schema.field(self._image).type)
        columns = [f"{self._image}.bytes" if is_struct else self._image, self.label]
        encoded: list[bytes | None] = []
        labels: list[np.ndarray] = []
        size, begin = 0, first

        def batch() -> EncodedBatch:
            where = partial(_row_of, shard.shown, begin)
            return EncodedBatch(encoded, np.concatenate(labels), where)

        for start, rows in self._read(shard, columns, first, last):
            with reading(shard.shown, "read"):
                column = rows.column(self._image)
                contents = (column.field("bytes") if is_struct else column).to_pylist()
            for row, content in enumerate(contents, start):
                if content is not None and len(content) > MAX_ENCODED:
                    raise RequestError(
                        f"{_row_of(shard.shown, 0, row)}: the image has more than "
                        f"{MAX_ENCODED / 1e6:.0f} MB; replace it by a smaller one or remove it"
                    )
            length = sum(len(content or b"") for content in contents)
            full = len(encoded) + len(contents) > ROWS_PER_BATCH
            if encoded and (full or size + length > BYTES_PER_BATCH):
                yield batch()
                encoded, labels, size, begin = [], [], 0, start
            encoded += contents
            labels.append(self._numbers(self._column(rows, shard, start), shard, start))
            size += length
        if encoded:
            yield batch()

    def _open(self, entry: fs.FileInfo) -> Shard:
        location = self._folder.shown(entry.path)
        with (
            reading(location, "read as Parquet"),
            pq.ParquetFile(entry.path, filesystem=self._folder.filesystem) as file,
        ):
            return Shard(entry, location, file.metadata.num_rows, file.schema_arrow)

    def _read(
        self,
        shard: Shard,
        columns: list[str],
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a shard from `first` to before `last`, some at a time, each batch with the
        number of its first row.

        How long a value is shows only when it is read, so that no more are read at a time than may
        each be as long as all of their row group's.
        """
        path, filesystem = shard.entry.path, self._folder.filesystem
        last = shard.rows if last is None else last
        with (
            reading(shard.shown, "read as Parquet"),
            pq.ParquetFile(
                path, filesystem=filesystem, page_checksum_verification=True, buffer_size=BUFFER
            ) as file,
        ):
            groups: list[int] = []
            start = end = 0
            longest = 1
            for number in range(file.metadata.num_row_groups):
                begin, end = end, end + file.metadata.row_group(number).num_rows
                if end > first and begin < last:
                    start = start if groups else begin
                    groups.append(number)
                    size = _unpacked_size(file.metadata.row_group(number), columns[0], shard.shown)
                    longest = max(longest, size)
            at_a_time = max(1, min(ROWS_PER_BATCH, BYTES_PER_BATCH // longest))
            for batch in file.iter_batches(at_a_time, columns=columns, row_groups=groups):
                skipped = max(0, first - start)
                rows = batch.slice(skipped, max(0, last - start - skipped))
                if rows.num_rows:
                    yield start + skipped, rows
                start += batch.num_rows

    def _column(self, rows: pa.RecordBatch, shard: Shard, start: int) -> np.ndarray:
        """The label column of some rows as it is in the file."""
        column = rows.column(self.label)
        if column.null_count:
            row = start + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise RequestError(
                f"{shard.shown}, row {row}: {self.label} is missing; fill it in or remove the row"
            )
        with reading(shard.shown, "read"):
            return values_of(column)

    def _numbers(self, values: np.ndarray, shard: Shard, start: int) -> np.ndarray:
        """The classes' numbers, int64, for values of the label column."""
        names = class_label_names(self._features.get(self.label))
        if names and values.dtype != object:
            return values
        numbers = [self._number_of.get(value, -1) for value in values.tolist()]
        if -1 in numbers:
            row = numbers.index(-1)
            raise RequestError(
                f"{_row_of(shard.shown, start, row)}: {self.label} is {values[row]!r}, which is "
                "none of the classes; correct it or remove the row"
            )
        return np.array(numbers, np.int64)

    @cached_property
    def _number_of(self) -> Mapping[Any, int]:
        """The class's number for each value of the label column."""
        names = class_label_names(self._features.get(self.label))
        return {value: number for number, value in enumerate(names or self._values)}

    def _image_column(self, shard: Shard) -> str:
        declared = [name for name, feature in self._features.items() if _kind(feature) == "Image"]
        for name in [*declared, "img", "image"]:
            if name in shard.schema.names and _holds_bytes(shard.schema.field(name).type):
                return name
        names = ", ".join(map(repr, shard.schema.names))
        raise RequestError(
            f"{shard.shown}: no column of encoded images (img or image, with a field bytes) among "
            f"{names}"
        )


def _row_of(location: str, start: int, row: int) -> str:
    return f"{location}, row {start + row}"


def _unpacked_size(group: pq.RowGroupMetaData, column: str, location: str) -> int:
    """Bytes of `column` in a row group. Raises `RequestError` for what no encoded images are."""
    for number in range(group.num_columns):
        about = group.column(number)
        unpacked, packed = about.total_uncompressed_size, about.total_compressed_size
        if about.path_in_schema != column:
            continue
        if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
            raise RequestError(
                f"{location}: {column} unpacks from {packed / 1e6:.1f} to {unpacked / 1e6:.0f} MB "
                "in one row group, as encoded images do not; write the file anew without what "
                "is no image"
            )
        return int(unpacked)
    return 0


def holds_parquet(folder: Folder) -> bool:
    """Whether the folder, or that of a split in it, holds Parquet files."""
    entries = folder.entries()
    if any(entry.base_name.endswith(".parquet") for entry in entries):
        return True
    return any(
        NUMBERED.fullmatch(file.base_name) is not None
        for entry in entries
        if entry.base_name in _SPLIT_FOLDERS and entry.type == fs.FileType.Directory
        for file in folder.entries(entry.base_name)
    )


def _files_by_part(folder: Folder, cuts_test: bool) -> dict[Part, list[fs.FileInfo]]:
    """The Parquet files of each part in order. Raises `RequestError` when there are none or a
    shard is missing.
    """
    files: dict[Part, list[fs.FileInfo]] = {"train": [], "test": [], "validation": []}
    named: dict[str, list[tuple[int, int, fs.FileInfo]]] = {}
    for entry in folder.entries():
        if (match := SHARD.fullmatch(entry.base_name)) and entry.is_file:
            index, count = int(match["index"] or 0), int(match["count"] or 1)
            named.setdefault(match["split"], []).append((index, count, entry))
        elif entry.type == fs.FileType.Directory and entry.base_name in _SPLIT_FOLDERS:
            numbered = [
                file
                for file in folder.entries(entry.base_name)
                if NUMBERED.fullmatch(file.base_name)
            ]
            for file in numbered:
                shard = (int(file.base_name.partition(".")[0]), len(numbered), file)
                named.setdefault(entry.base_name, []).append(shard)
    for part, name in parts_among(named, cuts_test=cuts_test).items():
        shards = named[name]
        files[part] = [entry for _, _, entry in shards]
        counts = {count for _, count, _ in shards}
        if shards and [index for index, _, _ in shards] != list(range(max(counts))):
            some = ", ".join(entry.base_name for entry in files[part][:8])
            raise RequestError(
                f"{folder.location}: the {name} files are not one complete set ({some}); get "
                "the others"
            )
    if not any(files.values()):
        raise RequestError(
            f"{folder.location}: none of its Parquet files is named train-00000-of-00001.parquet "
            "or test-..., rename them"
        )
    return files


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What the Hugging Face metadata say of the columns; empty where there are none that can be
    understood.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, dict) else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
