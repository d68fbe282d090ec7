"""Which jobs a study refers to, kept in the store, so that it is known what nobody needs any more."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable

from distill_ray.events import Measurement, Metrics, Run, State
from distill_ray.store import Store
from distill_ray.study import Study

_PREFIX = "jobs-"

LENGTH = 200
"""Jobs in one list. A study has as many lists as it needs, so that adding a job costs the same however many there are."""


class References:
    """Writes down the jobs of a study, before they are trained, as an observer of its stages."""

    def __init__(self, study: Study, store: Store) -> None:
        self._store = store
        self._folder = posixpath.join("studies", study.name)
        self._name = f"{_PREFIX}{study.digest}"
        lists = [each for each in store.names(self._folder) if each.startswith(self._name)]
        self._known = set().union(*(_jobs(store, posixpath.join(self._folder, each)) for each in lists))
        self._lists = len(lists)
        self._new: list[str] = []
        self._written = 0

    def past(self, run: Run, state: State, epochs: Callable[[], Iterable[Metrics]], metrics: Metrics, reason: str) -> None:
        self._add(run.job.id)

    def started(self, run: Run) -> None:
        self._add(run.job.id)
        self._write()

    def stage_ended(self, stage: str) -> None:
        self._write()

    def _add(self, job_id: str) -> None:
        if job_id not in self._known:
            self._known.add(job_id)
            self._new.append(job_id)

    def _write(self) -> None:
        while len(self._new) > self._written:
            listed = self._new[:LENGTH]
            self._store.write(posixpath.join(self._folder, f"{self._name}-{self._lists}.json"), json.dumps(listed).encode())
            self._written = len(listed)
            if self._written == LENGTH:
                self._new, self._lists, self._written = self._new[LENGTH:], self._lists + 1, 0

    def stage_started(self, stage: str, jobs: int) -> None:
        pass

    def epoch(self, run: Run, record: Metrics) -> None:
        pass

    def ended(self, run: Run, state: State, metrics: Metrics, reason: str) -> None:
        pass

    def measured(self, measurement: Measurement) -> None:
        pass


def referenced(store: Store, name: str) -> set[str] | None:
    """The jobs that study `name` refers to, in any version of its file; None when the store does not say."""
    folder = posixpath.join("studies", name)
    lists = [posixpath.join(folder, each) for each in store.names(folder) if each.startswith(_PREFIX)]
    return set().union(*(_jobs(store, path) for path in lists)) if lists else None


def _jobs(store: Store, path: str) -> set[str]:
    try:
        return set(map(str, json.loads(store.read(path) or b"[]")))
    except ValueError:
        store.set_aside(path)
        return set()
