"""How much of a search its scheduler will probably leave out, from the rungs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from distill_ray.study import StudyDefinition

REPLAYS, MOST_TRIALS = 20, 100
"""Searches that are played through, and the most trials of one of them."""


def trained_share(study: StudyDefinition, trials: int, at_once: int) -> float | None:
    """The share of the epochs of `trials` trials, `at_once` side by side, that are trained where
    the search stops some early. None where that does not follow from the rungs: `median` and
    `paired` judge by the courses of trials.

    The scheduler of the study decides on trials that keep their ranks from epoch to epoch. Which
    do, it need not know: of those that reach a rung, about one in `reduction` goes on, and more
    while few have reached it.
    """
    stopping = study.search.scheduler
    if trials == 0 or stopping is None or stopping.reduction is None:
        return None
    import optuna

    from distill_ray.search.history import quiet
    from distill_ray.search.scheduler import make_scheduler, rungs

    quiet()
    last, rng = study.search.space.most_epochs(study.student), np.random.default_rng(0)
    history, stops, shares = optuna.create_study(), sorted(rungs(study)), []
    for _ in range(REPLAYS):
        values = rng.permutation(min(trials, MOST_TRIALS))
        scheduler = make_scheduler(study, history, int)
        spent = _epochs(scheduler, values.tolist(), stops, last, at_once, *study.search.objectives)
        shares.append(spent / (last * len(values)))
    return float(np.mean(shares))


def _epochs(
    scheduler: Any,
    values: Sequence[int],
    stops: Sequence[int],
    last: int,
    at_once: int,
    metric: str,
) -> int:
    """The epochs of a search whose trials have these values at all of their epochs."""

    def course(number: int) -> Iterator[int]:
        """The epochs that a trial trains from rung to rung."""
        trial: Any = SimpleNamespace(trial_id=str(number), is_finished=lambda: False)
        scheduler.on_trial_add(None, trial)
        begun = 0
        for epoch in stops:
            yield epoch - begun
            begun = epoch
            result = {"epoch": epoch, metric: float(values[number])}
            if scheduler.on_trial_result(None, trial, result) == scheduler.STOP:
                return
        yield last - begun

    waiting, running, spent = list(range(len(values))), list[Iterator[int]](), 0
    while waiting or running:
        while waiting and len(running) < max(1, at_once):
            running.append(course(waiting.pop(0)))
        for trial in list(running):
            epochs = next(trial, None)
            if epochs is None:
                running.remove(trial)
            else:
                spent += epochs
    return spent
