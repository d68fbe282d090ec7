"""The search's history in Optuna: opened for a study, and read back."""

from __future__ import annotations

import logging
import posixpath
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from distill_ray.errors import RequestError
from distill_ray.events import JobState
from distill_ray.job import Data, Recipe
from distill_ray.metrics.pareto import on_pareto_front
from distill_ray.resolve import search_name
from distill_ray.search.journal import journal
from distill_ray.search.storage import explained, open_database
from distill_ray.store import Store
from distill_ray.study import Search, Study

logger = logging.getLogger(__name__)

ABANDONED = "its driver ended before it did"
"""Why a trial failed that a dead driver had left behind."""

SOURCE = "source"
"""The user attribute of trials that this search only knows of: the earlier study that they are
from.
"""

SECONDS = "seconds"
"""The user attribute of the search that says how long it has taken, over all drivers there have
been.
"""

JOB_STATES = {
    TrialState.WAITING: JobState.WAITING,
    TrialState.RUNNING: JobState.RUNNING,
    TrialState.COMPLETE: JobState.FINISHED,
    TrialState.PRUNED: JobState.PRUNED,
    TrialState.FAIL: JobState.FAILED,
}
"""Optuna's words for the states of a job."""


def open_history(
    study: Study,
    data: Data,
    teachers: Sequence[str],
    store: Store,
    storage_uri: str | None,
) -> optuna.Study:
    """Optuna's study for the search, made when it is not there yet.

    It lives in a journal file in the study's folder of a local store, or in the database at
    `storage_uri`. Raises `RequestError` when it cannot be used.
    """
    storage = _storage(study, store, storage_uri)
    with nullcontext() if storage_uri is None else explained(storage_uri):
        history = optuna.create_study(
            storage=storage,
            study_name=search_name(study, data, teachers),
            directions=[
                "minimize" if mode == "min" else "maximize"
                for mode in study.search.objectives.values()
            ],
            load_if_exists=True,
        )
    if not history.get_trials(deepcopy=False):
        history.set_metric_names(list(study.search.objectives))
    return history


def find_history(
    study: Study,
    data: Data,
    teachers: Sequence[str],
    store: Store,
    storage_uri: str | None,
) -> optuna.Study | None:
    """The same for readers: None when there is no such search, and nothing is written."""
    in_journal = storage_uri is None and store.is_local
    if in_journal and not store.local_path(journal_path(study.name)).exists():
        return None
    storage, name = _storage(study, store, storage_uri), search_name(study, data, teachers)
    with nullcontext() if storage_uri is None else explained(storage_uri):
        if name not in optuna.get_all_study_names(storage):
            return None
        return optuna.load_study(study_name=name, storage=storage)


def check_storage(store: Store, storage_uri: str | None) -> None:
    """Raise `RequestError` where a search could not be kept, before its teachers are trained."""
    if storage_uri is not None:
        quiet()
        open_database(storage_uri)
    elif not store.is_local:
        raise RequestError(
            f"store {store.shown} is not a local folder; "
            "say where the search is kept with --search-storage"
        )


def _storage(study: Study, store: Store, storage_uri: str | None) -> BaseStorage:
    quiet()
    if storage_uri is not None:
        return open_database(storage_uri)
    check_storage(store, None)
    return journal(store, journal_path(study.name))


def journal_path(name: str) -> str:
    """Where a local store has the searches of study `name`."""
    return posixpath.join("studies", name, "search.journal")


def quiet() -> None:
    """Silence Optuna's output."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def begun(history: optuna.Study) -> list[FrozenTrial]:
    """The trials of this study that have begun: without those that a dead driver left and that were
    tried again.
    """
    return [
        trial
        for trial in history.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
        and trial.user_attrs.get("reason") != ABANDONED
        and SOURCE not in trial.user_attrs
    ]


def counted(history: optuna.Study) -> list[FrozenTrial]:
    """Those that have ended."""
    return [trial for trial in begun(history) if trial.state.is_finished()]


def known_from(history: optuna.Study) -> dict[str, int]:
    """Earlier studies, and how many of their trials the search was given."""
    return dict(
        Counter(
            trial.user_attrs[SOURCE]
            for trial in history.get_trials(deepcopy=False)
            if SOURCE in trial.user_attrs
        )
    )


def is_over(history: optuna.Study, search: Search) -> bool:
    """Whether the search has had its trials, its failures or its time."""
    trials = counted(history)
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    return (
        len(trials) >= search.trials
        or failed >= search.max_failed_trials
        or time_left(history, search) <= 0
    )


def time_left(history: optuna.Study, search: Search) -> float:
    """Seconds of search that the study file still grants, over all drivers there have been."""
    limit = float("inf") if search.time_limit is None else search.time_limit
    return limit - time_spent(history)


def time_spent(history: optuna.Study) -> float:
    """Seconds of search so far, over all drivers there have been."""
    return float(history.user_attrs.get(SECONDS, 0.0))


def best_trials(history: optuna.Study, search: Search) -> list[FrozenTrial]:
    """The `COMPLETE` trials, best first: of several objectives those on the Pareto front, by the
    first objective.
    """
    signs = np.array([1.0 if mode == "min" else -1.0 for mode in search.objectives.values()])
    complete = [trial for trial in begun(history) if trial.state == TrialState.COMPLETE]
    if len(signs) > 1 and complete:
        kept = on_pareto_front(signs * np.array([trial.values for trial in complete]))
        complete = [trial for trial, stays in zip(complete, kept, strict=True) if stays]
    return sorted(complete, key=lambda trial: (signs[0] * trial.values[0], trial.number))


def best_recipes(study: Study, history: optuna.Study, top: int) -> list[Recipe]:
    """The best `top` different recipes that the search found; fewer when it found fewer."""
    recipes: list[Recipe] = []
    for trial in best_trials(history, study.search):
        recipe = study.search.space.recipe(study.student, trial.params)
        if recipe not in recipes:
            recipes.append(recipe)
    return recipes[:top]
