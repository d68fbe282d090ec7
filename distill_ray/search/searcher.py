"""Optuna's side of the search: what to try next, and the truth about every trial in Optuna's own
storage.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from distill_ray.errors import DamagedError, RunError, StoreError
from distill_ray.search.history import ABANDONED, SOURCE, counted
from distill_ray.search.journal import share_distributions, together
from distill_ray.study import Search

OUT_OF_TIME = "the time limit of the search was reached"
"""Why a trial failed that was under way at that moment."""

INSTEAD_OF = "instead_of"
"""The user attribute of a trial that is tried again: the number of the one that a dead driver left
behind.
"""


class OptunaSearcher(OptunaSearch):
    """Ray's `OptunaSearch` on a study's search space, with true trial states and with the limits of
    the study file.

    It differs from its base in what it reports to Optuna:

    - a trial that the scheduler stopped is PRUNED with its last value, not COMPLETE; one that
      failed is FAIL with its reason;
    - every epoch is an intermediate value, the last one included;
    - nothing is pickled: Optuna's storage is the only state.

    `configure` makes the Tune configuration of a trial from what it has drawn; `on_end` gets its
    number, its state, the reason for anything but success, and the metrics of its result.
    `deadline` is by the monotonic clock. `store_error` says what ended the search: a store that
    cannot be written, or a database that stays down.
    """

    def __init__(
        self,
        study: optuna.Study,
        search: Search,
        configure: Callable[[Trial], dict[str, Any]],
        on_end: Callable[[int, TrialState, str, dict[str, float]], None],
        deadline: float = math.inf,
    ) -> None:
        names, modes = list(search.objectives), list(search.objectives.values())
        super().__init__(
            space=search.space.suggest,
            metric=names if len(names) > 1 else names[0],
            mode=modes if len(modes) > 1 else modes[0],
            sampler=study.sampler,
            study_name=study.study_name,
            storage=study._storage,
        )
        self._study = study
        self._search = search
        self._configure = configure
        self._on_end = on_end
        self._deadline = deadline
        self.store_error: RunError | None = None
        self._reported: dict[str, int] = {}
        self._spaces: list[dict[str, BaseDistribution]] = []
        past = counted(study)
        self._begun = len(past)
        self._failed = sum(trial.state == TrialState.FAIL for trial in past)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial, or Tune's signal that there are no more."""
        spent = self._begun >= self._search.trials or self._failed >= self._search.max_failed_trials
        finished = cast("dict[str, Any]", Searcher.FINISHED)
        if spent or self.store_error or time.monotonic() > self._deadline:
            return finished
        with self._database_errors():
            self._ot_trials[trial_id] = self._study.ask()
            self._begun += 1
            with together(self._study):
                super().suggest(trial_id)  # lets the trial draw from the space
                return self._configure(self._ot_trials[trial_id])
        return finished

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the values of its epochs, once though a retried trial repeats them. Optuna takes
        none for several objectives.
        """
        if not isinstance(self.metric, str):
            return
        with self._database_errors(), together(self._study):
            for record in result.get("epochs", ()):
                if record["epoch"] > self._reported.get(trial_id, 0):
                    self._reported[trial_id] = record["epoch"]
                    self._ot_trials[trial_id].report(record[self.metric], record["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended, and why."""
        result = result or {}
        outcome = {
            name.removeprefix("outcome/"): value
            for name, value in result.items()
            if name.startswith("outcome/")
        }
        self.on_trial_result(trial_id, result)
        self._reported.pop(trial_id, None)
        trial = self._ot_trials.pop(trial_id)
        if "store_error" in result:
            # Left RUNNING: no fault of the trial, which the next driver finds abandoned and tries
            # again.
            self.store_error = (DamagedError if result.get("damaged") else StoreError)(
                result["store_error"]
            )
            return
        with self._database_errors():
            self._settle(trial, result, outcome, error)

    def settle_stopped(self) -> None:
        """Tell Optuna of the trials that Tune has stopped without a word, as it does when the time
        limit is reached.
        """
        for trial_id in list(self._ot_trials):
            with self._database_errors():
                self._settle(self._ot_trials.pop(trial_id), {"failure": OUT_OF_TIME}, {}, False)

    def _settle(
        self, trial: Trial, result: dict[str, Any], outcome: dict[str, float], error: bool
    ) -> None:
        values, state, reason = None, TrialState.FAIL, result.get("failure", "")
        if error or not result:
            reason = "its process died, and so did those of its retries"
        elif outcome:
            values = [outcome[name] for name in self._search.objectives]
            undefined = [
                name
                for name, value in zip(self._search.objectives, values, strict=True)
                if math.isnan(value)
            ]
            if undefined:
                values, reason = None, f"{' and '.join(undefined)} is not a number"
            else:
                state = TrialState.COMPLETE
        elif not reason and time.monotonic() > self._deadline:
            reason = OUT_OF_TIME
        elif not reason:
            state, reason = TrialState.PRUNED, f"stopped after epoch {result['epoch']}"
        self._failed += state == TrialState.FAIL
        with together(self._study):
            if outcome:
                trial.set_user_attr("seconds", result["seconds_total"])
            if reason:
                trial.set_user_attr("reason", reason)
            self._study.tell(trial, values, state=state)
        share_distributions(self._study, trial, self._spaces)
        self._on_end(trial.number, state, reason, outcome)

    @contextlib.contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Ends the search when its database is away for good; an error that Tune sees would count
        as the trial's own.
        """
        try:
            yield
        except RunError as error:
            self.store_error = error

    def save(self, checkpoint_path: str) -> None:
        """Nothing to write: Optuna's storage has it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def settle_abandoned(study: optuna.Study) -> int:
    """Mark the trials that a dead driver left RUNNING as failed, and queue their settings to be
    tried again; their number.

    Only for the one driver that holds the study, which may die here as well: each trial is queued
    again once.
    """
    abandoned = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    queued = {trial.user_attrs.get(INSTEAD_OF) for trial in study.get_trials(deepcopy=False)}
    for trial in abandoned:
        # What was to be tried and had not been drawn yet is among the settings too.
        settings = trial.system_attrs.get("fixed_params", {}) | trial.params
        if settings and trial.number not in queued:
            study.enqueue_trial(settings, user_attrs={INSTEAD_OF: trial.number})
        Trial(study, trial._trial_id).set_user_attr("reason", ABANDONED)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(abandoned)


def queue_first(study: optuna.Study, search: Search) -> None:
    """Queue what the study file wants tried first, each once, however often this is called by the
    driver that holds the study.
    """
    own = [trial for trial in study.get_trials(deepcopy=False) if SOURCE not in trial.user_attrs]
    known = [trial.system_attrs.get("fixed_params", trial.params) for trial in own]
    for settings in search.try_first:
        if dict(settings) not in known:
            study.enqueue_trial(dict(settings))
            known.append(dict(settings))


def make_sampler(search: Search, past_trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of the study file. After a restart it goes on with other random numbers, not with
    the first ones again.
    """
    seed = search.seed + past_trials
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    startup = min(10, max(4, search.trials // 4))
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=startup, multivariate=True, group=True
    )
