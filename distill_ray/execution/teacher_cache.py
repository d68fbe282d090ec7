"""Cached teacher logits in the store: who computes them, who waits, what is evicted when space runs
out.

    teacher_logits/<key>/<epoch>/manifest.json    written last: without it the epoch has none yet
    teacher_logits/<key>/<epoch>.lease            held by the process that computes them
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import nn

from distill_ray.data.cache import cache_root
from distill_ray.errors import RunError, StoreError
from distill_ray.execution.lease import Lease
from distill_ray.methods.method import Teachers
from distill_ray.store import MANIFEST, Store
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    StoredTeachers,
    TeacherLogits,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    from_arrow,
    to_arrow,
)

logger = logging.getLogger(__name__)

ROOT = "teacher_logits"
FILE = "logits.arrow"

AHEAD = 4
"""Epochs after its own that a run computes while it waits for somebody else to compute its own."""

POLL = 0.2
"""Seconds between two looks at what somebody else computes."""

IN_USE = 3600.0
"""Seconds since their last use during which teacher logits are not evicted: a study may be running
on them.
"""

RESERVE = 2**30
"""Bytes of a local disk that teacher logits leave free, or a tenth of a small disk, for results and
checkpoints.
"""


class TeacherCache:
    """The teacher logits of one key, computed by whoever needs an epoch first and read by all
    others.

    While somebody else computes an epoch, later ones are computed, so that parallel runs divide the
    work. When teacher logits cannot be kept, because the disk or the `limit` is full, that is
    logged once; from then on `of_epoch` returns None for epochs that are not there, and live
    teachers are needed.
    """

    def __init__(
        self,
        store: Store,
        key: TeacherLogitsKey,
        dataset: Dataset,
        teachers: Callable[[], LiveTeachers],
        *,
        worker: Worker,
        epochs: int,
        limit: float,
    ) -> None:
        self._store = store
        self._key = key
        self._dataset = dataset
        self._teachers = teachers
        self._worker = worker
        self._epochs = epochs
        self._limit = limit
        self._folder = posixpath.join(ROOT, key.id)
        self._leases: dict[int, Lease] = {}
        self._full = False

    def of_epoch(self, epoch: int) -> TeacherLogits | None:
        """The teacher logits of the 1-based `epoch`, or None where they are not there and cannot be
        kept.
        """
        while True:
            if (found := self.opened(epoch)) is not None or self._full:
                return found
            with self._lease(epoch).held() as mine:
                if mine:
                    return self.opened(epoch) or self._make(epoch)
            if not self._work_ahead(epoch):
                time.sleep(POLL)

    def _work_ahead(self, epoch: int) -> bool:
        """Compute the teacher logits of one later epoch that nobody has or makes; whether there was
        one.
        """
        for later in range(epoch + 1, min(epoch + AHEAD, self._epochs) + 1):
            if self._full:
                return False
            if self._store.get(self._path(later)) is None:
                with self._lease(later).held() as mine:
                    if mine and self._store.get(self._path(later)) is None:
                        self._make(later)
                        return True
        return False

    def opened(self, epoch: int) -> TeacherLogits | None:
        """The teacher logits of `epoch` if present and intact; damaged ones are set aside."""
        record = self._store.get(self._path(epoch))
        if record is None:
            return None
        try:
            teacher_logits = from_arrow(record.map(FILE), self._key.identity(epoch))
            if not teacher_logits.fit(
                len(self._key.teachers), len(self._dataset.train), self._dataset.num_classes
            ):
                raise ValueError(
                    f"they have the shapes {[part.shape for part in teacher_logits.logits]}"
                )
        except (ValueError, RunError) as error:
            self._store.set_aside(posixpath.join(self._path(epoch), MANIFEST))
            logger.warning(
                "teacher logits of epoch %d were set aside and are computed anew: %s", epoch, error
            )
            return None
        if self._store.is_local:
            with contextlib.suppress(OSError):
                os.utime(self._store.local_path(posixpath.join(self._path(epoch), MANIFEST)))
        else:
            _trim(cache_root() / ROOT, self._limit)
        return teacher_logits

    def _make(self, epoch: int) -> TeacherLogits:
        started = time.perf_counter()
        identity = self._key.identity(epoch)
        teacher_logits = compute_teacher_logits(
            self._key, epoch, self._teachers(), self._dataset, self._worker.device
        )
        content = to_arrow(teacher_logits, identity)
        info = {
            "identity": identity,
            "error": teacher_logits.error,
            "seconds": time.perf_counter() - started,
        }
        if self._store.get(self._path(epoch)) is not None:
            return teacher_logits  # another node, which has leases of its own, was faster
        try:
            if make_room(self._store, self._folder, len(content), self._limit):
                self._store.delete(self._path(epoch))  # what a process that died here left behind
                self._store.put(self._path(epoch), {FILE: content}, info)
            else:
                self._give_up(f"there is no room for {len(content) / 1e6:.0f} MB")
        except StoreError as error:
            with contextlib.suppress(StoreError):
                self._store.delete(self._path(epoch))
            self._give_up(str(error))
        return teacher_logits

    def _give_up(self, reason: str) -> None:
        self._full = True
        logger.warning("teachers answer live where their teacher logits are not stored: %s", reason)

    def _lease(self, epoch: int) -> Lease:
        if epoch not in self._leases:
            name = f"{self._path(epoch)}.lease"
            self._leases[epoch] = Lease(
                self._store.local_path(name) if self._store.is_local else cache_root() / name
            )
        return self._leases[epoch]

    def _path(self, epoch: int) -> str:
        return posixpath.join(self._folder, f"{epoch:05d}")


class CachedTeachers:
    """The teachers of a training run: from stored teacher logits where there are any, else live.

    While an epoch runs, the teacher logits of the next one are opened and checked beside it if they
    are there.
    """

    def __init__(
        self, teacher_logits: TeacherCache, teachers: Callable[[], LiveTeachers], worker: Worker
    ) -> None:
        self._teacher_logits = teacher_logits
        self._teachers = teachers
        self._worker = worker
        self._beside = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[TeacherLogits | None]] | None = None

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The teachers themselves, loaded when asked for."""
        return self._teachers().networks

    def of_epoch(self, epoch: int) -> Teachers:
        """Who answers in that epoch."""
        opened = (
            self._next[1].result() if self._next is not None and self._next[0] == epoch else None
        )
        teacher_logits = opened or self._teacher_logits.of_epoch(epoch)
        self._next = (epoch + 1, self._beside.submit(self._teacher_logits.opened, epoch + 1))
        return (
            self._teachers()
            if teacher_logits is None
            else StoredTeachers(teacher_logits, self._worker.device)
        )


