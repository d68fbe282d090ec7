"""Optuna's storage in a file of the store, which survives a writer that was killed midway or found
the disk full.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

from distill_ray.errors import StoreError
from distill_ray.search._optuna_internals import (
    backend_of,
    entries_read,
    keep_last_offset,
    kept_trial,
    storage_of,
)
from distill_ray.store import Store


def journal(store: Store, path: str) -> JournalStorage:
    """The storage in file `path` of a local store.

    Raises `StoreError`, here and later, for what it cannot write and for a line that is damaged.
    """
    return _Storage(_Journal(store, path))


def together(history: optuna.Study) -> contextlib.AbstractContextManager[None]:
    """A block whose entries are written as one where `history` lies in a file: each by itself is a
    wait for the disk.
    """
    backend = backend_of(storage_of(history))
    return backend.together() if isinstance(backend, _Journal) else contextlib.nullcontext()


def share_distributions(
    history: optuna.Study, trial: optuna.Trial, spaces: list[dict[str, BaseDistribution]]
) -> None:
    """Let a trial that has ended have the distributions of an earlier one where `history` lies in a
    file.

    Optuna keeps all trials in memory, and reads the distributions of each of them anew. `spaces`
    collects those that differ.
    """
    storage = storage_of(history)
    if isinstance(storage, JournalStorage):
        kept = kept_trial(storage, trial)
        if kept.distributions not in spaces:
            spaces.append(kept.distributions)
        kept.distributions = spaces[spaces.index(kept.distributions)]


class _Storage(JournalStorage):
    """Optuna's storage, which says where its file is damaged."""

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except (StoreError, optuna.exceptions.OptunaError):
            raise
        except Exception as error:  # what an entry lacks, or has wrong, shows in many ways
            raise backend_of(self).damaged(entries_read(self), error) from None


class _Journal(JournalFileBackend):
    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path = store, path
        self._together: list[dict[str, Any]] | None = None
        file = store.local_path(path)
        with store.explained(path):
            file.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(str(file), _Lock(file))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The entries from that number on. Optuna's own notes where each begins, a kilobyte for a
        trial; here only the last.
        """
        entries = super().read_logs(log_number_from)
        for line in itertools.count(log_number_from + 1):
            try:
                with self._store.explained(self._path):
                    entry = next(entries)
                if "param_name" in entry:  # Optuna keeps the names with every trial
                    entry["param_name"] = sys.intern(entry["param_name"])
                if "user_attr" in entry:
                    entry["user_attr"] = {
                        sys.intern(name): value for name, value in entry["user_attr"].items()
                    }
            except StopIteration:
                break
            except (ValueError, TypeError, AttributeError) as error:
                raise self.damaged(line, error) from None
            yield entry
        self._check_rest(*keep_last_offset(self))

    def _check_rest(self, lines: int, end: int) -> None:
        """Raise `StoreError` when a whole line that is no JSON follows the `lines` that were read,
        which end at byte `end`.

        Optuna passes over one at the end, since it may be half written; whole ones end with a line
        break.
        """
        with open(self._file_path, "rb") as content:
            content.seek(end)
            line = content.readline()
        if line.endswith(b"\n"):
            try:
                json.loads(line)
            except ValueError as error:
                raise self.damaged(lines + 1, error) from None

    def damaged(self, line: int, error: Exception) -> StoreError:
        """The error about a line of the file, counted from 1."""
        file = self._store.local_path(self._path)
        return StoreError(
            f"{file}, line {line}: damaged ({type(error).__name__}: {error}); "
            "restore the file, or remove that line and lose what it says"
        )

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, after whole ones only; inside `together` when it ends."""
        if self._together is not None:
            self._together += logs
            return
        with self._store.explained(self._path):
            super().append_logs(logs)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write all entries of the block as one when it ends, however it does; until then Optuna
        does not see them.
        """
        self._together = []
        try:
            yield
        finally:
            entries, self._together = self._together, None
            if entries:
                self.append_logs(entries)


class _Lock(JournalFileSymlinkLock):
    """Optuna's lock, inside a lock of the system.

    Optuna's is a symbolic link, which a killed process leaves behind and for which the next one
    would wait half a minute. The system's goes with its process: whoever has it knows that a link
    of ours which is still there belongs to nobody. An entry that is cut short belongs to nobody
    either, and is taken away, since Optuna cannot read past it.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._file, self._link = file, Path(self._lock_file)
        self._held_file = file.with_name(f"{file.name}.held")
        self._lock_target_file = file.name  # others of Optuna's locks point to the whole path
        self._held: list[IO[bytes]] = []

    def acquire(self) -> bool:
        """Wait until the file is ours, and make it end with a whole entry."""
        held = self._held_file.open("ab")
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                if str(self._link.readlink()) == self._lock_target_file:
                    self._link.unlink()
            super().acquire()
        except BaseException:
            held.close()
            raise
        self._held.append(held)
        _drop_torn_entry(self._file)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        super().release()
        if self._held:
            self._held.pop().close()


def _drop_torn_entry(file: Path) -> None:
    with open(file, "rb+") as content:
        end = content.seek(0, os.SEEK_END)
        if end == 0:
            return
        content.seek(end - 1)
        if content.read(1) != b"\n":
            content.seek(0)
            content.truncate(content.read().rfind(b"\n") + 1)
