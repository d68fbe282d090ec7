"""What of a study is there by now, by its store and its search: where the next run goes on, and
what is told to whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from distill_ray.augmentation import Augmentation
from distill_ray.events import StudyJob
from distill_ray.job import Data
from distill_ray.records import JobRecord, find_job
from distill_ray.resolve import confirm_runs, learned_from, teacher_runs
from distill_ray.search.history import best_recipes, is_over, open_history
from distill_ray.stages.screen import Screening, deviations, narrowed, screenings
from distill_ray.store import Store
from distill_ray.study import Study


@dataclass(frozen=True)
class StudyState:
    """A study at this moment, each part as far as those before it are complete.

    `trained` are the records of the teachers that are finished, and `deviation` the T. stddev of
    the augmentations that have been screened. `study` has the search space that a complete
    screening leaves. `history` is its search in Optuna, None while teachers or screenings are
    missing; `confirmations` is empty until the search is over.
    """

    study: Study
    teachers: tuple[StudyJob, ...]
    trained: tuple[JobRecord, ...]
    screenings: tuple[Screening, ...]
    deviation: Mapping[Augmentation, float]
    history: optuna.Study | None
    search_is_over: bool
    confirmations: tuple[StudyJob, ...]

    @property
    def teacher_ids(self) -> list[str]:
        """The job ids of all teachers, trained or not."""
        return [run.job.id for run in self.teachers]


def state_of(study: Study, data: Data, store: Store, search_storage: str | None) -> StudyState:
    """What of `study` is there; nothing is run. Raises `RequestError` when the search cannot be
    reached.
    """
    teachers = teacher_runs(study, data)
    ids = [run.job.id for run in teachers]
    trained = [record for run in teachers if (record := find_job(store, run.job.id)) is not None]
    wanted = screenings(study, data, learned_from(study, ids))
    deviation = deviations(wanted, store)
    history, over, confirmations = None, False, list[StudyJob]()
    if len(trained) == len(teachers) and len(deviation) == len(wanted):
        study = narrowed(study, deviation)
        history = open_history(study, data, ids, store, search_storage)
        if over := is_over(history, study.search):
            confirmations = confirm_runs(
                study, data, ids, best_recipes(study, history, study.confirm.top)
            )
    return StudyState(
        study,
        tuple(teachers),
        tuple(trained),
        tuple(wanted),
        deviation,
        history,
        over,
        tuple(confirmations),
    )
