"""Image files whose labels are in a table beside them: `metadata.csv`, as Hugging Face writes it,
or `train.csv`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, csv, fs
from pyarrow import json as json_lines

from distill_ray.data.files import Folder, reading
from distill_ray.data.image_folder import FILES_PER_BATCH
from distill_ray.data.label_column import choose_label, classes_in, values_of
from distill_ray.data.source import (
    MAX_ENCODED,
    PART_NAMES,
    PARTS,
    USUAL_LABELS,
    EncodedBatch,
    Part,
    Source,
    SplitName,
    parts_among,
)
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal

FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path")
"""Names of the column with the files; the first that is there is taken."""

METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables in the folder of a split, which name the files in it."""

MAX_TABLE = 1_000_000_000
"""Bytes of the largest table that is read."""

Tables = Mapping[str, fs.FileInfo]
"""The table of each split, by the name that the split has."""


class ListedImages(Source):
    """`train/metadata.csv` (or `.jsonl`), or `train.csv` beside the folder `train`, and the same
    for the other splits.

    One column has the files, relative to the folder of the table or of the split, another the
    labels, integers or text; `choose_label` says which. Rows are in the order of the table.
    """

    reopens = True

    def __init__(
        self, folder: Folder, tables: Tables, label: str | None, cuts_test: bool = False
    ) -> None:
        self.name = folder.path.rstrip("/").rpartition("/")[2]
        self.location = folder.location
        self.cuts_test = cuts_test
        self._folder = folder
        self._table_files: dict[Part, fs.FileInfo] = {}
        self._rows: dict[Part, pa.Table] = {}
        self._files: dict[Part, list[fs.FileInfo]] = {part: [] for part in PART_NAMES}
        parts = parts_among(tables, cuts_test=cuts_test)
        for part, name in parts.items():
            self._table_files[part] = tables[name]
            self._rows[part] = read_table(folder, tables[name])
        first = next(iter(self._rows))
        schema, location = self._rows[first].schema, folder.shown(self._table_files[first].path)
        file_column = next((name for name in FILE_COLUMNS if name in schema.names), None)
        if file_column is None:
            raise RequestError(
                f"{location}: no column names the files ({', '.join(FILE_COLUMNS)}) among "
                f"{', '.join(map(repr, schema.names))}"
            )
        self.label, self.label_columns = choose_label(
            label, schema, {}, image=file_column, location=location
        )
        for part, name in parts.items():
            self._check_columns(part, file_column, schema.field(self.label).type)
            paths = self._rows[part].column(file_column).to_pylist()
            self._files[part] = self._found(part, name, paths)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The values of the label column in the training split, sorted."""
        return tuple(map(str, self._values))

    @cached_property
    def _values(self) -> list[Any]:
        values: dict[Part, set[Any]] = {"train": set(), "test": set()}
        for part in self._rows:
            values[part] = set(np.unique(self._labels(part)).tolist())
        rows = self.rows("train") or self.rows("test")
        return classes_in(values, rows, self.label, self.location)

    def rows(self, split: SplitName) -> int:
        return sum(len(self._files[part]) for part in PARTS[split])

    @property
    def validation_rows(self) -> int:
        return len(self._files["validation"])

    @cached_property
    def digest(self) -> str:
        """Digest of the tables and of the files in their order."""
        return self._folder.digest(
            [(part, [table, *self._files[part]]) for part, table in self._table_files.items()]
        )

    def check_unchanged(self) -> None:
        for part, table in self._table_files.items():
            self._folder.check_unchanged([table, *self._files[part]])

    def batches(
        self, split: SplitName, first: int = 0, last: int | None = None
    ) -> Iterator[EncodedBatch]:
        """The files of `split` in the order of its tables, at most 128 at a time."""
        files = [entry for part in PARTS[split] for entry in self._files[part]][first:last]
        labels = self.labels(split)[first:last]
        for start in range(0, len(files), FILES_PER_BATCH):
            paths = [entry.path for entry in files[start : start + FILES_PER_BATCH]]
            yield EncodedBatch(
                [self._folder.read(path, MAX_ENCODED) for path in paths],
                labels[start : start + FILES_PER_BATCH],
                [self._folder.shown(path) for path in paths].__getitem__,
            )

    def labels(self, split: SplitName) -> np.ndarray:
        numbers = {value: number for number, value in enumerate(self._values)}
        parts = [part for part in PARTS[split] if part in self._rows]
        values = [value for part in parts for value in self._labels(part).tolist()]
        return np.array([numbers[value] for value in values], np.int64)

    def _labels(self, part: Part) -> np.ndarray:
        column = self._rows[part].column(self.label).combine_chunks()
        missing = column.is_null()
        if pa.types.is_string(column.type):  # as a table of text writes what is missing
            missing = compute.or_kleene(missing, compute.equal(column, ""))
        empty = compute.fill_null(missing, True).to_numpy(zero_copy_only=False)
        if empty.any():
            row = int(np.argmax(empty))
            raise RequestError(
                f"{self._shown(part, row)}: {self.label} is missing; fill it in or remove the row"
            )
        return values_of(column)

    def _shown(self, part: Part, row: int) -> str:
        return f"{self._folder.shown(self._table_files[part].path)}, row {row}"

    def _check_columns(self, part: Part, file_column: str, kind: pa.DataType) -> None:
        schema = self._rows[part].schema
        for name, expected in ((file_column, pa.string()), (self.label, kind)):
            if name not in schema.names or schema.field(name).type != expected:
                raise RequestError(
                    f"{self._folder.shown(self._table_files[part].path)}: column {name} is missing "
                    f"or not of type {expected}"
                )

    def _found(self, part: Part, name: str, paths: list[str | None]) -> list[fs.FileInfo]:
        """The files of the table of a part, all of which must be below the data set's folder."""
        table = self._table_files[part].path
        below = posixpath.dirname(table)
        others = f"{self._folder.path.rstrip('/')}/{name}"
        images: list[fs.FileInfo] = []
        folders: dict[str, bool] = {}
        for start in range(0, len(paths), 1000):
            some = paths[start : start + 1000]
            for row, path in enumerate(some, start):
                if not path or path.startswith("/") or ".." in path.split("/"):
                    raise RequestError(
                        f"{self._shown(part, row)}: {for_terminal(repr(path))} is no path below "
                        "the folder of the table; correct it or remove the row"
                    )
            with reading(self.location, "listed"):
                entries = self._folder.filesystem.get_file_info([f"{below}/{p}" for p in some])
                missing = [row for row, entry in enumerate(entries) if not entry.is_file]
                again = [f"{others}/{some[row]}" for row in missing]
                for row, entry in zip(
                    missing, self._folder.filesystem.get_file_info(again), strict=True
                ):
                    entries[row] = entry
            for row, entry in enumerate(entries):
                parent = posixpath.dirname(entry.path)
                if parent not in folders:
                    folders[parent] = self._leaves(parent)
                if not entry.is_file or folders[parent]:
                    reason = "lies behind a link to a folder" if folders[parent] else "is no file"
                    raise RequestError(
                        f"{self._shown(part, start + row)}: {for_terminal(str(some[row]))} "
                        f"{reason}; correct it or remove the row"
                    )
            images += entries
        return images

    def _leaves(self, folder: str) -> bool:
        """Whether a link to a folder lies between the data set's folder or that of a split, which
        may be one, and `folder`.
        """
        if not isinstance(self._folder.filesystem, fs.LocalFileSystem):
            return False
        names = folder.removeprefix(self._folder.path.rstrip("/")).strip("/").split("/")
        root = Path(self._folder.path)
        return any(root.joinpath(*names[:count]).is_symlink() for count in range(2, len(names) + 1))


