"""Which jobs a study refers to, kept in the store, so that those no longer needed can be found."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable

from distill_ray.events import JobState, Metrics, Observer, StudyJob
from distill_ray.resolve import CONFIRM
from distill_ray.store import DAMAGED, Store
from distill_ray.study import StudyDefinition

_PREFIX = "jobs-"

LENGTH = 200
"""Jobs in one list. A study has as many lists as it needs, so that adding a job costs the same
however many there are.
"""


class References(Observer):
    """Records the jobs of a study, before they are trained, as an observer of its stages."""

    def __init__(self, study: StudyDefinition, store: Store) -> None:
        self._store = store
        self._folder = posixpath.join("studies", study.name)
        self._name = f"{_PREFIX}{study.digest}"
        lists = _lists(store, self._folder, self._name)
        self._known = set().union(*(_jobs(store, path) or set() for path in lists))
        self._lists = 1 + max(
            (_number(path) for path in lists + _damaged(store, self._folder, self._name)),
            default=-1,
        )
        self._new: list[str] = []
        self._written = 0

    def past(
        self,
        run: StudyJob,
        state: JobState,
        epochs: Callable[[], Iterable[Metrics]],
        metrics: Metrics,
        reason: str,
    ) -> None:
        self._add(run.job.id)

    def started(self, run: StudyJob) -> None:
        self._add(run.job.id)
        self._write()

    def stage_ended(self, stage: str) -> None:
        self._write()
        if stage == CONFIRM:  # every job has been named by now, those of damaged lists among them
            for path in _damaged(self._store, self._folder, self._name):
                self._store.delete(path)

    def _add(self, job_id: str) -> None:
        if job_id not in self._known:
            self._known.add(job_id)
            self._new.append(job_id)

    def _write(self) -> None:
        while len(self._new) > self._written:
            listed = self._new[:LENGTH]
            self._store.write(
                posixpath.join(self._folder, f"{self._name}-{self._lists}.json"),
                json.dumps(listed).encode(),
            )
            self._written = len(listed)
            if self._written == LENGTH:
                self._new, self._lists, self._written = self._new[LENGTH:], self._lists + 1, 0


def referenced(store: Store, name: str) -> set[str] | None:
    """The jobs that study `name` refers to, in any version of its file.

    None when the store does not say, or not any more: a list that was damaged is known again when
    the study has been run again.
    """
    folder = posixpath.join("studies", name)
    lists = [_jobs(store, path) for path in _lists(store, folder, _PREFIX)]
    readable = [jobs for jobs in lists if jobs is not None]
    return set().union(*readable) if readable and not _damaged(store, folder, _PREFIX) else None


def is_list(path: str) -> bool:
    """Whether a file of the store is such a list, or was one."""
    folder, _, name = path.rpartition("/")
    return posixpath.dirname(folder) == "studies" and name.startswith(_PREFIX)


def _lists(store: Store, folder: str, prefix: str) -> list[str]:
    return [
        posixpath.join(folder, name)
        for name in store.names(folder)
        if name.startswith(prefix) and name.endswith(".json")
    ]


def _damaged(store: Store, folder: str, prefix: str) -> list[str]:
    return [
        posixpath.join(folder, name)
        for name in store.names(folder)
        if name.startswith(prefix) and DAMAGED in name
    ]


def _number(path: str) -> int:
    return int(posixpath.basename(path).partition(".")[0].rpartition("-")[2])


def _jobs(store: Store, path: str) -> set[str] | None:
    try:
        return set(map(str, json.loads(store.read(path) or b"[]")))
    except (ValueError, TypeError):
        store.set_aside(path)
        return None
