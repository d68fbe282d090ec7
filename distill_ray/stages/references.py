"""Which jobs a study refers to, kept in the store, so that it is known what nobody needs any more."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable

from distill_ray.events import Measurement, Metrics, Run, State
from distill_ray.store import Store
from distill_ray.study import Study

_PREFIX = "jobs-"


class References:
    """Writes down the jobs of a study, before they are trained, as an observer of its stages."""

    def __init__(self, study: Study, store: Store) -> None:
        self._store = store
        self._path = posixpath.join("studies", study.name, f"{_PREFIX}{study.digest}.json")
        self._jobs = _jobs(store, self._path)
        self._written = set(self._jobs)

    def past(self, run: Run, state: State, epochs: Callable[[], Iterable[Metrics]], metrics: Metrics, reason: str) -> None:
        self._jobs.add(run.job.id)

    def started(self, run: Run) -> None:
        self._jobs.add(run.job.id)
        self._write()

    def stage_ended(self, stage: str) -> None:
        self._write()

    def _write(self) -> None:
        if self._jobs != self._written:
            self._store.write(self._path, json.dumps(sorted(self._jobs)).encode())
            self._written = set(self._jobs)

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
