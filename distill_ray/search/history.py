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
from distill_ray.resolve import comparable, search_name
from distill_ray.search.journal import journal
from distill_ray.search.storage import explained, open_database
from distill_ray.store import Store
from distill_ray.study import Search, StudyDefinition
from distill_ray.study.space import Label

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

STUDY_TIME = "study_time"
"""The user attribute of a search that ended for the time limit of its study: that limit, in
seconds.
"""

COMPARABLE = "comparable"
"""The user attribute of the search that says with what other searches of the study its trials can
be compared.
"""

COSTS = "costs"
"""The user attribute of a trial with what it costs, where the search asks for costs."""

INFEASIBLE_PER_TRIAL = 20
"""Infeasible configurations per trial, over the whole search, after which it gives up: they cost no
training, but a sampler that finds little else never ends.
"""

JOB_STATES = {
    TrialState.WAITING: JobState.WAITING,
    TrialState.RUNNING: JobState.RUNNING,
    TrialState.COMPLETE: JobState.FINISHED,
    TrialState.PRUNED: JobState.PRUNED,
    TrialState.FAIL: JobState.FAILED,
}
"""Optuna's words for the states of a job; `job_state` knows those with a constraint."""


def job_state(trial: FrozenTrial) -> JobState:
    """The state of a trial. One that breaks a constraint is PRUNED for Optuna, so that samplers
    learn from the constraint, and was never begun.
    """
    if trial.state == TrialState.PRUNED and any(x > 0 for x in trial.constraints.values()):
        return JobState.INFEASIBLE
    return JOB_STATES[trial.state]


def open_history(
    study: StudyDefinition,
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
        history.set_user_attr(COMPARABLE, comparable(study, data, teachers))
    return history


def find_history(
    study: StudyDefinition,
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


def _storage(study: StudyDefinition, store: Store, storage_uri: str | None) -> BaseStorage:
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
    """Those that have ended, without the infeasible ones, which cost nothing."""
    return [
        trial
        for trial in begun(history)
        if trial.state.is_finished() and job_state(trial) != JobState.INFEASIBLE
    ]


def used(history: optuna.Study, search: Search) -> list[FrozenTrial]:
    """Those that count towards the trials of the study file: of a grid the infeasible ones too,
    since it has no others to try instead.
    """
    if search.chosen_sampler == "grid":
        return [trial for trial in begun(history) if trial.state.is_finished()]
    return counted(history)


def infeasible_left(history: optuna.Study, search: Search) -> int:
    """How many infeasible configurations the search may still meet before it gives up."""
    met = sum(job_state(trial) == JobState.INFEASIBLE for trial in begun(history))
    return INFEASIBLE_PER_TRIAL * search.trials - met


def known_from(history: optuna.Study) -> dict[str, int]:
    """Earlier studies, and how many of their trials the search was given."""
    return dict(
        Counter(
            trial.user_attrs[SOURCE]
            for trial in history.get_trials(deepcopy=False)
            if SOURCE in trial.user_attrs
        )
    )


EPOCHS, GPUS, JOULES = "epochs", "gpus", "joules"
"""The user attributes of a trial with the epochs that it had, the GPUs that it ran on, and the
energy that it used, where its devices count that.
"""

JOULES_PER_KWH = 3.6e6


def is_over(history: optuna.Study, search: Search) -> bool:
    """Whether the search has had its trials, its failures, its time or its budget, or has found
    nothing better for long enough.
    """
    trials = used(history, search)
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    return (
        len(trials) >= search.trials
        or why_over(history, search) != ""
        or failed >= search.max_failed_trials
        or infeasible_left(history, search) <= 0
        or time_left(history, search) <= 0
    )


def why_over(history: optuna.Study, search: Search) -> str:
    """Why the search ends before it has had its trials: its budget, its patience or the time of its
    study; empty when it does not.
    """
    if (limit := search.study_time_limit) and limit <= history.user_attrs.get(STUDY_TIME, 0.0):
        return "confirmations and report need what is left of the study's time"
    budget, ended = search.budget, counted(history) if search.budget or search.stop else []
    epochs = sum(trial.user_attrs.get(EPOCHS, 0) for trial in ended)
    hours = sum(_gpu_hours(trial) for trial in ended)
    if budget is not None and budget.epochs is not None and epochs >= budget.epochs:
        return f"its budget of {budget.epochs} epoch{'' if budget.epochs == 1 else 's'} is spent"
    if budget is not None and budget.gpu_hours is not None and hours >= budget.gpu_hours:
        return f"its budget of {budget.gpu_hours:g} GPU hours is spent"
    if budget is not None and budget.kwh is not None and ended:
        joules = [trial.user_attrs[JOULES] for trial in ended if JOULES in trial.user_attrs]
        if not joules and epochs:
            return "its budget is in kWh, and no device here counts its energy"
        if sum(joules) >= budget.kwh * JOULES_PER_KWH:
            return f"its budget of {budget.kwh:g} kWh is spent"
    if search.stop is not None:
        best = [trial.number for trial in best_trials(history, search)]
        last = (max(best) if len(search.objectives) > 1 else best[0]) if best else -1
        since = sum(trial.number > last for trial in ended)
        if best and since >= search.stop.patience:
            return f"{since} trials in a row have improved nothing"
    return ""


def _gpu_hours(trial: FrozenTrial) -> float:
    hours = 0.0 if trial.duration is None else trial.duration.total_seconds() / 3600
    return hours * float(trial.user_attrs.get(GPUS, 0))


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


def best_recipes(study: StudyDefinition, history: optuna.Study, top: int) -> list[Recipe]:
    """The best `top` different recipes that the search found; fewer when it found fewer.

    Where a cost is an objective they are spread along the front, from the best to the cheapest,
    since its first ones would all be large.

    Where each choice of a setting has a search of its own, they are the best of each.
    """
    recipes: list[Recipe] = []
    seen: set[Label] = set()
    for trial in best_trials(history, study.search):
        if study.search.for_each is not None:
            choice = trial.params[study.search.for_each]
            if choice in seen:
                continue
            seen.add(choice)
        recipe = study.search.space.recipe(study.student, trial.params)
        if recipe not in recipes:
            recipes.append(recipe)
    costs = any(name.startswith("cost/") for name in study.search.objectives)
    if not costs or top == 1 or len(recipes) <= top:
        return recipes[:top]
    last = len(recipes) - 1
    return [recipes[round(place * last / (top - 1))] for place in range(top)]
