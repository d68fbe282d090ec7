"""The store: where results live, by content, on any file system that pyarrow reaches.

A *record* is a set of files with a manifest. The manifest is written last and in one piece, and
names every file with its size and SHA-256. A record with a manifest is done and is never made
again; without one it does not exist, whatever files lie there. That one rule gives resuming,
sharing between studies, and safety after a crash.

    store.json                                    says that this is a store
    jobs/<job.id>/manifest.json                   a finished training run
    jobs/<job.id>/evaluations/test/manifest.json  its predictions on the test split
    jobs/<job.id>/evaluations/judged-<images>/manifest.json  its judgement of test or foreign images
    work/<job.id>/                                checkpoints of an unfinished training run
    logs/<job.id>.log                             its log
    screenings/<id>/manifest.json                 a measurement of a screening
    latencies/<id>/manifest.json                  how long an untrained network takes here
    weights/<digest>/manifest.json                weights that were trained elsewhere
    teacher_logits/<key>/<epoch>/manifest.json    teachers' logits for the images of an epoch;
                                                  may be evicted
    teacher_logits/<key>/<version>/<shard>/       the same for a shard of a version
    studies/<name>/                               the search's history, the report, its identity
                                                  in MLflow
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import posixpath
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from distill_ray.addresses import check_scheme, masked, masked_text
from distill_ray.errors import DamagedError, RequestError, StoreError, first_line
from distill_ray.folders import remove, walk
from distill_ray.node_cache import cache_root

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"

MARK = "store.json"
"""The file that makes a folder a store. Where there is none, nothing is written or deleted."""

FOLDERS = (
    "jobs",
    "work",
    "logs",
    "weights",
    "teacher_logits",
    "screenings",
    "latencies",
    "studies",
)
"""What a store consists of, beside its mark and MLflow's database."""

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says of a store that may only be read."""

DAMAGED = ".damaged-"
"""What follows the name of a file that was set aside, before some digits."""


@dataclass(frozen=True)
class Record:
    """A finished set of files: `info` is what was stored with it, `read` returns a file's checked
    content.
    """

    store: Store
    key: str
    info: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(repr=False)

    def read(self, name: str) -> bytes:
        """The content of file `name`.

        A file that is missing or does not match its checksum makes the whole record void: it is set
        aside, so that it is made again, and `DamagedError` says so.
        """
        entry = self.files[name]
        content = self.store.read(entry["path"])
        if content is None or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            fault = "missing" if content is None else "damaged"
            aside = self.store.set_aside(posixpath.join(self.key, MANIFEST))
            done = "its record was set aside, and " if aside else ""
            raise DamagedError(
                f"{self.store.shown}: {entry['path']} is {fault}; "
                f"{done}running the study makes it anew"
            )
        return content

    def map(self, name: str) -> pa.Buffer:
        """The same content, memory-mapped, so that the processes of a machine share it.

        A store that is not a local folder is copied from, into the node's cache. Raises
        `DamagedError` as `read` does.
        """
        entry = self.files[name]
        if self.store.is_local:
            path = self.store.local_path(entry["path"])
            with suppress(OSError):
                content = _mapped(path)
                if hashlib.sha256(content).hexdigest() == entry["sha256"]:
                    return content
        else:
            copy = cache_root() / posixpath.dirname(self.key).split("/")[0] / entry["sha256"]
            with suppress(OSError):
                content = _mapped(copy)
                if hashlib.sha256(content).hexdigest() == entry["sha256"]:
                    os.utime(copy)
                    return content
            fetched = self.read(name)
            try:
                Store._write_locally(copy, fetched, durable=False)
                return _mapped(copy)
            except OSError:  # no room for a copy: this process keeps it to itself
                return pa.py_buffer(fetched)
        return pa.py_buffer(self.read(name))

    def local(self, name: str) -> Path:
        """The file on this machine, by its own name: a copy in the node's cache where the store is
        no local folder.

        Raises `DamagedError` as `read` does, and `StoreError` where there is no room for a copy.
        """
        entry = self.files[name]
        if self.store.is_local:
            return self.store.local_path(entry["path"])
        kind = posixpath.dirname(self.key).split("/")[0]
        copy: Path = cache_root() / kind / entry["sha256"] / posixpath.basename(entry["path"])
        try:
            if not copy.exists() or _digest(copy) != entry["sha256"]:
                Store._write_locally(copy, self.read(name), durable=False)
        except OSError as error:
            raise StoreError(f"{copy}: no copy of {self.store.shown} ({error.strerror})") from None
        return copy


def _digest(path: Path) -> str:
    return hashlib.sha256(_mapped(path)).hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    """What tells whether a manifest is as it was written."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _parsed(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        base, path = fs.FileSystem.from_uri(uri)
    except ValueError as error:
        check_scheme(uri, "store")
        reason = masked_text(str(error), uri)
        raise RequestError(
            f"store {masked(uri)}: not understood ({reason}); choose another with --store"
        ) from None
    return base, path


def _mapped(path: Path) -> pa.Buffer:
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


