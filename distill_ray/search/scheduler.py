"""Tune's scheduler: stops trials early, and makes Tune drop those that have ended."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from distill_ray.search.history import counted
from distill_ray.study import Study
from distill_ray.study.parse_search import longest


def make_scheduler(study: Study, history: optuna.Study) -> TrialScheduler:
    """ASHA as the study file has it, knowing the trials that an earlier driver ran; or one that
    stops nothing.
    """
    asha = study.search.scheduler
    if asha is None:
        return _InOrder()  # type: ignore[no-untyped-call]
    (metric, mode), *_ = study.search.objectives.items()
    scheduler = _Asha(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=longest(study.student, study.search.space),
        grace_period=asha.grace_epochs,
        reduction_factor=asha.reduction,
        stop_last_trials=False,
    )
    nobody: Any = None  # the scheduler asks nothing of Tune while it is told of the past
    for past in counted(history):
        stand_in: Any = SimpleNamespace(trial_id=f"past-{past.number}")
        scheduler.on_trial_add(nobody, stand_in)
        for epoch, value in sorted(past.intermediate_values.items()):
            scheduler.on_trial_result(nobody, stand_in, {"epoch": epoch, metric: value})
    return scheduler


def rungs(study: Study) -> frozenset[int]:
    """The epochs after which ASHA decides whether a trial continues; none without it."""
    asha = study.search.scheduler
    if asha is None:
        return frozenset()
    last = longest(study.student, study.search.space)
    count = int(math.log(max(last / asha.grace_epochs, 1), asha.reduction)) + 2
    epochs = (math.ceil(asha.grace_epochs * asha.reduction**power) for power in range(count))
    return frozenset(epoch for epoch in epochs if epoch <= last)


class _Forgetting(TrialScheduler):
    """Tune asks its scheduler in every step which trial comes next, and would hand it every trial
    there has ever been.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        forget_ended(tune_controller)
        return super().choose_trial_to_run(tune_controller)


class _InOrder(_Forgetting, FIFOScheduler):
    pass


class _Asha(_Forgetting, ASHAScheduler):
    pass


def forget_ended(controller: Any) -> None:
    """Take the trials that have ended out of everything in which Tune's controller keeps them.

    Tune holds all trials until the search is over, ten kilobytes each, goes through all of them in
    every step, and writes all of them down at the end. What is wanted of them is in Optuna and in
    the store by then. Tune has no public way to say so: of its collections those that are not found
    under these names are left alone, and then memory grows as it would without this.
    """
    trials = controller.get_trials()
    ended = [trial for trial in trials if trial.is_finished()]
    if not ended:
        return
    trials[:] = [trial for trial in trials if trial not in ended]
    holder = getattr(controller, "_tune_controller", controller)
    for name in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        getattr(holder, name, set()).difference_update(ended)
    for trial in ended:
        getattr(holder, "_trial_metadata", {}).pop(trial.trial_id, None)
    _drop_orders_to_nobody(getattr(holder, "_actor_manager", None))


def _drop_orders_to_nobody(manager: Any) -> None:
    """Forget what processes were to do that Tune asked for and then did not need, since another one
    became free first.
    """
    orders = getattr(manager, "_pending_actors_to_enqueued_actor_tasks", {})
    expected = getattr(manager, "_pending_actors_to_attrs", orders)
    for actor in [actor for actor in orders if actor not in expected]:
        del orders[actor]
