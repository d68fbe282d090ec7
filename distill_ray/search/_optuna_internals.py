"""What we use of Optuna that is not part of its public interface. An upgrade of Optuna is checked
here: each function has a test that fails when Optuna has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import optuna
from optuna.storages import BaseStorage, _CachedStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial

CachedStorage = _CachedStorage
"""Keeps the trials of a database in memory, as Optuna does for addresses that it opens itself."""


def storage_of(study: optuna.Study) -> BaseStorage:
    """Where a study is kept."""
    return study._storage


def only_trials(study: optuna.Study, keep: Callable[[FrozenTrial], bool]) -> optuna.Study:
    """A view of a study for samplers, in which there are only the trials to `keep`."""
    view = copy.copy(study)

    def get_trials(*args: Any, **settings: Any) -> list[FrozenTrial]:
        return [trial for trial in study._get_trials(*args, **settings) if keep(trial)]

    view._get_trials = get_trials  # type: ignore[method-assign]
    return view


def backend_of(storage: BaseStorage) -> Any:
    """The file behind a journal; None for other storages."""
    return getattr(storage, "_backend", None)


def entries_read(storage: JournalStorage) -> int:
    """How many entries of its file a journal has read."""
    return storage._replay_result.log_number_read


def running_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """A trial that another driver left RUNNING, as one that can be changed."""
    return optuna.Trial(study, trial._trial_id)


def kept_trial(storage: JournalStorage, trial: optuna.Trial) -> FrozenTrial:
    """The trial itself that a journal keeps in memory, of which others get copies."""
    return storage.get_trial(trial._trial_id)


def keep_last_offset(backend: JournalFileBackend) -> tuple[int, int]:
    """Forget where each entry of a journal begins but for the last that was read: a kilobyte for
    each trial. Returns the number of entries and where the next one begins.
    """
    begins = backend._log_number_offset
    last = max(begins)
    backend._log_number_offset = {0: 0, last: begins[last]}
    return last, begins[last]
