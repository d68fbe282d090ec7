"""Which trials go on after an epoch: the schedulers that the study file can name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from distill_ray.search.history import counted
from distill_ray.search.paired import PairedPruner
from distill_ray.study import StudyDefinition
from distill_ray.study.sections import EarlyStopping

BRACKETS = 3
"""Sets of rungs of `hyperband`."""

CHECKS = 12
"""How often `median` and `paired` look at a trial: more often costs messages and finds little."""

STARTUP_TRIALS = 4
"""Trials that run to their end before `median` has something to compare with."""


def make_scheduler(
    study: StudyDefinition, history: optuna.Study, number_of: Callable[[str], int]
) -> TrialScheduler | None:
    """The scheduler of the study file, knowing the trials that an earlier driver ran; None where
    the file has none, and no trial is to be stopped.

    `number_of` tells the number in Optuna of one of Tune's trials.
    """
    stopping = study.search.scheduler
    if stopping is None:
        return None
    (metric, mode), *_ = study.search.objectives.items()
    first, last = _first_rung(study, stopping), study.search.space.most_epochs(study.student)
    if stopping.name == "median":
        median = MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=first)
        return _Pruning(history, median, metric, number_of)
    if stopping.name == "paired":
        return _Pruning(history, PairedPruner(first, last), metric, number_of)
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=last,
        grace_period=first,
        reduction_factor=stopping.reduction or 3,
        brackets=BRACKETS if stopping.name == "hyperband" else 1,
        stop_last_trials=False,
    )
    nobody: Any = None  # the scheduler asks nothing of Tune while it is told of the past
    for past in counted(history):
        stand_in: Any = SimpleNamespace(trial_id=f"past-{past.number}")
        scheduler.on_trial_add(nobody, stand_in)
        for epoch, value in sorted(past.intermediate_values.items()):
            scheduler.on_trial_result(nobody, stand_in, {"epoch": epoch, metric: value})
    return scheduler


def rungs(study: StudyDefinition) -> frozenset[int]:
    """The epochs after which it is decided whether a trial continues; none without a scheduler."""
    stopping = study.search.scheduler
    if stopping is None:
        return frozenset()
    last, first = study.search.space.most_epochs(study.student), _first_rung(study, stopping)
    if stopping.reduction is None:
        return frozenset(range(first, last + 1, max(1, last // CHECKS)))
    count = int(math.log(max(last / first, 1), stopping.reduction)) + 2
    epochs = (math.ceil(first * stopping.reduction**power) for power in range(count))
    return frozenset(epoch for epoch in epochs if epoch <= last)


def _first_rung(study: StudyDefinition, stopping: EarlyStopping) -> int:
    """The first epoch after which a trial may be stopped: by then it has left its warm-up, in which
    its metrics say nothing yet, for an epoch at least.
    """
    warmup, grace = study.search.space.most_warmup_epochs(study.student), stopping.grace_epochs
    first = max(grace, math.ceil(warmup) + 1) if warmup else grace
    return min(first, study.search.space.most_epochs(study.student))


class _Pruning(FIFOScheduler):
    """Asks one of Optuna's pruners, for which the history has what was before."""

    def __init__(
        self,
        history: optuna.Study,
        pruner: BasePruner,
        metric: str,
        number_of: Callable[[str], int],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._history = history
        self._pruner = pruner
        self._metric = metric
        self._number_of = number_of

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        records = result.get("epochs", ())
        if not records:
            return TrialScheduler.CONTINUE
        # The history gets these epochs after this decision
        number = self._number_of(trial.trial_id)
        known = copy.copy(self._history.get_trials(deepcopy=False)[number])
        known.intermediate_values = known.intermediate_values | {
            int(record["epoch"]): record[self._metric] for record in records
        }
        prune = self._pruner.prune(self._history, known)
        return TrialScheduler.STOP if prune else TrialScheduler.CONTINUE
