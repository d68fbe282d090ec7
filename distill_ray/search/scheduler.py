"""Which trials go on after an epoch: ASHA as the study file has it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from distill_ray.execution.tasks import Forgetting, InOrder
from distill_ray.search.history import counted
from distill_ray.study import Study
from distill_ray.study.sections import Asha


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
        grace_period=_first_rung(study, asha),
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
    last, first = study.search.space.most_epochs(study.student), _first_rung(study, asha)
    count = int(math.log(max(last / first, 1), asha.reduction)) + 2
    epochs = (math.ceil(first * asha.reduction**power) for power in range(count))
    return frozenset(epoch for epoch in epochs if epoch <= last)


def _first_rung(study: Study, asha: Asha) -> int:
    """The first epoch after which a trial may be stopped: by then it has left its warm-up, in which
    its metrics say nothing yet, for an epoch at least.
    """
    warmup = study.search.space.most_warmup_epochs(study.student)
    first = max(asha.grace_epochs, math.ceil(warmup) + 1) if warmup else asha.grace_epochs
    return min(first, study.search.space.most_epochs(study.student))


class _Asha(Forgetting, ASHAScheduler):
    pass