@dataclass(frozen=True)
class Store:
    """Records and files under one root: a local folder or a URI such as `s3://bucket/prefix`."""

    uri: str

    @classmethod
    def open(cls, uri: str, *, make: bool = True) -> Store:
        """The store at `uri`, made if need be.

        Args:
            uri: A folder, or a URI that pyarrow understands.
            make: Whether to make it where there is none. Otherwise nothing is written.

        Raises:
            RequestError: it cannot be reached or written, it is not there (without `make`), or the
                folder holds something other than a store.
        """
        probe = f"probe-{secrets.token_hex(4)}"
        try:
            store = cls.at(uri)
            if store.is_local and Path(store.uri).exists() and not Path(store.uri).is_dir():
                raise RequestError(
                    f"store {store.shown}: it is a file, and a store is a folder; choose another "
                    "with --store"
                )
            if make:
                store._make()
                store._write(probe, b"distill_ray", durable=False)
                store.delete(probe)
            elif not store._exists(MARK):
                raise RequestError(
                    f"store {store.shown}: there is none; running a study makes it, --store names "
                    "another"
                )
        except OSError as error:
            reason = masked_text(str(error), uri)
            wanted = "written" if make else "read"
            raise RequestError(
                f"store {masked(uri)}: cannot be {wanted} ({reason}); choose another with --store"
            ) from None
        return store

    @classmethod
    def at(cls, uri: str) -> Store:
        """The store at `uri` without a look at it, to be read: one that is not there is empty.

        Raises `RequestError` when the URI is no address of a store.
        """
        if "://" not in uri:  # of a complete address, pyarrow knows whether it is one
            check_scheme(uri, "store")
        folder = _parsed(uri)[1] if uri.startswith("file:") else uri
        if "://" in folder:
            return cls(folder)
        try:
            path = Path(folder).expanduser().absolute()
            if ".." in path.parts:  # by the file system, where links may lie before them
                path = path.resolve()
            return cls(str(path))
        except RuntimeError as error:  # ~nobody
            raise RequestError(f"store {folder}: {first_line(error)}") from None

    def _exists(self, path: str) -> bool:
        if self.is_local:
            return os.path.lexists(Path(self.uri, path))
        return bool(self._files.get_file_info(path).type != fs.FileType.NotFound)

    def _make(self) -> None:
        """Mark the folder as a store, unless it is one or holds what looks like a store's but no
        study has written.
        """
        if self._exists(MARK):
            return
        others = [name for name in FOLDERS if self._exists(name)]
        # Another process may have made the store since
        if others and not self._exists(MARK):
            raise RequestError(
                f"store {self.shown}: it holds a folder {others[0]} but no {MARK}, so no study has "
                "made it; choose another folder with --store"
            )
        mark = json.dumps({"made by": "distill_ray", "version": 1}).encode()
        if self.is_local:
            self._write_locally(self.local_path(MARK), mark, durable=True)
        else:
            self._write(MARK, mark, durable=True)

    @property
    def shown(self) -> str:
        """The address without credentials and options: the only form in which it is printed."""
        return self.uri if self.is_local else masked(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return "://" not in self.uri

    @cached_property
    def _files(self) -> fs.FileSystem:
        if self.is_local:
            return fs.SubTreeFileSystem(self.uri, fs.LocalFileSystem())
        base, path = _parsed(self.uri)
        return fs.SubTreeFileSystem(path, base)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    def local_path(self, path: str) -> Path:
        """Where `path` lies on this machine's disk, or would lie. Raises `RequestError` for a store
        that is elsewhere.
        """
        if not self.is_local:
            raise RequestError(f"store {self.shown}: {path} must lie on a local disk")
        return Path(self.uri, path)

    def put(self, key: str, files: Mapping[str, bytes], info: Mapping[str, Any]) -> Record:
        """Write a record: first the files, each attempt in a folder of its own, then the manifest
        that makes them count.

        Raises `StoreError` as `write` does; what had been written by then counts for nothing.
        """
        attempt = posixpath.join(key, secrets.token_hex(4))
        entries = {}
        for name, content in files.items():
            path = posixpath.join(attempt, name)
            self.write(path, content)
            entries[name] = {
                "path": path,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        manifest = json.loads(json.dumps({"info": dict(info), "files": entries}))
        sealed = json.dumps(manifest | {"sha256": _seal(manifest)}, indent=1)
        self.write(posixpath.join(key, MANIFEST), sealed.encode(), durable=True)
        return Record(self, key, manifest["info"], entries)

    def get(self, key: str) -> Record | None:
        """The record under `key`, or None. A manifest that cannot be read or whose files are gone
        is set aside.
        """
        path = posixpath.join(key, MANIFEST)
        content = self.read(path)
        if content is None:
            return None
        try:
            manifest = json.loads(content)
            if manifest.pop("sha256") != _seal(manifest):
                raise ValueError("it is not what was written")
            record = Record(self, key, dict(manifest["info"]), dict(manifest["files"]))
            sizes = {str(entry["path"]): entry["bytes"] for entry in record.files.values()}
            if not all(
                posixpath.normpath(name) == name and name.startswith(f"{key}/") and "\0" not in name
                for name in sizes
            ):
                raise ValueError("a file of the record lies outside of it")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.set_aside(path)
            return None
        with self.explained(path):
            there = {info.path: info.size for info in self._files.get_file_info(list(sizes))}
        if there != sizes:
            self.set_aside(path)
            return None
        return record

    def read(self, path: str) -> bytes | None:
        """The content of a file, or None when there is none."""
        with self.explained(path):
            try:
                with self._files.open_input_stream(path) as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

    def read_json(self, path: str) -> dict[str, Any]:
        """The object in a JSON file; empty where there is no file, or none that holds an object, as
        on an object store while it is overwritten.
        """
        try:
            content = json.loads(self.read(path) or b"{}")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, path: str, content: bytes, *, durable: bool = False) -> None:
        """Write a file in one piece: a reader, or a run after a crash, sees the old content or the
        new, never a part.

        `durable` also waits until a local disk has it. Raises `StoreError` when the disk is full or
        cannot be written.
        """
        with self.explained(path):
            self._write(path, content, durable)

    def _write(self, path: str, content: bytes, durable: bool) -> None:
        if self.is_local:
            if not self._exists(MARK):
                raise StoreError(
                    f"store {self.shown}: it is gone, or was never made ({MARK} is missing); what "
                    f"was to be written is {path}. Running the study again makes a new one"
                )
            for last in (False, False, True):
                try:
                    self._write_locally(self.local_path(path), content, durable)
                    return
                except FileNotFoundError:  # somebody has removed the folder meanwhile
                    if last:
                        raise
        try:
            stream = self._files.open_output_stream(path)
        except FileNotFoundError:  # a file system with folders, unlike an object store
            folder = posixpath.dirname(posixpath.join(self._files.base_path, path))
            self._files.base_fs.create_dir(folder, recursive=True)
            stream = self._files.open_output_stream(path)
        with stream:
            stream.write(content)

    @staticmethod
    def _write_locally(target: Path, content: bytes, durable: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def delete(self, path: str) -> None:
        """Remove a file or folder; nothing happens when there is none. What others write meanwhile
        may stay.

        A link goes, what it leads to stays. Raises `StoreError` for what lies behind a link.
        """
        if self.is_local:
            try:
                with self.explained(path):
                    remove(self.local_path(path), Path(self.uri))
            except ValueError as error:
                raise StoreError(f"store {self.shown}: {path} is not removed ({error})") from None
            return
        with self.explained(path), suppress(FileNotFoundError):
            kind = self._files.get_file_info(path).type
            if kind == fs.FileType.Directory:
                try:
                    self._files.delete_dir(path)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:  # somebody else is writing into it
                        raise
            elif kind == fs.FileType.File:
                self._files.delete_file(path)

    def names(self, path: str) -> list[str]:
        """The names of the files and folders directly under `path`, sorted; what a killed write
        left behind is not among them.
        """
        with self.explained(path):
            entries = self._files.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in entries if not info.base_name.startswith("."))

    def tree(self, path: str) -> list[tuple[str, int, float]]:
        """Every file under `path`, however deep: its path, its size in bytes and when it was last
        changed, in seconds. Links are left out, and so is what lies behind them.
        """
        if self.is_local:
            with self.explained(path):
                return sorted(self._local_files(path))
        with self.explained(path):
            entries = self._files.get_file_info(
                fs.FileSelector(path, allow_not_found=True, recursive=True)
            )
        files = (info for info in entries if info.type == fs.FileType.File)
        return sorted(
            (info.path, info.size, info.mtime.timestamp() if info.mtime else 0.0) for info in files
        )

    def _local_files(self, path: str) -> Iterator[tuple[str, int, float]]:
        top = self.local_path(path)
        if any(folder.is_symlink() for folder in (top, *top.parents[: len(Path(path).parts)])):
            return
        for entry in walk(top):
            if entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    yield os.path.relpath(entry.path, self.uri), about.st_size, about.st_mtime

    def set_aside(self, path: str) -> bool:
        """Move a damaged file out of the way, to be looked at, under a name that no reader asks
        for. Returns whether that was done: not in a store that may only be read.
        """
        content = self.read(path)
        if content is None:
            return False
        try:
            self.write(f"{path}{DAMAGED}{secrets.token_hex(4)}", content)
            self.delete(path)
        except StoreError as error:
            cause = error.__context__
            if not isinstance(cause, OSError) or cause.errno not in READ_ONLY:
                raise
            logger.warning(
                "store %s: %s or what belongs to it is damaged; running the study makes it anew, "
                "where the store can be written",
                self.shown,
                path,
            )
            return False
        return True

    @contextmanager
    def explained(self, path: str) -> Iterator[None]:
        """A context that raises what the file system has against `path` as a `StoreError` that says
        what to do.
        """
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(
                    f"store {self.shown}: no space left while writing {path}; free some space and "
                    "run the same command again"
                ) from None
            raise StoreError(
                f"store {self.shown}: {path} cannot be reached ({error}); run the same command "
                "again"
            ) from None
