"""The search stage: Ray Tune runs the trials that Optuna suggests, and stops unpromising ones
early.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.trial import Trial, TrialState

from distill_ray.errors import RunError
from distill_ray.events import JobState, Observer, StudyJob
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.job_task import JobTask
from distill_ray.execution.messages import Record
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import trial_sharing
from distill_ray.execution.task_source import TaskSource
from distill_ray.execution.tasks import run_tasks
from distill_ray.job import Data
from distill_ray.resolve import trial_run
from distill_ray.search.costs import CostMeter, excess_text
from distill_ray.search.deadline import Deadline, StudyDeadline
from distill_ray.search.history import (
    GPUS,
    JOB_STATES,
    SECONDS,
    STUDY_TIME,
    best_trials,
    counted,
    is_over,
    time_left,
    time_spent,
    why_over,
)
from distill_ray.search.samplers import make_sampler
from distill_ray.search.scheduler import make_scheduler, rungs
from distill_ray.search.searcher import OptunaSearcher, queue_first, settle_abandoned
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

logger = logging.getLogger(__name__)


def run_search(
    study: StudyDefinition,
    data: Data,
    teachers: Sequence[str],
    history: optuna.Study,
    store: Store,
    cluster: Cluster,
    observer: Observer,
    beside: TaskSource | None = None,
    study_begun: float | None = None,
) -> None:
    """Run trials until the search is over, and tasks `beside` them in places that they leave free.
    The study has begun at `study_begun` by the monotonic clock, by default now.

    Raises `RunError` when no trial completed.
    """
    queue_first(history, study.search)
    settle_abandoned(history)
    search, wanted = study.search, study.resources
    resources = WorkerResources.of(study, trial_sharing(study))
    fits = max(1, cluster.capacity(wanted.workers_per_trial, resources))
    history.sampler = make_sampler(search, len(history.get_trials(deepcopy=False)))
    begun, spent = time.monotonic(), time_spent(history)
    deadline = Deadline(begun + time_left(history, search))
    if search.study_time_limit is not None:
        deadline = StudyDeadline(
            study,
            data,
            teachers,
            store,
            history,
            begun=(begun if study_begun is None else study_begun) - spent,
            time_limit=deadline.time_limit,
            places=fits,
        )

    def note_time() -> None:
        history.set_user_attr(SECONDS, spent + time.monotonic() - begun)

    meter = CostMeter(study, data, store)
    trials = _Trials(study, data, teachers, store, resources, observer, note_time, meter, deadline)
    searcher = OptunaSearcher(history, search, trials, deadline)
    try:
        run_tasks(
            cluster,
            searcher,
            resources,
            workers=wanted.workers_per_trial,
            scheduler=make_scheduler(study, history, searcher.number_of),
            max_concurrent=min(fits, search.max_concurrent or fits),
            deadline=deadline.at,
            beside=beside,
        )
        if not searcher.error:
            searcher.settle_stopped()
    finally:
        # A database that is away; the error of the search says so
        with contextlib.suppress(RunError):
            note_time()
    if searcher.error:
        raise searcher.error
    if search.study_time_limit is not None and not is_over(history, search):
        history.set_user_attr(STUDY_TIME, search.study_time_limit)  # nothing else has ended it
    if reason := why_over(history, search):
        logger.info("search: ends after %d trials, as %s", len(counted(history)), reason)
    if not best_trials(history, search):
        reasons = {
            trial.user_attrs.get("reason", "")
            for trial in counted(history)
            if trial.state == TrialState.FAIL
        }
        reason = "; ".join(sorted(reasons)) or "all were stopped"
        raise RunError(f"no trial of the search came to its end: {reason}")


class _Trials:
    """The trials as the rest of the study knows them: made when one is drawn, reported to the
    observer.
    """

    def __init__(
        self,
        study: StudyDefinition,
        data: Data,
        teachers: Sequence[str],
        store: Store,
        resources: WorkerResources,
        observer: Observer,
        note_time: Callable[[], None],
        meter: CostMeter,
        deadline: Deadline,
    ) -> None:
        self._study = study
        self._data = data
        self._teachers = teachers
        self._store = store
        self._resources = resources
        self._observer = observer
        self._note_time = note_time
        self._stops = rungs(study)
        self._meter = meter
        self._deadline = deadline
        self._runs: dict[int, StudyJob] = {}
        self._started: set[int] = set()

    def begin(self, trial: Trial) -> JobTask:
        """The task of a drawn trial."""
        run = self._run(trial)
        self._runs[trial.number] = run
        trial.set_user_attr("job_id", run.job.id)
        if self._study.search.budget is not None:
            trial.set_user_attr(GPUS, run.job.workers * self._study.resources.gpus_per_worker)
        return JobTask(run.name, run.job, self._store, self._resources, stops=self._stops)

    def costs(self, trial: Trial) -> Mapping[str, float]:
        """What a drawn trial costs."""
        return self._meter.of(trial.params)

    def reject(self, trial: Trial, costs: Mapping[str, float]) -> str:
        """A drawn trial costs more than the search allows; the reason in words."""
        run, reason = self._run(trial), excess_text(costs, self._study.search.limits)
        self._observer.started(run)
        self._observer.ended(run, JobState.INFEASIBLE, costs, reason)
        return reason

    def _run(self, trial: Trial) -> StudyJob:
        return trial_run(self._study, self._data, self._teachers, trial.number, trial.params)

    def start(self, number: int) -> None:
        """A process begins the trial, for the first time or again."""
        if number not in self._started:
            self._started.add(number)
            self._deadline.begin(number)
            self._observer.started(self._runs[number])

    def epochs(self, number: int, records: Sequence[Record]) -> None:
        """A trial has finished some epochs."""
        self._deadline.epochs(number, records)
        for record in records:
            self._observer.epoch(self._runs[number], record)

    def end(
        self, number: int, state: TrialState, reason: str, metrics: Mapping[str, float]
    ) -> None:
        """A trial has come to its end, one way or another."""
        self._note_time()  # now, since the driver may be killed
        self.start(number)  # for one that was still waiting for its process
        self._started.remove(number)
        run = self._runs.pop(number)
        self._deadline.end(number, run.job, complete=state == TrialState.COMPLETE)
        self._observer.ended(run, JOB_STATES[state], metrics, reason)
