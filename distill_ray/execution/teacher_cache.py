"""Cached teacher logits in the store: who computes them, who waits, what is evicted when space runs
out.

    teacher_logits/<key>/<epoch>/manifest.json    written last: without it the epoch has none yet
    teacher_logits/<key>/<epoch>.lease            held by the process that computes them

With versions it is `<key>/<version>/<shard>` in place of `<key>/<epoch>`.
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

from distill_ray.errors import RunError, StoreError
from distill_ray.execution.lease import Lease
from distill_ray.methods.method import Teachers
from distill_ray.node_cache import cache_root
from distill_ray.store import MANIFEST, Store
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    ShardedTeachers,
    StoredTeachers,
    TeacherLogits,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    from_arrow,
    shows_the_same,
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
    """The teacher logits of one key, computed by whoever needs a piece first and read by all
    others. A piece is an epoch, or a shard of a version; `epochs` says how many epochs or versions
    there are.

    While somebody else computes a piece, later ones are computed, so that parallel runs divide the
    work. When teacher logits cannot be kept, because the disk or the `limit` is full, that is
    logged once; from then on `of_epoch` returns None for pieces that are not there, and live
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
        self._shards = key.shards(len(dataset.train))
        self._leases: dict[tuple[int, int], Lease] = {}
        self._probed: set[tuple[int, int]] = set()
        self._full = False

    def shards_of(self, number: int) -> list[TeacherLogits] | None:
        """The teacher logits of an epoch or a version, shard by shard; None where some are not
        there and cannot be kept.
        """
        shards = []
        for shard in range(len(self._shards)):
            if (teacher_logits := self.of_epoch(number, shard)) is None:
                return None
            shards.append(teacher_logits)
        return shards

    def opened_shards_of(self, number: int) -> list[TeacherLogits] | None:
        """The same, if all are there and intact."""
        shards = []
        for shard in range(len(self._shards)):
            if (teacher_logits := self.opened(number, shard)) is None:
                return None
            shards.append(teacher_logits)
        return shards

    def of_epoch(self, number: int, shard: int = 0) -> TeacherLogits | None:
        """The teacher logits of the 1-based epoch or version, or None where they are not there and
        cannot be kept.
        """
        while True:
            teacher_logits = self.opened(number, shard)
            if teacher_logits is not None or self._full:
                return teacher_logits
            with self._lease(number, shard).held() as mine:
                if mine:
                    return self.opened(number, shard) or self._make(number, shard)
            if not self._work_ahead(number, shard):
                time.sleep(POLL)

    @property
    def is_full(self) -> bool:
        """Whether there was no room for what was computed."""
        return self._full

    def is_there(self, number: int, shard: int = 0) -> bool:
        """Whether the store has them, intact or not."""
        return self._store.get(self._path(number, shard)) is not None

    def _work_ahead(self, number: int, shard: int) -> bool:
        """Compute the teacher logits of one later piece that nobody has or makes; whether there was
        one.
        """
        later = [(number, other) for other in range(shard + 1, len(self._shards))]
        for other in range(number + 1, min(number + AHEAD, self._epochs) + 1):
            later += [(other, index) for index in range(len(self._shards))]
        for piece in later:
            if self._full:
                return False
            if not self.is_there(*piece):
                with self._lease(*piece).held() as mine:
                    if mine and not self.is_there(*piece):
                        self._make(*piece)
                        return True
        return False

    def opened(self, number: int, shard: int = 0) -> TeacherLogits | None:
        """The teacher logits of a piece if present and intact; damaged ones are set aside."""
        path = self._path(number, shard)
        record = self._store.get(path)
        if record is None:
            return None
        try:
            teacher_logits = from_arrow(record.map(FILE), self._key.identity(number, shard))
            first, last = self._shards[shard]
            if not teacher_logits.fit(
                len(self._key.teachers), last - first, self._dataset.num_classes
            ):
                raise ValueError(
                    f"they have the shapes {[part.shape for part in teacher_logits.logits]}"
                )
            self._check_probe(teacher_logits, number, shard)
        except (ValueError, RunError) as error:
            self._store.set_aside(posixpath.join(path, MANIFEST))
            piece = (
                f"version {number}, shard {shard}," if self._key.versioned else f"epoch {number}"
            )
            logger.warning(
                "teacher logits of %s were set aside and are computed anew: %s", piece, error
            )
            return None
        if self._store.is_local:
            with contextlib.suppress(OSError):
                os.utime(self._store.local_path(posixpath.join(path, MANIFEST)))
        else:
            _trim(cache_root() / ROOT, self._limit)
        return teacher_logits

    def _check_probe(self, teacher_logits: TeacherLogits, number: int, shard: int) -> None:
        """Raise `ValueError`, once in this process, where the images of a piece are others now."""
        probe = teacher_logits.probe
        if probe is None or (number, shard) in self._probed:
            return
        if not shows_the_same(self._key, number, shard, probe, self._dataset):
            raise ValueError(
                f"augmentation {self._key.augmentation.name} made other images then than now; its "
                "code has changed"
            )
        self._probed.add((number, shard))

    def _make(self, number: int, shard: int = 0) -> TeacherLogits:
        started = time.perf_counter()
        teacher_logits = compute_teacher_logits(
            self._key,
            number,
            self._teachers(),
            self._dataset,
            self._worker.device,
            shard if self._key.versioned else None,
        )
        self.keep(number, shard, teacher_logits, time.perf_counter() - started)
        return teacher_logits

    def keep(self, number: int, shard: int, teacher_logits: TeacherLogits, seconds: float) -> None:
        """Put the teacher logits of a piece into the store, unless it has them or has no room."""
        if lacking := self.put(number, shard, teacher_logits, seconds):
            self._give_up(lacking)

    def put(self, number: int, shard: int, teacher_logits: TeacherLogits, seconds: float) -> str:
        """Put the teacher logits of a piece into the store, unless it has them; why there is no
        room for them, or nothing.
        """
        identity, path = self._key.identity(number, shard), self._path(number, shard)
        content = to_arrow(teacher_logits, identity)
        info = {"identity": identity, "error": teacher_logits.error, "seconds": seconds}
        if self._store.get(path) is not None:
            return ""  # another node, which has leases of its own, was faster
        try:
            if not make_room(self._store, self._folder, len(content), self._limit):
                return f"there is no room for {len(content) / 1e6:.3g} MB"
            self._store.delete(path)  # what a process that died here left behind
            self._store.put(path, {FILE: content}, info)
        except StoreError as error:
            with contextlib.suppress(StoreError):
                self._store.delete(path)
            return str(error)
        return ""

    def _give_up(self, reason: str) -> None:
        self._full = True
        logger.warning("teachers answer live where their teacher logits are not stored: %s", reason)

    def _lease(self, number: int, shard: int = 0) -> Lease:
        if (number, shard) not in self._leases:
            name = f"{self._path(number, shard)}.lease"
            self._leases[number, shard] = Lease(
                self._store.local_path(name) if self._store.is_local else cache_root() / name
            )
        return self._leases[number, shard]

    def _path(self, number: int, shard: int = 0) -> str:
        folder = posixpath.join(self._folder, f"{number:05d}")
        return posixpath.join(folder, f"{shard:05d}") if self._key.versioned else folder


