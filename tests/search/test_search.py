"""A search in a real Ray cluster."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from distill_ray.errors import RunError
from distill_ray.events import JobState, Metrics, Observer, StudyJob
from distill_ray.execution import tune_run
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.messages import Task
from distill_ray.execution.task_source import TaskSource
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.search import deadline, search, searcher
from distill_ray.search.deadline import StudyDeadline
from distill_ray.search.history import is_over, open_history
from distill_ray.search.search import run_search
from distill_ray.search.searcher import OUT_OF_TIME
from distill_ray.store import Store
from distill_ray.study import StudyDefinition


class HurriedClock(Observer):
    """A monotonic clock that jumps an hour ahead once a trial has started, however long that took;
    remembers how trials ended.
    """

    def __init__(self) -> None:
        self.started_runs = 0
        self.ends: list[tuple[JobState, str]] = []

    def monotonic(self) -> float:
        return time.monotonic() + 3600 * bool(self.started_runs)

    def started(self, run: StudyJob) -> None:
        self.started_runs += 1

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        self.ends.append((state, reason))


class OneTask(TaskSource):
    """A task that never ends, and what is told of it."""

    def __init__(self) -> None:
        self.news: list[Any] = []

    def next_task(self, trial_id: str) -> Task | None:
        if self.news:
            return None
        self.news.append("handed out")

        class Endless(Task):
            name, epochs = "endless", 0

            def work(self) -> Any:
                import time

                yield from ()
                time.sleep(3600)

        return Endless()

    def on_start(self, trial_id: str) -> None: ...

    def on_epochs(self, trial_id: str, records: Any) -> None: ...

    def on_end(self, trial_id: str, end: Any) -> None:
        self.news.append(end)


def test_trials_that_the_time_limit_stops_have_failed(
    tiny_study: Callable[..., StudyDefinition],
    finished_study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray stops them without a word to the searcher; and what goes on beside them, which hears of
    it.
    """
    store = Store(str(shutil.copytree(finished_study.store.uri, tmp_path / "store")))
    study = tiny_study(
        "search.trials=50",
        "search.time_limit=1h",
        "search.max_concurrent=1",
        "search.scheduler=none",
        "student.epochs=100000",
    )
    data = data_of(study)
    teachers = [run.job.id for run in teacher_runs(study, data)]
    history, observer = open_history(study, data, teachers, store, None), HurriedClock()
    clock = SimpleNamespace(monotonic=observer.monotonic, sleep=time.sleep, time=time.time)
    for module in (tune_run, search, searcher, deadline):
        monkeypatch.setattr(module, "time", clock, raising=False)
    beside = OneTask()
    with Cluster() as cluster:
        cluster.connect()
        with pytest.raises(
            RunError, match=f"no trial of the search came to its end: {OUT_OF_TIME}"
        ):
            run_search(study, data, teachers, history, store, cluster, observer, beside)
    assert beside.news == ["handed out", None]
    assert {trial.state for trial in history.trials} == {TrialState.FAIL}
    assert {trial.user_attrs["reason"] for trial in history.trials} == {OUT_OF_TIME}
    assert is_over(history, study.search)
    assert observer.started_runs > 0
    assert observer.ends == [("failed", OUT_OF_TIME)] * observer.started_runs


def test_a_search_that_the_time_of_its_study_ends_is_over(
    tiny_study: Callable[..., StudyDefinition],
    finished_study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a trial that ended meanwhile has shown that there would have been time."""
    store = Store(str(shutil.copytree(finished_study.store.uri, tmp_path / "store")))
    study = tiny_study("search.trials=50", "search.study_time_limit=1h", "search.scheduler=none")
    data = data_of(study)
    teachers = [run.job.id for run in teacher_runs(study, data)]
    history = open_history(study, data, teachers, store, None)
    asked: list[float] = []

    def last_begin(self: StudyDeadline) -> float:
        asked.append(self.at())
        return -math.inf if len(asked) == 4 else math.inf

    monkeypatch.setattr(StudyDeadline, "last_begin", last_begin)
    with Cluster() as cluster:
        cluster.connect()
        run_search(study, data, teachers, history, store, cluster, HurriedClock())
    assert 0 < len(history.trials) < 50 and is_over(history, study.search)
    assert asked[0] == math.inf
