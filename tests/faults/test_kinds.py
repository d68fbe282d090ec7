"""Each kind of fault in each kind of job: the same rule for all of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from distill_ray.errors import DamagedError, RunError, StoreError
from distill_ray.events import Answered, JobState, Measurement, Metrics, Observer, StudyJob
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.runner import run_jobs
from distill_ray.execution.sharing import LIVE
from distill_ray.resolve import confirm_runs, data_of, teacher_runs
from distill_ray.search.history import open_history
from distill_ray.search.search import run_search
from distill_ray.stages.answer import answer_tasks, answers_for_search, run_answers
from distill_ray.stages.screen import run_screenings, screenings
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

KINDS = ("teacher", "screening", "answers", "trial", "confirmation")


class Ends(Observer):
    """Remembers how jobs ended."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.finished = 0

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        if state == JobState.FAILED:
            self.failed.append(reason)
        self.finished += state == JobState.FINISHED

    def measured(self, measurement: Measurement) -> None:
        self.finished += 1

    def answered(self, answered: Answered) -> None:
        self.finished += 1


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        made.connect()
        yield made


@pytest.fixture
def run(
    tiny_study: Callable[..., StudyDefinition],
    finished_study: Any,
    tmp_path: Path,
    cluster: Cluster,
) -> Callable[..., tuple[Ends, list[Any]]]:
    """Runs a job of a kind on a store that meets an error on workers; returns trials' states."""

    def run_kind(
        kind: str, error: Exception | None, times: int, ends: Ends, retries: int = 1
    ) -> list[Any]:
        store = faulty(tmp_path, finished_study.store, error, times)
        study = tiny_study(
            f"resources.retries={retries}",
            "search.trials=1",
            "search.max_failed_trials=1",
            "search.scheduler=none",
            "search.warm_start=[]",
            "screen={epochs: 6}",
            "student.epochs=1",
            "student.versions=1",
            "teachers.lr=0.05" if kind == "teacher" else "student.lr=0.05",
        )
        data = data_of(study)
        teachers = [job.job.id for job in teacher_runs(study, data)]
        resources = WorkerResources.of(study, LIVE)
        if kind == "teacher":
            run_jobs(cluster, store, teacher_runs(study, data)[:1], resources, ends)
        elif kind == "confirmation":
            runs = confirm_runs(study, data, teachers, [study.student])[-1:]
            run_jobs(cluster, store, runs, resources, ends, read_test=True)
        elif kind == "screening":
            missing = screenings(study, data, teachers)[:1]
            run_screenings(cluster, store, missing, resources, ends, sharing=lambda screening: LIVE)
        elif kind == "answers":
            asked = answers_for_search(study, data, teachers)
            tasks = answer_tasks(asked, store, resources)[:1]
            run_answers(cluster, tasks, resources, ends)
        else:
            history = open_history(study, data, teachers, store, None)
            try:
                run_search(study, data, teachers, history, store, cluster, ends)
            finally:
                states.extend(trial.state for trial in history.trials)
        return states

    states: list[Any] = []
    run_kind.states = states  # type: ignore[attr-defined]
    return run_kind


def faulty(folder: Path, finished: Store, error: Exception | None, times: int) -> Store:
    """A copy of a finished store. Workers that look for a job in it get the error, `times` times.

    The class is made here, so that workers get it by value.
    """
    uri = str(shutil.copytree(finished.uri, folder / "store"))
    driver, counts = os.getpid(), folder / "counts"
    counts.mkdir()

    class Faulty(Store):
        def get(self, key: str) -> Any:
            import os

            if os.getpid() != driver and key.startswith("jobs/") and error is not None:
                count = len(list(counts.iterdir()))
                if count < times:
                    (counts / str(count)).touch()
                    raise error
            return super().get(key)

        def __reduce__(self) -> Any:
            return type(self), (self.uri,)

    return Faulty(uri)


ALWAYS = 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_the_machine_is_tried_again(kind: str, run: Any, tmp_path: Path) -> None:
    ends = Ends()
    run(kind, OSError(5, "Input/output error"), 1, ends)
    assert (ends.finished, ends.failed) == (1, [])
    assert len(list((tmp_path / "counts").iterdir())) == 1, "there was no fault"


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_stays_has_failed_with_the_reason(kind: str, run: Any) -> None:
    ends = Ends()
    with pytest.raises(RunError, match="Input/output error; tried 2 times"):
        run(kind, OSError(5, "Input/output error"), ALWAYS, ends)
    if kind not in ("screening", "answers"):
        assert len(ends.failed) == 1 and "Input/output error; tried 2 times" in ends.failed[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_job_does_wrong_itself_is_not_tried_again(kind: str, run: Any) -> None:
    ends = Ends()
    with pytest.raises(RunError, match="shapes differ"):
        run(kind, ValueError("shapes differ"), 1, ends)
    assert ends.finished == 0
    if kind not in ("screening", "answers"):
        assert ends.failed == ["shapes differ"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [StoreError("no space left"), DamagedError("it is gone")])
def test_a_fault_of_the_store_is_no_failure_of_a_job(kind: str, error: Exception, run: Any) -> None:
    ends = Ends()
    with pytest.raises(type(error), match=str(error)):
        run(kind, error, ALWAYS, ends)
    assert (ends.finished, ends.failed) == (0, [])
    assert TrialState.FAIL not in run.states
