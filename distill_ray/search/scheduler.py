"""Which trials go on after an epoch: ASHA as the study file has it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from distill_ray.execution.runner import Forgetting, InOrder
from distill_ray.search.history import counted
from distill_ray.study import Study


def make_scheduler(study: Study, history: optuna.Study) -> TrialScheduler:
    """ASHA as the study file has it, knowing the trials that an earlier driver ran; or one that
    stops nothing.
    """
    asha = study.search.scheduler
    if asha is None:
        return InOrder()  # type: ignore[no-untyped-call]
    (metric, mode), *_ = study.search.objectives.items()
    scheduler = _Asha(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=study.search.space.most_epochs(study.student),
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
    last = study.search.space.most_epochs(study.student)
    count = int(math.log(max(last / asha.grace_epochs, 1), asha.reduction)) + 2
    epochs = (math.ceil(asha.grace_epochs * asha.reduction**power) for power in range(count))
    return frozenset(epoch for epoch in epochs if epoch <= last)


class _Asha(Forgetting, ASHAScheduler):
    pass