def tables_of(folder: Folder, label: str | None) -> Tables:
    """The tables that list the images of a folder, by the name of their split; none where class
    folders hold the images, unless a table has the label that is asked for, or one of a usual name.
    """
    tables: dict[str, fs.FileInfo] = {}
    has_classes = False
    entries = {entry.base_name: entry for entry in folder.entries()}
    for name in (name for names in PART_NAMES.values() for name in names):
        table = entries.get(f"{name}.csv")
        if name in entries and entries[name].type == fs.FileType.Directory:
            inside = {entry.base_name: entry for entry in folder.entries(name)}
            has_classes |= any(entry.type == fs.FileType.Directory for entry in inside.values())
            table = next((inside[usual] for usual in METADATA if usual in inside), table)
        if table is not None and table.is_file:
            tables[name] = table
    if not tables or not has_classes:
        return tables
    names = read_table(folder, next(iter(tables.values()))).schema.names
    return tables if label in names or set(USUAL_LABELS) & set(names) else {}


def read_table(folder: Folder, entry: fs.FileInfo) -> pa.Table:
    """The rows of a CSV or JSON Lines file."""
    location = folder.shown(entry.path)
    if entry.size is not None and entry.size > MAX_TABLE:
        raise RequestError(f"{location} has more than {MAX_TABLE / 1e6:.0f} MB; is it a table?")
    with (
        reading(location, "read as a table"),
        folder.filesystem.open_input_stream(entry.path) as file,
    ):
        is_json = entry.path.endswith(".jsonl")
        table = json_lines.read_json(file) if is_json else csv.read_csv(file)
        # Text that is not UTF-8 is noticed only when it is looked at
        table.validate(full=True)
        table.rename_columns(table.schema.names)
        return table
