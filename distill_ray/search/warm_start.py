"""A warm start: the sampler gets the trials of earlier studies before it draws its first.

An earlier trial counts for the settings that both spaces have and whose value lies in this one; the
others it says nothing about. One that had a choice which is not offered here (another method, say)
is of another kind, and is left out altogether.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from distill_ray.addresses import masked
from distill_ray.job import Data
from distill_ray.resolve import comparable, search_name
from distill_ray.search.costs import CostMeter, constraints
from distill_ray.search.history import COMPARABLE, SOURCE, journal_path, quiet
from distill_ray.search.history import counted as finished_trials
from distill_ray.search.journal import journal
from distill_ray.search.storage import open_database
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.study.recipes import flatten
from distill_ray.study.space import Label, SearchSpace, label_of

IDENTITY = "trial"
"""The user attribute that says which trial of its source an earlier trial was."""


def warm_start(
    history: optuna.Study,
    study: StudyDefinition,
    data: Data,
    store: Store,
    search_storage: str | None,
) -> None:
    """Put the earlier trials into the search's history, each once: finished, and marked with where
    they are from. A search that has not begun gets those of earlier versions of the study, too, in
    which only the space or the limits were others.

    Raises `RequestError` as `earlier_trials` does.
    """
    known = {
        (trial.user_attrs.get(SOURCE), trial.user_attrs.get(IDENTITY))
        for trial in history.get_trials(deepcopy=False)
    }
    meter = CostMeter(study, data, store)
    earlier = earlier_trials(study, store, search_storage, besides=history.study_name)
    if not history.get_trials(deepcopy=False) and study.name not in study.search.warm_start:
        for search in _searches(study.name, study, store, search_storage):
            if _goes_on_from(history, search):
                earlier += _translated(search, study.name, study)
    for trial in earlier:
        if (trial.user_attrs[SOURCE], trial.user_attrs[IDENTITY]) not in known:
            costs = meter.of(trial.params)
            for name, value in constraints(costs, study.search.limits).items():
                trial.set_constraint(name, value)
            history.add_trial(trial)


def earlier_trials(
    study: StudyDefinition, store: Store, search_storage: str | None, *, besides: str = ""
) -> list[FrozenTrial]:
    """The complete trials of `search.warm_start` as trials of this study's space; `besides` names a
    search to leave out.

    Raises `RequestError` when one of the studies has no search with these objectives, or the
    storage cannot be used.
    """
    trials: list[FrozenTrial] = []
    for source in study.search.warm_start:
        searches = list(_searches(source, study, store, search_storage))
        if not searches and source != study.name:
            raise study.error(
                [("search.warm_start", _missing(source, study, store, search_storage))]
            )
        for search in searches:
            if search.study_name != besides:
                trials += _translated(search, source, study)
    return trials


def note_of_earlier_versions(
    study: StudyDefinition,
    data: Data,
    teachers: Sequence[str],
    store: Store,
    search_storage: str | None,
) -> str:
    """A sentence on the trials of earlier versions of the study: how many of them its search starts
    from, and how many it begins without.

    Empty when there are none, or when the study is warm-started from itself. A search goes on only
    as long as its trials can be compared: another space starts from what overlaps; another student,
    data set or teacher makes a new one.
    """
    if study.name in study.search.warm_start:
        return ""
    current, same = search_name(study, data, teachers), comparable(study, data, teachers)
    used = set_aside = 0
    for search in _searches(study.name, study, store, search_storage):
        ended = len(finished_trials(search))
        if search.study_name == current and ended:
            return ""
        if search.study_name != current:
            fits = search.user_attrs.get(COMPARABLE) == same
            overlapping = len(list(_translated(search, study.name, study))) if fits else 0
            used, set_aside = used + overlapping, set_aside + ended - overlapping
    begins = "begins anew, since the study was changed"
    if used:
        begins = f"starts from {used} trials of the study before its space was changed"
    aside = (
        f"{set_aside} trials of its earlier versions are set aside "
        f"(search.warm_start: [{study.name}] lets it begin from them)"
    )
    parts = [begins, *([aside] if set_aside else [])]
    return f"search: {'; '.join(parts)}" if used or set_aside else ""


def _goes_on_from(history: optuna.Study, earlier: optuna.Study) -> bool:
    """Whether the trials of an earlier search can be compared with those of this one."""
    kind = history.user_attrs.get(COMPARABLE)
    other = earlier.study_name != history.study_name
    return other and kind is not None and earlier.user_attrs.get(COMPARABLE) == kind


def _translated(search: optuna.Study, source: str, study: StudyDefinition) -> Iterator[FrozenTrial]:
    names = search.metric_names or []
    places = [names.index(objective) for objective in study.search.objectives]
    fixed = flatten(study.student) | dict(study.search.space.fixed)
    for trial in search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        drawn = (
            {} if SOURCE in trial.user_attrs else overlap(study.search.space, fixed, trial.params)
        )
        if drawn:
            recorder = FixedTrial(dict(drawn))
            for name in drawn:
                study.search.space[name].suggest(recorder)
            yield create_trial(
                state=TrialState.COMPLETE,
                params=recorder.params,
                distributions=recorder.distributions,
                values=[trial.values[place] for place in places],
                user_attrs={SOURCE: source, IDENTITY: f"{search.study_name}/{trial.number}"},
            )


def overlap(
    space: SearchSpace, fixed: Mapping[str, Any], params: Mapping[str, Label]
) -> dict[str, Label]:
    """What an earlier trial's `params` say about `space`; empty when nothing, or when the trial was
    of another kind.

    `fixed` holds the settings of this study that are not searched.
    """
    dimensions = {dimension.name: dimension for dimension in space.dimensions}
    for name, label in params.items():
        if isinstance(label, str):
            if name in dimensions and label not in map(label_of, dimensions[name].limits):
                return {}
            if name not in dimensions and name in fixed and label != label_of(fixed[name]):
                return {}
    drawn: dict[str, Label] = {}
    for name, dimension in dimensions.items():
        if name in params and space.is_active(dimension, drawn):
            label = params[name]
            offered = dimension.label(label) if not isinstance(label, str) else label
            if offered is not None:
                drawn[name] = offered
    return drawn


def _searches(
    source: str, study: StudyDefinition, store: Store, search_storage: str | None
) -> Iterator[optuna.Study]:
    """The searches that a study left behind, one for each form it has had, as far as they had these
    objectives.
    """
    quiet()
    name, _, place = source.partition("@")
    storage = _storage(name, place, store, search_storage)
    if storage is None:
        return
    for study_name in optuna.get_all_study_names(storage):
        if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", study_name):
            search = optuna.load_study(study_name=study_name, storage=storage)
            if set(study.search.objectives) <= set(search.metric_names or ()):
                yield search


def _storage(name: str, place: str, store: Store, search_storage: str | None) -> BaseStorage | None:
    if not place and search_storage is not None:
        return open_database(search_storage)
    other = Store.at(place) if place else store
    exists = other.is_local and Path(other.uri, journal_path(name)).is_file()
    return journal(other, journal_path(name)) if exists else None


def _missing(source: str, study: StudyDefinition, store: Store, search_storage: str | None) -> str:
    name, _, place = source.partition("@")
    where = masked(place or search_storage or store.uri)
    objectives = ", ".join(study.search.objectives)
    return (
        f"study {name} has no search by {objectives} in {where}; "
        f"name one that has run there, or write {name}@STORE"
    )