def make_room(store: Store, own: str, size: int, limit: float) -> bool:
    """Evict teacher logits until `size` more bytes fit below `limit` and onto a local disk; whether
    they do.

    The least recently used go first, a whole key at a time; those of the folder `own` stay, and
    those in use within the last hour. On a store that is not local the last use is taken to be the
    last change.
    """
    sizes: dict[str, int] = {}
    used: dict[str, float] = {}
    for path, length, changed in store.tree(ROOT):
        folder = posixpath.join(ROOT, path.split("/")[1])
        sizes[folder] = sizes.get(folder, 0) + length
        used[folder] = max(used.get(folder, 0.0), changed)
    missing = sum(sizes.values()) + size - limit
    if store.is_local:
        disk = shutil.disk_usage(store.uri)
        missing = max(missing, size + min(RESERVE, disk.total // 10) - disk.free)
    now = time.time()
    for folder in sorted(used, key=lambda folder: used[folder]):
        # The clock may have been set back since
        if missing > 0 and folder != own and abs(now - used[folder]) > IN_USE:
            store.delete(folder)
            missing -= sizes[folder]
    return missing <= 0


def _trim(folder: Path, limit: float) -> None:
    """Remove copies of remote teacher logits, those first that were opened longest ago, until the
    rest is below `limit`.
    """
    with contextlib.suppress(OSError):
        # And not the folders of leases
        files = [file for file in folder.iterdir() if file.is_file()]
        total = 0
        for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
            total += file.stat().st_size
            if total > limit:
                file.unlink()