class CachedTeachers:
    """The teachers of a training run: from stored teacher logits where there are any, else live.

    `number_of` says which version an epoch shows, or that it is its own number. While an epoch
    runs, the teacher logits of the next one are opened and checked beside it if they are there.
    """

    def __init__(
        self,
        teacher_logits: TeacherCache,
        teachers: Callable[[], LiveTeachers],
        worker: Worker,
        number_of: Callable[[int], int] = lambda epoch: epoch,
    ) -> None:
        self._teacher_logits = teacher_logits
        self._teachers = teachers
        self._worker = worker
        self._number_of = number_of
        self._beside = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[list[TeacherLogits] | None]] | None = None

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The teachers themselves, loaded when asked for."""
        return self._teachers().networks

    def of_epoch(self, epoch: int) -> Teachers:
        """Who answers in that epoch."""
        opened = (
            self._next[1].result() if self._next is not None and self._next[0] == epoch else None
        )
        shards = opened or self._teacher_logits.shards_of(self._number_of(epoch))
        coming = self._number_of(epoch + 1)
        self._next = (
            epoch + 1,
            self._beside.submit(self._teacher_logits.opened_shards_of, coming),
        )
        if shards is None:
            return self._teachers()
        if len(shards) == 1:
            return StoredTeachers(shards[0], self._worker.device)
        return ShardedTeachers(shards, self._worker.device)


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
