"""A study's progress, read from its store and its search.

The walk over a study stands here alone: teachers, screenings, trials, confirmations, each known as
soon as what comes before it is complete. `run` advances it; `status`, `plan`, `sync`, `report` and
`export` read it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial

from distill_ray.augmentation import Augmentation
from distill_ray.events import JobState, Metrics, StudyJob
from distill_ray.job import Data
from distill_ray.records import JobRecord, find_job, last_epoch_path, log_path
from distill_ray.resolve import confirm_runs, data_of, learned_from, teacher_runs, trial_run
from distill_ray.search.history import (
    JOB_STATES,
    begun,
    best_recipes,
    best_trials,
    find_history,
    is_over,
    open_history,
)
from distill_ray.stages.locations import Locations
from distill_ray.stages.lock import is_running
from distill_ray.stages.screen import T_STDDEV, Screening, found_metrics, narrowed, screenings
from distill_ray.store import Store
from distill_ray.study import Study


@dataclass(frozen=True)
class JobStatus:
    """What has become of a job: why it ended, if it did otherwise than well, and the metrics of its
    last epoch while it runs.
    """

    run: StudyJob
    state: JobState
    reason: str = ""
    last_epoch: Metrics = field(default_factory=dict)


class StudyState:
    """A study with its data, its store and its search, and what has become of its jobs.

    Every property says how things stand at that moment. What is finished is read once and kept, as
    each look into a bucket is a round trip; what is not is looked up again.

    Attributes:
        data: The data set.
        store: Where its results are.
        search_storage: The address of Optuna's storage, None for the journal in the store.
        teachers: The jobs of the ensemble, in order.
        teacher_ids: Their ids.
        screenings: The measurements that the study asks for, in order.
    """

    def __init__(
        self,
        study: Study,
        data: Data,
        store: Store,
        search_storage: str | None = None,
        *,
        advancing: bool = False,
    ) -> None:
        """The state of `study`. Only with `advancing` its search is made when there is none."""
        self.data = data
        self.store = store
        self.search_storage = search_storage
        self.teachers = tuple(teacher_runs(study, data))
        self.teacher_ids = [run.job.id for run in self.teachers]
        self.screenings = tuple(screenings(study, data, learned_from(study, self.teacher_ids)))
        self._advancing = advancing
        self._study = study
        self._narrowed: Study | None = None
        self._history: optuna.Study | None = None
        self._records: dict[str, JobRecord] = {}
        self._screened: dict[Screening, dict[str, float]] = {}
        self._trial_runs: dict[int, StudyJob] = {}
        self._confirmations: tuple[StudyJob, ...] = ()

    @classmethod
    def at(cls, study: Study, locations: Locations) -> StudyState:
        """The state of a study to look at, in a store that is only read.

        Raises `RequestError` when its data or its store is not there.
        """
        data, store = data_of(study), Store.open(locations.store, make=False)
        return cls(study, data, store, locations.search_storage)

    @property
    def asked(self) -> Study:
        """The study as its file has it."""
        return self._study

    # --- Teachers ---

    def record(self, run: StudyJob) -> JobRecord | None:
        """What a finished job has left in the store, or None."""
        job_id = run.job.id
        if job_id not in self._records and (record := find_job(self.store, job_id)) is not None:
            self._records[job_id] = record
        return self._records.get(job_id)

    def finished(self, runs: Iterable[StudyJob]) -> list[JobRecord]:
        """The records of those of the jobs that are finished."""
        records = map(self.record, runs)
        return [record for record in records if record is not None]

    @property
    def is_taught(self) -> bool:
        """Whether all teachers are trained."""
        return all(self.record(run) is not None for run in self.teachers)

    # --- Screenings ---

    def screened(self, screening: Screening) -> Mapping[str, float] | None:
        """The result of a screening, or None."""
        if screening not in self._screened:
            metrics = found_metrics(self.store, screening)
            if metrics is not None:
                self._screened[screening] = metrics
        return self._screened.get(screening)

    @property
    def deviation(self) -> dict[Augmentation, float]:
        """T. stddev of the augmentations that have been screened."""
        results = {screening: self.screened(screening) for screening in self.screenings}
        return {
            screening.augmentation: metrics[T_STDDEV]
            for screening, metrics in results.items()
            if metrics is not None
        }

    @property
    def study(self) -> Study:
        """The study, with the search space that a complete screening leaves."""
        if self._narrowed is None and self.screenings and self.can_search:
            self._narrowed = narrowed(self._study, self.deviation)
        return self._narrowed or self._study

    # --- Search ---

    @property
    def can_search(self) -> bool:
        """Whether all that the search needs is there: the teachers, and the screenings."""
        return self.is_taught and all(
            self.screened(screening) is not None for screening in self.screenings
        )

    @property
    def history(self) -> optuna.Study | None:
        """The search in Optuna; None while teachers or screenings are missing, and, unless the
        study is being run, before its first trial.

        Raises `RequestError` when it cannot be reached.
        """
        if self._history is None and self.can_search:
            open_or_find = open_history if self._advancing else find_history
            self._history = open_or_find(
                self.study, self.data, self.teacher_ids, self.store, self.search_storage
            )
        return self._history

    @property
    def search_is_over(self) -> bool:
        """Whether the search has had its trials, its failures or its time."""
        return self.history is not None and is_over(self.history, self.study.search)

    @property
    def trials(self) -> list[tuple[StudyJob, FrozenTrial]]:
        """The trials that have begun, with what Optuna knows of them."""
        if self.history is None:
            return []
        return [(self._trial_run(trial), trial) for trial in begun(self.history)]

    @property
    def best_trial(self) -> tuple[StudyJob, float] | None:
        """The trial that leads, with its first objective."""
        leading = best_trials(self.history, self.study.search) if self.history else []
        return (self._trial_run(leading[0]), float(leading[0].values[0])) if leading else None

    def _trial_run(self, trial: FrozenTrial) -> StudyJob:
        if trial.number in self._trial_runs:
            return self._trial_runs[trial.number]
        run = trial_run(self.study, self.data, self.teacher_ids, trial.number, trial.params)
        if trial.state.is_finished():  # until then it may draw more
            self._trial_runs[trial.number] = run
        return run

    # --- Confirmations ---

    @property
    def confirmations(self) -> tuple[StudyJob, ...]:
        """The jobs that confirm the search's best, and the baselines; empty until it is over."""
        if not self._confirmations and self.history is not None and self.search_is_over:
            study = self.study
            recipes = best_recipes(study, self.history, study.confirm.top)
            self._confirmations = tuple(confirm_runs(study, self.data, self.teacher_ids, recipes))
        return self._confirmations

    def has_read_test(self, run: StudyJob) -> bool:
        """Whether a job is finished and its network has predicted the test split."""
        record = self.record(run)
        return record is not None and record.has_read_test

    @property
    def is_finished(self) -> bool:
        """Whether every stage has ended, and teachers and students have read the test split."""
        return self.search_is_over and all(
            self.has_read_test(run) for run in (*self.teachers, *self.confirmations)
        )

    # --- What runs ---

    @property
    def has_driver(self) -> bool:
        """Whether a process is running the study."""
        return is_running(self.store, self._study.name)

    def jobs(self) -> list[JobStatus]:
        """All jobs that are known so far, with what has become of each: trials only when they have
        begun, confirmations only when the search is over.
        """
        has_driver, logs = self.has_driver, set(self.store.names("logs"))

        def status(run: StudyJob) -> JobStatus:
            if self.record(run) is not None:
                return JobStatus(run, JobState.FINISHED)
            if posixpath.basename(log_path(run.job.id)) not in logs:
                return JobStatus(run, JobState.WAITING)
            return unfinished(run)

        def unfinished(run: StudyJob) -> JobStatus:
            if not has_driver:
                return JobStatus(run, JobState.INTERRUPTED)
            return JobStatus(run, JobState.RUNNING, last_epoch=self._last_epoch(run))

        jobs = [status(run) for run in self.teachers]
        for run, trial in self.trials:
            state = JOB_STATES[trial.state]
            if state.has_ended:
                jobs.append(JobStatus(run, state, trial.user_attrs.get("reason", "")))
            else:
                jobs.append(unfinished(run))
        return jobs + [status(run) for run in self.confirmations]

    def _last_epoch(self, run: StudyJob) -> Metrics:
        """The last metrics of a job that runs, as it keeps them beside its log."""
        try:
            record = json.loads(self.store.read(last_epoch_path(run.job.id)) or b"{}")
            return {str(name): float(value) for name, value in record.items()}
        except (ValueError, AttributeError, TypeError):  # overwritten at this moment
            return {}
