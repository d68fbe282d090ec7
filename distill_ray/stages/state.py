"""A study's progress, read from its store and its search.

The walk over a study stands here alone: teachers, screenings, trials, confirmations, each known as
soon as what comes before it is complete. `run` advances it; `status`, `plan`, `sync`, `report` and
`export` read it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import optuna
from optuna.trial import FrozenTrial

from distill_ray.augmentation import Augmentation
from distill_ray.data import image_shape
from distill_ray.data.foreign import TEST
from distill_ray.events import JobState, Metrics, StudyJob
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import LIVE, confirm_sharing
from distill_ray.job import Data, Job
from distill_ray.metrics.augmentation import Deviation
from distill_ray.records import TEACHER_IMAGES, JobRecord, find_job, last_epoch, log_path
from distill_ray.resolve import (
    ANSWER,
    CONFIRM,
    SCREEN,
    SEARCH,
    confirm_runs,
    data_of,
    foreign_sets,
    learned_from,
    source_of,
    teacher_runs,
    trial_run,
)
from distill_ray.search.history import (
    begun,
    best_recipes,
    best_trials,
    find_history,
    is_over,
    job_state,
    open_history,
)
from distill_ray.stages.answer import Answers, answers_for, answers_for_search, joined
from distill_ray.stages.locations import Locations
from distill_ray.stages.lock import is_running
from distill_ray.stages.screen import Screened, Screening, find_screening, narrowed, screenings
from distill_ray.stages.stage_log import images_answered_ahead
from distill_ray.store import Store
from distill_ray.study import StudyDefinition


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
        foreign: The sets of foreign images that confirmed networks judge.
    """

    def __init__(
        self,
        study: StudyDefinition,
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
        self.foreign = foreign_sets(study, source_of(study)) if study.confirm.foreign else ()
        self._advancing = advancing
        self._study = study
        self._narrowed: StudyDefinition | None = None
        self._history: optuna.Study | None = None
        self._records: dict[str, JobRecord] = {}
        self._screened: dict[Screening, Screened] = {}
        self._trial_runs: dict[int, StudyJob] = {}
        self._confirmations: tuple[StudyJob, ...] = ()

    @classmethod
    def at(cls, study: StudyDefinition, locations: Locations) -> StudyState:
        """The state of a study to look at, in a store that is only read.

        Raises `RequestError` when its data or its store is not there.
        """
        data, store = data_of(study), Store.open(locations.store, make=False)
        return cls(study, data, store, locations.search_storage)

    @property
    def asked(self) -> StudyDefinition:
        """The study as its file has it."""
        return self._study

    # --- Teachers ---

    def record(self, run: StudyJob) -> JobRecord | None:
        """What a finished job has left in the store, or None."""
        return self.record_of(run.job)

    def record_of(self, job: Job) -> JobRecord | None:
        """What a finished job has left in the store, or None."""
        if job.id not in self._records and (record := find_job(self.store, job.id)) is not None:
            self._records[job.id] = record
        return self._records.get(job.id)

    def finished(self, runs: Iterable[StudyJob]) -> list[JobRecord]:
        """The records of those of the jobs that are finished."""
        records = map(self.record, runs)
        return [record for record in records if record is not None]

    @property
    def is_taught(self) -> bool:
        """Whether all teachers are trained."""
        return all(self.record(run) is not None for run in self.teachers)

    # --- Screenings ---

    def screened(self, screening: Screening) -> Screened | None:
        """The result of a screening, or None."""
        if screening not in self._screened:
            result = find_screening(self.store, screening)
            if result is not None:
                self._screened[screening] = result
        return self._screened.get(screening)

    @property
    def deviation(self) -> dict[Augmentation, Deviation]:
        """T. stddev of the augmentations that have been screened."""
        results = {screening: self.screened(screening) for screening in self.screenings}
        return {
            screening.augmentation: result.deviation
            for screening, result in results.items()
            if result is not None
        }

    @property
    def study(self) -> StudyDefinition:
        """The study, with the search space that a complete screening leaves."""
        if self._narrowed is None and self.screenings and self.can_search:
            self._narrowed = narrowed(self._study, self.deviation)
        return self._narrowed or self._study

    # --- Answers ---

    def is_answered_elsewhere(self, answers: Answers) -> bool:
        """Whether the networks of these teachers are not here."""
        absent = {run.job.id for run in self.teachers if run.job.recipe.answers_alone}
        return bool(absent.intersection(answers.key.teachers))

    def answers(self) -> list[Answers]:
        """What teachers are asked ahead of the students, as far as it is known: for the trials
        while the search is under way, and for the confirmations that are not finished.
        """
        trials = []
        if not self.search_is_over:
            trials = answers_for_search(self.study, self.data, self.teacher_ids)
        waiting = [run.job for run in self.known_confirmations if self.record(run) is None]
        asked = joined([*trials, *answers_for(waiting, confirm_sharing(self.study), self.data)])
        return [
            replace(answers, precision=self._answering_precision(answers.key.teachers))
            for answers in asked
        ]

    def _answering_precision(self, teachers: Sequence[str]) -> str:
        """The precision in which these teachers answer on workers, whose processors are taken to be
        like this machine's; empty where workers have GPUs and this machine has none.
        """
        from distill_ray.training import precision_of_teachers  # torch

        recipes = [run.job.recipe for run in self.teachers if run.job.id in teachers]
        resources = WorkerResources.of(self._study, LIVE)
        device = resources.worker().device
        on_other_devices = resources.gpus > 0 and device.type == "cpu"
        if on_other_devices and any(recipe.precision == "auto" for recipe in recipes):
            return ""
        shape = image_shape(source_of(self._study), self._study.data.size)
        return precision_of_teachers(recipes, shape, device)

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

    @property
    def baselines(self) -> tuple[StudyJob, ...]:
        """Those of the confirmations that do not depend on the search, and may be trained beside
        it.
        """
        return tuple(confirm_runs(self.study, self.data, self.teacher_ids, []))

    @property
    def known_confirmations(self) -> tuple[StudyJob, ...]:
        """The confirmations: while the search is under way the baselines, then all."""
        return self.confirmations or (self.baselines if self.can_search else ())

    def is_evaluated(self, run: StudyJob) -> bool:
        """Whether a job is finished, and its network has predicted the test split and judged the
        foreign sets.
        """
        record = self.record(run)
        judged = [TEST, *(images.key for images in self.foreign)] if self.foreign else []
        return record is not None and record.has_read_test and all(map(record.has_judged, judged))

    @property
    def is_finished(self) -> bool:
        """Whether every stage has ended, and teachers and students are evaluated."""
        return self.search_is_over and all(
            self.is_evaluated(run) for run in (*self.teachers, *self.confirmations)
        )

    # --- What runs ---

    @property
    def has_driver(self) -> bool:
        """Whether a process is running the study."""
        return is_running(self.store, self._study.name)

    def jobs(self) -> list[JobStatus]:
        """All jobs that are known so far, with what has become of each: trials only when they have
        begun, and of the confirmations until the search is over only the baselines.
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
            return JobStatus(run, JobState.RUNNING, last_epoch=last_epoch(self.store, run.job.id))

        jobs = [status(run) for run in self.teachers]
        for run, trial in self.trials:
            state = job_state(trial)
            if state.has_ended:
                jobs.append(JobStatus(run, state, trial.user_attrs.get("reason", "")))
            else:
                jobs.append(unfinished(run))
        return jobs + [status(run) for run in self.known_confirmations]

    def teacher_images(self) -> dict[str, int]:
        """How many images teachers have answered for, by stage: ahead of the students, in
        screenings, and in the jobs of one worker, by whichever study they were run.
        """
        screened = [self.store.get(screening.key) for screening in self.screenings]
        images = {
            SCREEN: sum(
                int(record.info.get(TEACHER_IMAGES, 0)) for record in screened if record is not None
            ),
            ANSWER: images_answered_ahead(self._study, self.store),
        }
        runs = {SEARCH: [run for run, _ in self.trials], CONFIRM: list(self.known_confirmations)}
        for stage, of_stage in runs.items():
            ids = {run.job.id for run in of_stage if run.job.teachers}
            answered = (last_epoch(self.store, job_id).get(TEACHER_IMAGES, 0) for job_id in ids)
            images[stage] = int(sum(answered))
        return images
