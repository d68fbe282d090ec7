"""The walk over the stages, on a study that has nothing left to train: without Ray."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill_ray.events import JobState, Metrics, Observer, StudyJob
from distill_ray.execution.cluster import Cluster
from distill_ray.resolve import data_of
from distill_ray.stages.contenders import teacher_contenders
from distill_ray.stages.pipeline import RunContext, run_stages
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import load_study


class Recorder(Observer):
    """What it is told, by stage."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.ends: list[tuple[str, str, int, JobState]] = []

    def stage_started(self, stage: str, jobs: int) -> None:
        self.stages.append(stage)

    def past(
        self, run: StudyJob, state: JobState, epochs: Any, metrics: Metrics, reason: str
    ) -> None:
        self.ends.append((self.stages[-1], run.role, run.number, state))


@pytest.fixture
def store(finished_study: Any, tmp_path: Path) -> Store:
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each manifest was read."""
    counts: Counter[str] = Counter()
    get = Store.get

    def counting(self: Store, key: str) -> Any:
        counts[key] += 1
        return get(self, key)

    monkeypatch.setattr(Store, "get", counting)
    return counts


def test_a_finished_study_is_told_of_and_read_once(
    finished_study: Any, store: Store, reads: Counter[str]
) -> None:
    study, recorder = load_study(finished_study.file), Recorder()
    state = StudyState(study, data_of(study), store, advancing=True)
    with Cluster() as cluster:
        run_stages(RunContext(state, cluster, recorder))
    assert recorder.stages == ["teach", "search", "confirm"]
    done = JobState.FINISHED
    assert recorder.ends[:2] == [("teach", "teacher", 0, done), ("teach", "teacher", 1, done)]
    assert [end[2:] for end in recorder.ends[2:6]] == [
        (0, done),
        (1, done),
        (2, JobState.FAILED),
        (3, done),
    ]
    assert [end[:2] for end in recorder.ends[6:]] == [("confirm", "scratch")] * 2 + [
        ("confirm", "best")
    ] * 2
    finished = {key: count for key, count in reads.items() if store.read(f"{key}/manifest.json")}
    assert max(finished.values()) == 1 and len(finished) >= 9
    state.jobs()
    assert state.is_finished
    assert {key: reads[key] for key in finished} == finished


def test_confirmations_that_take_longest_begin_first(
    finished_study: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student has its teachers' answers to compute, a baseline from scratch only itself."""
    study, begun = load_study(finished_study.file), []
    state = StudyState(study, data_of(study), store, advancing=True)
    assert [run.role for run in state.confirmations] == ["scratch", "scratch", "best", "best"]
    for run in state.confirmations:
        shutil.rmtree(store.local_path(f"jobs/{run.job.id}"))

    def run_jobs(cluster: Any, store: Any, runs: list[StudyJob], *_: Any, **__: Any) -> None:
        begun.extend(run.role for run in runs)

    monkeypatch.setattr("distill_ray.execution.runner.run_jobs", run_jobs)
    monkeypatch.setattr(RunContext, "connect", lambda context: None)
    state = StudyState(study, data_of(study), store, advancing=True)
    run_stages(RunContext(state, Cluster(), Recorder()))
    assert begun == ["best", "best", "scratch", "scratch"]


def test_looking_makes_no_search(finished_study: Any, store: Store) -> None:
    """One with other objectives would be a new one in Optuna's storage."""
    study = load_study(finished_study.file, ["search.objectives={val/accuracy: max}"])
    path = store.local_path("studies/tiny/search.journal")
    before = path.read_bytes()
    looking = StudyState(study, data_of(study), store)
    assert looking.can_search and looking.history is None and not looking.search_is_over
    assert (looking.trials, looking.best_trial, looking.confirmations) == ([], None, ())
    assert path.read_bytes() == before
    path.unlink()
    assert StudyState(study, data_of(study), store).history is None and not path.exists()
    assert StudyState(study, data_of(study), store, advancing=True).history is not None


def test_a_state_follows_what_happens(finished_study: Any, store: Store) -> None:
    """The same object sees what is finished later; what was finished stays as it was read."""
    study = load_study(finished_study.file)
    teacher = StudyState(study, data_of(study), store).teacher_ids[1]
    manifest = store.local_path(f"jobs/{teacher}/manifest.json")
    away = manifest.rename(manifest.with_name("away"))
    state = StudyState(study, data_of(study), store)
    assert not state.is_taught and state.history is None and state.confirmations == ()
    assert [job.state for job in state.jobs()] == [JobState.FINISHED, JobState.INTERRUPTED]
    away.rename(manifest)
    assert state.is_taught and state.search_is_over and state.is_finished
    assert len(state.jobs()) == 10


def test_an_ensemble_of_one_is_no_job(finished_study: Any, store: Store) -> None:
    """In MLflow its metrics went to a run that no job has, nameless and never ended."""
    study = load_study(finished_study.file, ["teachers.members=1"])
    state = StudyState(study, data_of(study), store)
    ensemble, single = teacher_contenders(study, state.teachers, state.finished(state.teachers))
    assert (ensemble.members, ensemble.averaged, ensemble.job_ids) == (1, True, single.job_ids)
    assert (single.members, single.averaged) == (1, False)
