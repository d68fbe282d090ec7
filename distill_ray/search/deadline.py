"""When a search has to end: at its own time limit, or when the confirmations need what is left of
the study's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import optuna

from distill_ray.events import StudyJob
from distill_ray.execution.messages import Record
from distill_ray.execution.sharing import confirm_sharing
from distill_ray.job import Data, Job
from distill_ray.records import TEACHER_IMAGES, find_job, last_epoch
from distill_ray.resolve import confirm_runs
from distill_ray.search.history import best_recipes
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

KEPT_BACK = 0.05
"""The part of a study's time that is kept back for its report, and for what the confirmations take
longer than trials let one expect.
"""


class Deadline:
    """The end of a search, by the monotonic clock, which is nobody's to set: that of its own
    `time_limit`. It hears of the trials, which may move it.
    """

    def __init__(self, time_limit: float = math.inf) -> None:
        self.time_limit = time_limit

    def at(self) -> float:
        """When trials that are under way are stopped."""
        return self.time_limit

    def last_begin(self) -> float:
        """When the last trial may begin."""
        return self.at()

    def passed(self) -> bool:
        """Whether trials that are under way are to be stopped now."""
        return time.monotonic() > self.at()

    def begin(self, number: int) -> None:
        """A process begins a trial."""

    def epochs(self, number: int, records: Sequence[Record]) -> None:
        """A trial has finished some epochs."""

    def end(self, number: int, job: Job, *, complete: bool) -> None:
        """A trial has ended, at its last epoch or earlier."""


@dataclass(frozen=True)
class _Training:
    """What a trial took: seconds of training over its epochs, in which teachers answered for so
    many images.
    """

    model: str
    epochs: int
    seconds: float
    answered: int


class Pace:
    """How long jobs take here and now, by the trials that have ended: the student's part by the
    network, and the teachers' by the images that they answered for.
    """

    def __init__(self, trainings: Sequence[_Training]) -> None:
        read = [training for training in trainings if not training.answered]
        self._student = {
            model: statistics.median(_per_epoch(trainings_of))
            for model in {training.model for training in trainings}
            if (trainings_of := [one for one in read if one.model == model])
        }
        for training in trainings:  # no trial of this network found all logits stored
            if all(one.model != training.model for one in read):
                seconds = training.seconds / training.epochs
                known = self._student.get(training.model, seconds)
                self._student[training.model] = min(known, seconds)
        answering = [training for training in trainings if training.answered]
        extra = [one.seconds - one.epochs * self._student[one.model] for one in answering]
        images = sum(one.answered for one in answering)
        self._image = max(0.0, sum(extra)) / images if images else 0.0
        self._images = max((one.answered / one.epochs for one in answering), default=0.0)

    def seconds(self, job: Job, *, answering: bool) -> float:
        """The time of a job, whose teachers answer for each image of each epoch or for none. One
        with a network that no trial had counts as the slowest.
        """
        student = self._student.get(job.recipe.model, max(self._student.values()))
        return job.recipe.epochs * (student + self._image * self._images * answering)


def _per_epoch(trainings: Iterable[_Training]) -> list[float]:
    return [training.seconds / training.epochs for training in trainings]


class StudyDeadline(Deadline):
    """The end of a search that leaves enough of the study's time to confirm what it has found. It
    is judged anew whenever a trial has ended, by what trials took under the load that there is. Of
    a search in which no trial has come to its end there is nothing to confirm, and it goes on.

    Args:
        study: with `search.study_time_limit`.
        data, teachers, store: what its jobs are made of, and where they are.
        history: the search in Optuna.
        begun: the beginning of the study, by the monotonic clock.
        time_limit: the search's own end by that clock.
        places: how many jobs are trained side by side.
    """

    def __init__(
        self,
        study: StudyDefinition,
        data: Data,
        teachers: Sequence[str],
        store: Store,
        history: optuna.Study,
        *,
        begun: float,
        time_limit: float,
        places: int,
    ) -> None:
        assert study.search.study_time_limit is not None
        super().__init__(time_limit)
        limit = study.search.study_time_limit
        self._ends = begun + (1 - KEPT_BACK) * limit
        self._study = study
        self._confirmed: Callable[[], list[StudyJob]] = lambda: confirm_runs(
            study, data, teachers, best_recipes(study, history, study.confirm.top)
        )
        self._store = store
        self._places = places
        self._begun: dict[int, float] = {}
        self._seconds: dict[int, list[float]] = {}
        self._trainings: list[_Training] = []
        self._longest = 0.0
        self.reserve: float | None = None
        """Seconds that the confirmations will probably take; None while nothing tells."""

    def at(self) -> float:
        if self.reserve is None:
            return self.time_limit
        return min(self.time_limit, self._ends - self.reserve)

    def last_begin(self) -> float:
        return self.at() - self._longest

    def begin(self, number: int) -> None:
        self._begun.setdefault(number, time.monotonic())

    def epochs(self, number: int, records: Sequence[Record]) -> None:
        self._seconds.setdefault(number, []).extend(record["seconds"] for record in records)

    def end(self, number: int, job: Job, *, complete: bool) -> None:
        begun, seconds = self._begun.pop(number, math.inf), self._seconds.pop(number, [])
        if not seconds:
            return
        answered = int(last_epoch(self._store, job.id).get(TEACHER_IMAGES, 0))
        self._trainings.append(_Training(job.recipe.model, len(seconds), sum(seconds), answered))
        if complete:
            self._longest = max(self._longest, time.monotonic() - begun)
        if complete or self.reserve is not None:
            self.reserve = self._confirming(Pace(self._trainings))

    def _confirming(self, pace: Pace) -> float:
        """The time of the confirmations that are missing, as many in parallel as there are
        places.
        """
        sharing, asked = confirm_sharing(self._study), set()
        jobs = [run.job for run in self._confirmed()]
        seconds = []
        for job in jobs:
            if find_job(self._store, job.id) is not None:
                continue
            shared = job.recipe.augmentation, job.seed, job.teachers
            stored = sharing.stores_for(job.recipe)
            answering = bool(job.teachers) and not (stored and shared in asked)
            asked.add(shared)
            seconds.append(pace.seconds(job, answering=answering))
        ends = [0.0] * self._places
        for one in sorted(seconds, reverse=True):
            place = ends.index(min(ends))
            ends[place] += one
        return max(ends)
