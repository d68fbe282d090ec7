"""What a store holds that no study needs: found first, removed on request."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage

from distill_ray.errors import RequestError
from distill_ray.events import JobState
from distill_ray.execution.teacher_cache import IN_USE, ROOT
from distill_ray.records import find_job, job_key
from distill_ray.search.history import job_state, journal_path
from distill_ray.search.journal import journal
from distill_ray.search.storage import open_database
from distill_ray.stages.lock import is_running
from distill_ray.stages.references import is_list, referenced
from distill_ray.store import DAMAGED, FOLDERS, MANIFEST, Store

CHECKPOINTS = "checkpoints of finished jobs"
PRUNED = "checkpoints of pruned trials"
TEACHER_LOGITS = "teacher logits, computed again when needed"
SET_ASIDE = "damaged files that were set aside"
LEFT = "leftovers of killed writes"
UNREFERENCED = "jobs that no study refers to"

JUST_WRITTEN = 3600.0
"""Seconds during which what looks like a leftover may still be being written."""


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can go: how large it is, and why."""

    path: str
    bytes: int
    why: str


def garbage(
    store: Store,
    *,
    study: str | None = None,
    search_storage: str | None = None,
    unreferenced: bool = False,
) -> list[Garbage]:
    """What can be removed without a running or finished study missing it.

    Checkpoints of unfinished jobs stay, and so do all teacher logits while a study is being run or
    within an hour of their use. Links stay too, and what they lead to.

    Args:
        store: Must have been opened, so that it is known to be one.
        study: Only garbage of this study's jobs.
        search_storage: Optuna's storage, where the search has a database.
        unreferenced: Also jobs that no study of the store refers to.

    Raises:
        RequestError: one of the store's own folders is a link, the search storage cannot be used,
            or it cannot be known which jobs are referred to.
    """
    for name in FOLDERS:
        if _is_link(store, name):
            raise RequestError(
                f"store {store.shown}: {name} is a link, and gc does not remove what lies behind "
                "one; put the folder itself there"
            )
    names = store.names("studies")
    running = [name for name in names if is_running(store, name)]
    references = {name: referenced(store, name) for name in names}
    own = None if study is None else references.get(study) or set()
    files = store.tree("")
    now = time.time()  # what a clock since set back has written in the future stays
    sizes = _Sizes(files)
    garbage = [
        *_checkpoints(store, names, running, references, search_storage, sizes),
        *(_teacher_logits(store, own, sizes, now) if not running else ()),
        *_strays(store, files, now, writing=bool(running)),
    ]
    if own is not None:
        garbage = [
            leftover
            for leftover in garbage
            if leftover.why == TEACHER_LOGITS or set(leftover.path.split("/")) & own
        ]
    if unreferenced:
        garbage += _unreferenced(store, running, references, sizes)
    return _outermost([leftover for leftover in garbage if not _is_link(store, leftover.path)])


def _is_link(store: Store, path: str) -> bool:
    return store.is_local and store.local_path(path).is_symlink()


def remove(store: Store, garbage: Iterable[Garbage]) -> None:
    """Remove garbage. The manifest of a record goes first, so that none is ever without its
    files.
    """
    for item in garbage:
        if not _is_link(store, item.path):
            store.delete(posixpath.join(item.path, MANIFEST))
        store.delete(item.path)


class _Sizes:
    def __init__(self, files: list[tuple[str, int, float]]) -> None:
        self._files = files

    def of(self, path: str) -> int:
        return sum(
            size for name, size, _ in self._files if name == path or name.startswith(f"{path}/")
        )

    def last_change(self, path: str) -> float:
        return max(
            (changed for name, _, changed in self._files if name.startswith(f"{path}/")),
            default=0.0,
        )


def _checkpoints(
    store: Store,
    names: list[str],
    running: list[str],
    references: dict[str, set[str] | None],
    search_storage: str | None,
    sizes: _Sizes,
) -> Iterator[Garbage]:
    work = store.names("work")
    states = _trial_states(store, names, search_storage) if work else {}
    busy = set().union(*(references[name] or set() for name in running))
    for job in work:
        path = posixpath.join("work", job)
        if find_job(store, job) is not None:
            yield Garbage(path, sizes.of(path), CHECKPOINTS)
        elif states.get(job) == {JobState.PRUNED} and job not in busy:
            yield Garbage(path, sizes.of(path), PRUNED)


