"""Folders on any pyarrow file system: listing, reading, and the digest of what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal
from distill_ray.folders import walk
from distill_ray.node_cache import remembered_digest

CHUNK = 1 << 20


@dataclass(frozen=True)
class Folder:
    """A folder at `path` of `filesystem`, named by `location`: the absolute path, or the URI."""

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
        except ImportError:
            raise RequestError(
                f"data set {path_or_uri!r}: hf:// is read by huggingface_hub; pip install "
                "'distill-ray[hf]'"
            ) from None
        except RequestError:
            raise
        except Exception as error:  # hf:// has those of the packages that it is read by
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

    def below(self, name: str) -> Folder:
        """The sub-folder `name`."""
        place, mark, options = self.location.partition("?")
        location = f"{place.rstrip('/')}/{name}{mark}{options}"
        return Folder(self.filesystem, f"{self.path.rstrip('/')}/{name}", location)

    def entries(self, below: str = "") -> list[fs.FileInfo]:
        """The files and folders in the folder (or its sub-folder `below`), by path. Others are left
        out: who opened a pipe would wait for ever.
        """
        selector = fs.FileSelector(f"{self.path}/{below}" if below else self.path)
        with reading(self.location, "listed"):
            entries = self.filesystem.get_file_info(selector)
        kinds = (fs.FileType.File, fs.FileType.Directory)
        return sorted(
            (entry for entry in entries if entry.type in kinds), key=lambda entry: entry.path
        )

    def walk(self, below: str) -> list[fs.FileInfo]:
        """Every file below the sub-folder `below`, however deep, by path; links to files are files.

        What is neither file nor folder has the type `Unknown`: links to folders, which are not
        followed, links to nothing, pipes.
        """
        with reading(self.location, "listed"):
            if isinstance(self.filesystem, fs.LocalFileSystem):
                entries = [_about(entry) for entry in walk(f"{self.path}/{below}".rstrip("/"))]
            else:
                selector = fs.FileSelector(f"{self.path}/{below}".rstrip("/"), recursive=True)
                entries = self.filesystem.get_file_info(selector)
        files = [entry for entry in entries if entry.type != fs.FileType.Directory]
        return sorted(files, key=lambda entry: entry.path)

    def check_unchanged(self, entries: Sequence[fs.FileInfo]) -> None:
        """Raise `RequestError` when a file is not as it was when it was listed."""
        with reading(self.location, "listed"):
            for start in range(0, len(entries), 1000):
                before = entries[start : start + 1000]
                now = self.filesystem.get_file_info([entry.path for entry in before])
                for old, new in zip(before, now, strict=True):
                    if (old.size, old.mtime_ns) != (new.size, new.mtime_ns):
                        raise RequestError(
                            f"{self.shown(old.path)} has changed while the data set was read; run "
                            "the same command again when nothing writes to it"
                        )

    def shown(self, path: str) -> str:
        """How `path`, somewhere in this folder, is shown to the user."""
        location = self.location.partition("?")[0].rstrip("/")
        return for_terminal(location + path.removeprefix(self.path))

    def read(self, path: str, limit: int) -> bytes:
        """The content of one file of at most `limit` bytes."""
        with reading(self.shown(path), "read"), self.filesystem.open_input_stream(path) as stream:
            content = bytes(stream.read(limit + 1))
        if len(content) > limit:
            raise RequestError(
                f"{self.shown(path)} has more than {limit / 1e6:.0f} MB; replace it by a smaller "
                "one or remove it"
            )
        return content

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


def _about(entry: os.DirEntry[str]) -> fs.FileInfo:
    try:
        about, kind = entry.stat(), fs.FileType.File if entry.is_file() else fs.FileType.Unknown
    except OSError:  # a link to nothing
        return fs.FileInfo(entry.path, fs.FileType.Unknown)
    return fs.FileInfo(entry.path, kind, mtime_ns=about.st_mtime_ns, size=about.st_size)


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
