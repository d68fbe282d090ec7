"""The `paired` scheduler: a trial against the best one, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

FEWEST_FINISHED = 8
"""Trials that must have come to their end before others are stopped."""

WINDOW = 3
"""Epochs over which a difference is averaged."""


class PairedPruner(BasePruner):
    """Stops a trial that is further behind the best finished one than any finished trial has made
    up for from the same epoch on.

    All trials see the same images in the same order, so much of what moves one from epoch to epoch
    moves the others too: differences at the same epoch have less noise than ranks. What lies ahead
    is judged by what happened, not by a line through the last epochs, since learning rates fall at
    the end and curves cross. Metrics that are above 0 and minimised are compared by their ratio.
    (Optuna's `WilcoxonPruner`, the nearest relative, takes the order of the pairs for meaningless,
    as for folds and seeds; it stops what would catch up.)

    Args:
        first: the first epoch after which a trial may be stopped.
        last: the last epoch of every trial.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether `trial`, with its values up to now, is to be stopped."""
        epoch = max(trial.intermediate_values, default=0)
        if not self._first <= epoch < self._last:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        finished = [
            other.intermediate_values
            for other in complete
            if self._last in other.intermediate_values
        ]
        if len(finished) < FEWEST_FINISHED:
            return False
        minimised = study.direction == StudyDirection.MINIMIZE
        courses = [trial.intermediate_values, *finished]
        in_logs = minimised and all(value > 0 for course in courses for value in course.values())

        def behind(course: Mapping[int, float], until: int, begin: int) -> float:
            """How far a course is behind the incumbent, on average from `begin` to `until`."""
            gaps = []
            for epoch in range(begin, until + 1):
                if epoch in course and epoch in incumbent:
                    pair = course[epoch], incumbent[epoch]
                    one, best = map(math.log, pair) if in_logs else pair
                    gaps.append(one - best if minimised else best - one)
            return sum(gaps) / len(gaps) if gaps else 0.0

        incumbent = min(finished, key=lambda course: course[self._last] * (1 if minimised else -1))
        begin = max(1, epoch - WINDOW + 1)
        made_up = [
            behind(course, epoch, begin) - behind(course, self._last, self._last)
            for course in finished
        ]
        gap = behind(trial.intermediate_values, epoch, begin)
        return math.isnan(gap) or gap > max(0.0, *made_up)
