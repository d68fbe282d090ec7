"""Folders on any pyarrow file system: listing, reading, and the digest of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from distill_ray.data.cache import remembered_digest
from distill_ray.errors import RequestError

CHUNK = 1 << 20


@dataclass(frozen=True)
class Folder:
    """A folder at `path` of `filesystem`; `location` is the absolute path or the URI that names it."""

    filesystem: fs.FileSystem
    path: str
    location: str

    @classmethod
    def find(cls, path_or_uri: str) -> Folder | None:
        """The folder that a path or URI names; None where there is nothing.

        Raises:
            RequestError: the URI is malformed, holds a password or cannot be reached, or names a
            file.
        """
        try:
            uri = urlsplit(path_or_uri)
            if "@" in uri.netloc:
                raise RequestError(
                    "a data set's URI must not hold a password; put credentials in the environment"
                )
            if len(uri.scheme) > 1:
                filesystem, path = fs.FileSystem.from_uri(path_or_uri)
                location = path_or_uri
            else:
                filesystem = fs.LocalFileSystem()
                path = location = str(Path(path_or_uri).expanduser().absolute())
            kind = filesystem.get_file_info(path).type
        except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
            raise RequestError(
                f"data set {path_or_uri!r} cannot be reached: {one_line(error)}"
            ) from error
        if kind == fs.FileType.NotFound:
            return None
        if kind != fs.FileType.Directory:
            raise RequestError(
                f"data set {path_or_uri} is a file; name the folder that holds the data set"
            )
        return cls(filesystem, path, location)

    def entries(self, below: str = "", *, recursive: bool = False) -> list[fs.FileInfo]:
        """What the folder (or its sub-folder `below`) holds, by path."""
        selector = fs.FileSelector(
            f"{self.path}/{below}" if below else self.path, recursive=recursive
        )
        with reading(self.location, "listed"):
            return sorted(self.filesystem.get_file_info(selector), key=lambda entry: entry.path)

    def shown(self, path: str) -> str:
        """How `path`, somewhere in this folder, is shown to the user."""
        return self.location.partition("?")[0].rstrip("/") + path.removeprefix(self.path)

    def read(self, path: str) -> bytes:
        """The content of one file."""
        with reading(self.shown(path), "read"), self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def digest(self, groups: Sequence[tuple[str, Sequence[fs.FileInfo]]]) -> str:
        """Digest of the content of groups of files, each with the name it stands for; file names do
        not count.

        Remembered by path, size and modification time, so that an unchanged data set is hashed once
        per node.
        """
        facts = [
            (
                name,
                [
                    (self.filesystem.type_name, entry.path, entry.size, entry.mtime_ns)
                    for entry in entries
                ],
            )
            for name, entries in groups
        ]

        def compute() -> str:
            whole = hashlib.sha256(b"distill_ray data 1")
            for name, entries in groups:
                whole.update(hashlib.sha256(name.encode(errors="surrogateescape")).digest())
                for entry in entries:
                    whole.update(self._file_digest(entry.path))
            return whole.hexdigest()[:32]

        return remembered_digest(repr(facts), compute)

    def _file_digest(self, path: str) -> bytes:
        content = hashlib.sha256()
        with reading(self.shown(path), "read"), self.filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(CHUNK):
                content.update(chunk)
        return content.digest()


@contextmanager
def reading(what: str, done: str) -> Iterator[None]:
    """A context that raises the errors of pyarrow and of the file system as a `RequestError`:
    `what` cannot be `done`.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise RequestError(
            f"{what} cannot be {done} ({one_line(error)}); check it, or get it again"
        ) from error


def one_line(error: BaseException) -> str:
    """The first line of what `error` says, at most 200 characters of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(". ")
