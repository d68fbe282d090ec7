"""Optuna's side of the search: what to try next, and the truth about every trial in Optuna's own
storage.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import Trial, TrialState

from distill_ray.errors import Failure, RunError
from distill_ray.events import JobState
from distill_ray.execution.messages import Finished, Record, Task
from distill_ray.execution.task_source import TaskSource
from distill_ray.search._optuna_internals import running_trial
from distill_ray.search.costs import constraints, exceeded
from distill_ray.search.deadline import Deadline
from distill_ray.search.history import (
    ABANDONED,
    COSTS,
    EPOCHS,
    JOULES,
    SOURCE,
    begun,
    infeasible_left,
    job_state,
    used,
    why_over,
)
from distill_ray.search.journal import share_distributions, together
from distill_ray.search.prior import prior_trials
from distill_ray.study import Search

OUT_OF_TIME = "the time limit of the search was reached"
"""Why a trial failed that was under way at that moment."""

INSTEAD_OF = "instead_of"
"""The user attribute of a trial that is tried again: the number of the one that a dead driver left
behind.
"""


class Trials(Protocol):
    """The trials as the study knows them, by their numbers."""

    def costs(self, trial: Trial) -> Mapping[str, float]:
        """What a trial that has drawn its settings costs, as `cost/<name>`."""

    def begin(self, trial: Trial) -> Task:
        """The task of a trial that has drawn its settings."""

    def reject(self, trial: Trial, costs: Mapping[str, float]) -> str:
        """A trial costs more than the search allows; the reason in words."""

    def start(self, number: int) -> None:
        """A process begins the trial, for the first time or again."""

    def epochs(self, number: int, records: Sequence[Record]) -> None:
        """A trial has finished some epochs."""

    def end(
        self, number: int, state: TrialState, reason: str, metrics: Mapping[str, float]
    ) -> None:
        """A trial has come to its end."""


class OptunaSearcher(TaskSource):
    """Hands Tune the trials that Optuna draws, and tells Optuna how each of them ended, within the
    limits of the study file.

    A trial that Tune's scheduler stopped is PRUNED with its last value; one that failed is FAIL
    with its reason. Each epoch is an intermediate value. Nothing is pickled: Optuna's storage is
    the only state. (Ray's own `OptunaSearch` says COMPLETE of trials that were stopped, and loses
    the last value.)

    Args:
        study: the history, with its sampler.
        search: the limits and objectives.
        trials: makes the tasks of the trials, and hears of them.
        deadline: when the search ends.
    """

    def __init__(
        self,
        study: optuna.Study,
        search: Search,
        trials: Trials,
        deadline: Deadline | None = None,
    ) -> None:
        self._study = study
        self._search = search
        self._trials = trials
        self._deadline = deadline or Deadline()
        self._running: dict[str, Trial] = {}
        self._last_epoch: dict[str, int] = {}
        self._joules: dict[str, float] = {}
        self._costs: dict[str, Mapping[str, float]] = {}
        self._spaces: list[dict[str, BaseDistribution]] = []
        past = used(study, search)
        self._begun = len(past)
        self._failed = sum(trial.state == TrialState.FAIL for trial in past)
        self._infeasible_left = infeasible_left(study, search)

    def number_of(self, trial_id: str) -> int:
        """The number in Optuna of a trial that runs."""
        return self._running[trial_id].number

    def next_task(self, trial_id: str) -> Task | None:
        """The next trial that keeps within the limits. Those that do not are told to Optuna, and
        cost nothing.
        """
        while not self._is_over():
            with self._database_errors():
                queue_next_choice(self._study, self._search)
                trial = self._study.ask()
                with together(self._study):
                    self._search.space.suggest(trial)
                    costs = self._trials.costs(trial)
                    self._note_costs(trial, costs)
                    if not exceeded(costs, self._search.limits):
                        self._running[trial_id], self._costs[trial_id] = trial, costs
                        self._begun += 1
                        return self._trials.begin(trial)
                    trial.set_user_attr("reason", self._trials.reject(trial, costs))
                    self._study.tell(trial, state=TrialState.PRUNED)
                self._infeasible_left -= 1
                self._begun += self._search.chosen_sampler == "grid"
        return None

    def _is_over(self) -> bool:
        return (
            self.error is not None
            or self._begun >= self._search.trials
            or self._failed >= self._search.max_failed_trials
            or self._infeasible_left <= 0
            or why_over(self._study, self._search) != ""
            or time.monotonic() > self._deadline.last_begin()
        )

    def _note_costs(self, trial: Trial, costs: Mapping[str, float]) -> None:
        if costs:
            trial.set_user_attr(COSTS, dict(costs))
        for name, value in constraints(costs, self._search.limits).items():
            trial.set_constraint(name, value)

    def on_start(self, trial_id: str) -> None:
        self._trials.start(self._running[trial_id].number)

    def on_epochs(self, trial_id: str, records: Sequence[Record]) -> None:
        """Report the epochs of a trial, each of them once though a retried trial repeats some."""
        trial = self._running[trial_id]
        self._trials.epochs(trial.number, records)
        for record in records:  # those that a retried trial repeats use energy again
            if (joules := record.get("system/energy_joules")) is not None:
                self._joules[trial_id] = self._joules.get(trial_id, 0.0) + joules
        objective, *others = self._search.objectives
        with self._database_errors(), together(self._study):
            for record in records:
                epoch = int(record["epoch"])
                if epoch > self._last_epoch.get(trial_id, 0):
                    self._last_epoch[trial_id] = epoch
                    if not others:  # Optuna takes no intermediate values of several
                        trial.report(record[objective], epoch)

    def on_end(self, trial_id: str, end: Finished | Failure | None) -> None:
        """Tell Optuna how a trial ended."""
        epoch = self._last_epoch.pop(trial_id, 0)
        trial, joules = self._running.pop(trial_id), self._joules.pop(trial_id, None)
        if self._search.budget is not None:
            with self._database_errors():
                trial.set_user_attr(EPOCHS, epoch)
                if joules is not None:
                    trial.set_user_attr(JOULES, joules)
        costs = self._costs.pop(trial_id)
        match end:
            case Failure(fault="damaged" | "store"):
                # No fault of the trial. It stays RUNNING; the next driver tries it again.
                self.error = self.error or end.error()
            case Failure(reason=reason):
                self._settle(trial, TrialState.FAIL, reason)
            case Finished():
                self._finish(trial, Finished({**end.metrics, **costs}, end.seconds))
            case None if self._deadline.passed():
                self._settle(trial, TrialState.FAIL, OUT_OF_TIME)
            case None:
                self._settle(trial, TrialState.PRUNED, f"stopped after epoch {epoch}")

    def settle_stopped(self) -> None:
        """Tell Optuna of the trials that Tune has stopped without a word, as it does when the time
        limit is reached.
        """
        for trial_id in list(self._running):
            self.on_end(trial_id, Failure("job", OUT_OF_TIME))

    def _finish(self, trial: Trial, end: Finished) -> None:
        values = [end.metrics[name] for name in self._search.objectives]
        undefined = [
            name
            for name, value in zip(self._search.objectives, values, strict=True)
            if math.isnan(value)
        ]
        if undefined:
            reason = f"{' and '.join(undefined)} is not a number"
            self._settle(trial, TrialState.FAIL, reason, end)
        else:
            self._settle(trial, TrialState.COMPLETE, "", end, values)

    def _settle(
        self,
        trial: Trial,
        state: TrialState,
        reason: str,
        end: Finished | None = None,
        values: list[float] | None = None,
    ) -> None:
        self._failed += state == TrialState.FAIL
        with self._database_errors():
            with together(self._study):
                if end is not None:
                    trial.set_user_attr("seconds", end.seconds)
                if reason:
                    trial.set_user_attr("reason", reason)
                self._study.tell(trial, values, state=state)
            share_distributions(self._study, trial, self._spaces)
            metrics = {} if end is None else end.metrics
            self._trials.end(trial.number, state, reason, metrics)

    @contextlib.contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Ends the search when its database is away for good; an error that Tune sees would count
        as the trial's own.
        """
        try:
            yield
        except RunError as error:
            self.error = error


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
        running_trial(study, trial).set_user_attr("reason", ABANDONED)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(abandoned)


def queue_first(study: optuna.Study, search: Search) -> None:
    """Queue what the study file wants tried first, each once, however often this is called by the
    driver that holds the study.
    """
    own = [trial for trial in study.get_trials(deepcopy=False) if SOURCE not in trial.user_attrs]
    known = [trial.system_attrs.get("fixed_params", trial.params) for trial in own]
    for settings in (*search.try_first, *prior_trials(search)):
        if dict(settings) not in known:
            study.enqueue_trial(dict(settings))
            known.append(dict(settings))


def queue_next_choice(study: optuna.Study, search: Search) -> None:
    """Where each choice of a setting has a search of its own: queue a trial of the choice that has
    begun fewest, unless something is queued already.
    """
    if search.for_each is None or study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return
    drawn = Counter(
        trial.params.get(search.for_each)
        for trial in begun(study)
        if job_state(trial) != JobState.INFEASIBLE
    )
    fewest = min(search.each, key=lambda choice: drawn[choice])
    study.enqueue_trial({search.for_each: fewest})
