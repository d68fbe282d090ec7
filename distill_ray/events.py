"""Events of a study, for its observers: the progress display, MLflow, the references of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from distill_ray.job import Job

Metrics = Mapping[str, float]


class JobState(StrEnum):
    """What has become of a job. Optuna's words for it are translated in `search.history`, MLflow's
    in `tracking.states`; everything else uses these.
    """

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    """Stopped early by the search, because others were better."""
    INFEASIBLE = "infeasible"
    """Not trained, since it costs more than a limit of the search allows."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Neither ended nor running: its driver died, or was stopped."""

    @property
    def has_ended(self) -> bool:
        """Whether the same study would not run it again."""
        return self not in (JobState.WAITING, JobState.RUNNING, JobState.INTERRUPTED)


@dataclass(frozen=True)
class StudyJob:
    """One job in its role in the study.

    `key` is unique in the study. `role` says what the job is: `teacher`, `trial`, or the name of a
    contender; `number` counts those of one role. `searched` holds the settings that a trial drew.
    """

    key: str
    stage: str
    role: str
    job: Job
    number: int = 0
    searched: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in messages: `teacher 2`."""
        return f"{self.role} {self.number}"


def describe(run: StudyJob) -> str:
    """A run in a few words: `teacher 2 · wrn-10-1 · seed 1`, `trial 007 · kd · T 3.1 · α 0.62`."""
    if run.role == "trial":
        return " · ".join([f"trial {run.number:03}", *_settings(run)])
    return f"{run.role} {run.number} · {run.job.recipe.model} · seed {run.job.seed}"


_SHORT = {"temperature": "T", "alpha": "α"}


def _settings(run: StudyJob) -> list[str]:
    """What a trial has drawn: first the choices, which name themselves, then the numbers."""
    choices = [value for value in run.searched.values() if isinstance(value, str)]
    numbers = {name: value for name, value in run.searched.items() if not isinstance(value, str)}
    texts = {
        name: f"{value:.3g}" if isinstance(value, float) else str(value)
        for name, value in numbers.items()
    }
    return [*choices, *(f"{_SHORT.get(name, name)} {text}" for name, text in texts.items())]


@dataclass(frozen=True)
class Measurement:
    """The screening result of one augmentation: `augmentation` in words, its settings, and what was
    measured.

    `key` is unique in the study; `reused` says that it was measured before.
    """

    key: str
    augmentation: str
    settings: Mapping[str, str | int | float | bool | None]
    metrics: Metrics
    reused: bool = False


@dataclass(frozen=True)
class Answered:
    """Teachers have answered for so many more images ahead of the students: `what` in words."""

    what: str
    images: int
    seconds: float


class Observer:
    """Receives the events of a study; by itself it does nothing. No method blocks for long or
    raises.

    The order of events::

        for each stage:
            stage_started
                past                    for each job that had ended before
                measured                for each augmentation that is screened, or was before
                answered                for each share of the teachers' answers
                started                 for each other job, as many at a time as fit
                    epoch               for each of its epochs, again where it was started again
                ended
            stage_ended                 whatever happens

    Jobs that run beside a stage, in places that it leaves free, are told of in between: `run.stage`
    is then another one, whose own beginning comes later. What they have not told until then comes
    in it, or in a stage between.
    """

    def stage_started(self, stage: str, jobs: int) -> None:
        """A stage begins; `jobs` counts its jobs, finished ones included."""

    def past(
        self,
        run: StudyJob,
        state: JobState,
        epochs: Callable[[], Iterable[Metrics]],
        metrics: Metrics,
        reason: str,
    ) -> None:
        """A job that had already ended before this stage began; `epochs` reads its records."""

    def started(self, run: StudyJob) -> None:
        """A job begins."""

    def epoch(self, run: StudyJob, record: Metrics) -> None:
        """A job has finished an epoch."""

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        """A job has ended."""

    def measured(self, measurement: Measurement) -> None:
        """An augmentation has been measured with the teachers alone."""

    def answered(self, answered: Answered) -> None:
        """Teachers have answered for some images ahead of the students."""

    def stage_ended(self, stage: str) -> None:
        """A stage has ended."""


@contextmanager
def stage(observer: Observer, name: str, jobs: int) -> Iterator[None]:
    """A context for a stage that reports its beginning and, whatever happens, its end to the
    observer.
    """
    observer.stage_started(name, jobs)
    try:
        yield
    finally:
        observer.stage_ended(name)


@dataclass(frozen=True)
class Observers(Observer):
    """Several observers as one."""

    members: Sequence[Observer]

    def stage_started(self, stage: str, jobs: int) -> None:
        for member in self.members:
            member.stage_started(stage, jobs)

    def past(
        self,
        run: StudyJob,
        state: JobState,
        epochs: Callable[[], Iterable[Metrics]],
        metrics: Metrics,
        reason: str,
    ) -> None:
        for member in self.members:
            member.past(run, state, epochs, metrics, reason)

    def started(self, run: StudyJob) -> None:
        for member in self.members:
            member.started(run)

    def epoch(self, run: StudyJob, record: Metrics) -> None:
        for member in self.members:
            member.epoch(run, record)

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        for member in self.members:
            member.ended(run, state, metrics, reason)

    def measured(self, measurement: Measurement) -> None:
        for member in self.members:
            member.measured(measurement)

    def answered(self, answered: Answered) -> None:
        for member in self.members:
            member.answered(answered)

    def stage_ended(self, stage: str) -> None:
        for member in self.members:
            member.stage_ended(stage)
