"""Data sets in Parquet, the Hugging Face layout: encoded images in one column, integer labels in
others.
"""

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
from distill_ray.data.source import SPLIT_NAMES, EncodedBatch, Source, SplitName, pick_label
from distill_ray.errors import RequestError

SHARD = re.compile(
    rf"(?P<split>{'|'.join(name for names in SPLIT_NAMES.values() for name in names)})"
    r"(-(?P<index>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?)?\.parquet"
)
ROWS_PER_BATCH = 128
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
    """A folder of `train-00000-of-0000N.parquet` and `test-...` or `validation-...` files (or
    `train.parquet`, `test.parquet`).

    The image column is the one that the Hugging Face metadata declare, else `img` or `image`: a
    struct with a field `bytes`, or plain binary. Label columns are the integer columns; class names
    come from the metadata.
    """

    reopens = True

    def __init__(self, folder: Folder, label: str | None) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self._folder = folder
        self._shards = {
            split: [self._open(entry) for entry in files]
            for split, files in _files_by_split(folder).items()
        }
        every = [shard for shards in self._shards.values() for shard in shards]
        first = every[0]
        self._features = _features(first.schema)
        self._image = self._image_column(first)
        integers = [field.name for field in first.schema if pa.types.is_integer(field.type)]
        declared = [name for name in integers if _names(self._features.get(name))]
        self.label_columns = tuple(declared or integers)
        if label in first.schema.names and label not in integers:
            kind = first.schema.field(label).type
            raise RequestError(
                f"data.label: column {label} of {first.shown} holds {kind}, not integers; choose another"
            )
        self.label = pick_label(
            label, integers if label in integers else self.label_columns, self.location
        )
        for shard in every:
            self._check_agrees(shard, first)

    def _check_agrees(self, shard: Shard, first: Shard) -> None:
        for column in (self._image, self.label):
            if shard.schema.get_all_field_indices(column) != [
                index := shard.schema.get_field_index(column)
            ] or (shard.schema.field(index).type != first.schema.field(column).type):
                raise RequestError(
                    f"{shard.shown}: column {column} is missing or not of the type it has in {first.shown}"
                )
        if _names(_features(shard.schema).get(self.label)) != _names(
            self._features.get(self.label)
        ):
            raise RequestError(
                f"{shard.shown}: the classes of {self.label} are not those of {first.shown}"
            )

    def rows(self, split: SplitName) -> int:
        """The number of images in `split`."""
        return sum(shard.rows for shard in self._shards[split])

    @cached_property
    def digest(self) -> str:
        """Digest of the files, in order."""
        return self._folder.digest(
            [(split, [shard.entry for shard in shards]) for split, shards in self._shards.items()]
        )

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names in the metadata; without any, as many numbers as the label column needs, which
        is then read.

        Raises `RequestError` where that needs more classes than there are rows.
        """
        names = _names(self._features.get(self.label))
        if names:
            return names
        largest, rows = -1, 0
        for shard in (shard for shards in self._shards.values() for shard in shards):
            for _, batch in self._read(shard, [self.label]):
                largest = max(largest, int(self._labels(batch, shard, 0).max()))
            rows += shard.rows
        if largest >= rows:
            raise RequestError(
                f"{self.location}: {self.label} goes up to {largest} in only {rows} rows; classes count from 0"
            )
        return tuple(str(number) for number in range(largest + 1))

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The rows of `split` from `first` to before `last`, at most 128 at a time. Other row
        groups are not read.
        """
        is_struct = pa.types.is_struct(self._shards[split][0].schema.field(self._image).type)
        columns = [f"{self._image}.bytes" if is_struct else self._image, self.label]
        for shard in self._shards[split]:
            if first < shard.rows and (last is None or last > 0):
                for start, rows in self._read(shard, columns, max(0, first), last):
                    with reading(shard.shown, "read"):
                        column = rows.column(self._image)
                        encoded = (column.field("bytes") if is_struct else column).to_pylist()
                    yield EncodedBatch(
                        encoded,
                        self._labels(rows, shard, start),
                        partial(_row_of, shard.shown, start),
                    )
            first, last = first - shard.rows, None if last is None else last - shard.rows

    def _open(self, entry: fs.FileInfo) -> Shard:
        shown = self._folder.shown(entry.path)
        with (
            reading(shown, "read as Parquet"),
            pq.ParquetFile(entry.path, filesystem=self._folder.filesystem) as file,
        ):
            return Shard(entry, shown, file.metadata.num_rows, file.schema_arrow)

    def _read(
        self, shard: Shard, columns: list[str], first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a shard from `first` to before `last`, each batch with the number of its
        first row.
        """
        path, filesystem = shard.entry.path, self._folder.filesystem
        with (
            reading(shard.shown, "read as Parquet"),
            pq.ParquetFile(
                path, filesystem=filesystem, page_checksum_verification=True, buffer_size=BUFFER
            ) as file,
        ):
            ends = np.cumsum(
                [
                    file.metadata.row_group(group).num_rows
                    for group in range(file.metadata.num_row_groups)
                ]
            )
            begins = ends - np.diff(ends, prepend=0)
            groups = [
                group
                for group, end in enumerate(ends)
                if end > first and (last is None or begins[group] < last)
            ]
            start = int(begins[groups[0]]) if groups else 0
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=columns, row_groups=groups):
                skipped = max(0, first - start)
                wanted = batch.slice(
                    skipped, None if last is None else max(0, last - start - skipped)
                )
                if wanted.num_rows:
                    yield start + skipped, wanted
                start += batch.num_rows

    def _labels(self, rows: pa.RecordBatch, shard: Shard, start: int) -> np.ndarray:
        column = rows.column(self.label)
        if column.null_count:
            row = start + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise RequestError(
                f"{shard.shown}, row {row}: {self.label} is missing; fill it in or remove the row"
            )
        with reading(shard.shown, "read"):
            return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)

    def _image_column(self, shard: Shard) -> str:
        declared = [name for name, feature in self._features.items() if _kind(feature) == "Image"]
        for name in [*declared, "img", "image"]:
            if name in shard.schema.names and _holds_bytes(shard.schema.field(name).type):
                return name
        found = ", ".join(map(repr, shard.schema.names))
        raise RequestError(
            f"{shard.shown}: no column of encoded images (img or image, with a field bytes) among {found}"
        )


def _row_of(shown: str, start: int, row: int) -> str:
    return f"{shown}, row {start + row}"


def _files_by_split(folder: Folder) -> dict[SplitName, list[fs.FileInfo]]:
    """The Parquet files of each split in order. Raises `RequestError` when there are none or a
    shard is missing.
    """
    files: dict[SplitName, list[fs.FileInfo]] = {"train": [], "test": []}
    matched = [
        (match, entry)
        for entry in folder.entries()
        if (match := SHARD.fullmatch(entry.base_name)) and entry.is_file
    ]
    for split, found in files.items():
        name = next(
            (
                name
                for name in SPLIT_NAMES[split]
                if any(match["split"] == name for match, _ in matched)
            ),
            split,
        )
        counts, indices = set(), []
        for match, entry in matched:
            if match["split"] == name:
                found.append(entry)
                counts.add(int(match["count"] or 1))
                indices.append(int(match["index"] or 0))
        if found and (len(counts) > 1 or indices != list(range(counts.pop()))):
            names = ", ".join(entry.base_name for entry in found[:8])
            raise RequestError(
                f"{folder.location}: the {split} files are not one complete set ({names}); get the others"
            )
    if not any(files.values()):
        raise RequestError(
            f"{folder.location}: none of its Parquet files is named train-00000-of-00001.parquet or test-..., rename them"
        )
    return files


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What the Hugging Face metadata say of the columns; empty where there are none that can be
    understood.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, dict) else None


def _names(feature: object) -> tuple[str, ...]:
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