def _trial_states(
    store: Store, names: list[str], search_storage: str | None
) -> dict[str, set[JobState]]:
    """How the trials of every job stand, in all searches that can be read."""
    storages: list[BaseStorage] = [open_database(search_storage)] if search_storage else []
    for name in names if store.is_local else ():
        if store.local_path(journal_path(name)).exists():
            storages.append(journal(store, journal_path(name)))
    states: dict[str, set[JobState]] = {}
    for storage in storages:
        for name in optuna.get_all_study_names(storage):
            for trial in optuna.load_study(study_name=name, storage=storage).get_trials(
                deepcopy=False
            ):
                states.setdefault(trial.user_attrs.get("job_id", ""), set()).add(job_state(trial))
    return states


def _teacher_logits(
    store: Store, own: set[str] | None, sizes: _Sizes, now: float
) -> Iterator[Garbage]:
    for key in store.names(ROOT):
        path = posixpath.join(ROOT, key)
        if now - sizes.last_change(path) < IN_USE:
            continue
        manifests = (
            store.read(name) or b""
            for name, _, _ in store.tree(path)
            if posixpath.basename(name) == MANIFEST
        )
        if own is None or any(job.encode() in manifest for manifest in manifests for job in own):
            yield Garbage(path, sizes.of(path), TEACHER_LOGITS)


def _strays(
    store: Store, files: list[tuple[str, int, float]], now: float, *, writing: bool
) -> Iterator[Garbage]:
    """Files that no reader asks for: set aside, half written, or of an attempt that was not the one
    that counted.
    """
    named: set[str] = set()
    records = {
        posixpath.dirname(path)
        for path, _, _ in files
        if path.startswith("jobs/") and path.endswith(f"/{MANIFEST}")
    }
    for key in records:
        if (record := store.get(key)) is not None:
            named |= {str(entry["path"]) for entry in record.files.values()}
    for path, size, changed in files:
        folder, name = path.split("/")[0], posixpath.basename(path)
        partial = (name.startswith(".") and folder in FOLDERS) or path.startswith(
            ("probe-", ".mlflow.db.")
        )
        unnamed = folder == "jobs" and name != MANIFEST and path not in named and not writing
        if folder in FOLDERS and DAMAGED in name:
            # A list's being there says that not all of its study's jobs are known
            if not is_list(path):
                yield Garbage(path, size, SET_ASIDE)
        elif now - changed > JUST_WRITTEN and (partial or unnamed):
            yield Garbage(path, size, LEFT)


def _unreferenced(
    store: Store, running: list[str], references: dict[str, set[str] | None], sizes: _Sizes
) -> Iterator[Garbage]:
    if running:
        raise RequestError(
            f"study {running[0]} is being run; which jobs no study refers to is known when it has "
            "ended"
        )
    if silent := [name for name, jobs in references.items() if jobs is None]:
        raise RequestError(
            f"studies/{silent[0]} in store {store.shown} does not say which jobs are its own; run "
            "that study again, or remove the folder if it is no longer needed"
        )
    kept: set[str] = set()
    new = set().union(*(jobs or set() for jobs in references.values()))
    while new:  # teachers of jobs that are kept are kept
        kept |= new
        new = {
            teacher
            for job in new
            if (record := find_job(store, job))
            for teacher in record.job.teachers
        } - kept
    for folder in ("jobs", "work"):
        for job in store.names(folder):
            if job not in kept:
                path = posixpath.join(folder, job) if folder == "work" else job_key(job)
                yield Garbage(path, sizes.of(path), UNREFERENCED)
    for name in store.names("logs"):
        if posixpath.splitext(name)[0] not in kept:
            path = posixpath.join("logs", name)
            yield Garbage(path, sizes.of(path), UNREFERENCED)


def _outermost(garbage: list[Garbage]) -> list[Garbage]:
    """Each thing once: not what lies in a folder that goes as a whole."""
    by_path = {item.path: item for item in sorted(garbage, key=lambda item: item.path)}
    return [
        leftover
        for path, leftover in by_path.items()
        if not any(path[:end] in by_path for end in range(len(path)) if path[end] == "/")
    ]
