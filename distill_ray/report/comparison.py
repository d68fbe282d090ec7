"""Is the difference real: the best student against every other contender, over seeds and over test
samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill_ray.metric import METRICS
from distill_ray.report.per_sample import LEVEL, Interval, bootstrap, sample_scores
from distill_ray.report.results import ENSEMBLE, Contender
from distill_ray.report.table import Row


@dataclass(frozen=True)
class Gain:
    """The difference in one metric, best student minus the other, in the metric's own unit.

    `over_seeds` says how much the difference depends on the seed, by the t-test that `test` names
    with p-value `p`; `over_samples` how much it depends on which samples the test split happens to
    hold (bootstrap, for metrics that are a mean over samples). Either is None where it cannot be
    had.
    """

    metric: str
    difference: float
    over_seeds: Interval | None
    p: float | None
    test: str
    over_samples: Interval | None

    @property
    def improves(self) -> bool:
        """Whether the best student has the better mean."""
        return self.difference > 0 if self.better_up else self.difference < 0

    @property
    def better_up(self) -> bool:
        """Whether a positive difference is a better one."""
        return METRICS[self.metric].better == "max"

    @property
    def evidence(self) -> Literal["clear", "partial", "none"]:
        """`clear` when every interval that there is lies on one side of zero, `partial` when only
        one does.
        """
        intervals = [over for over in (self.over_seeds, self.over_samples) if over is not None]
        sure = [interval.excludes_zero for interval in intervals]
        if not any(sure):
            return "none"
        return "clear" if all(sure) else "partial"


@dataclass(frozen=True)
class Comparison:
    """The best student against `other`: one gain per metric that both have. `same` says that both
    are the very same training runs: the search chose the other's settings.
    """

    other: Contender
    gains: dict[str, Gain]
    same: bool = False


def comparisons(rows: Sequence[Row], *, seed: int = 0) -> list[Comparison]:
    """The best found student against each other contender on the test split, in the order of the
    table.

    Empty before there is one: on the validation split, which selected it, the best student would
    look better than it is. Students of equal seeds are compared run by run (paired t-test), single
    teachers as independent runs (Welch), the ensemble as a fixed value (one-sample t-test). The
    bootstrap draws test samples, the same for all, from a generator with `seed`.
    """
    best = next(
        (row for row in rows if row.contender.found and row.runs and row.split == "test"), None
    )
    if best is None:
        return []
    others = [row for row in rows if row.runs and row is not best]
    intervals = _over_samples(best, others, seed)
    return [
        Comparison(
            row.contender,
            {
                name: _gain(name, best, row, intervals.get((row.contender.name, name)))
                for name in METRICS
                if name in row.cells
            },
            same=row.contender.job_ids == best.contender.job_ids and not row.contender.averaged,
        )
        for row in others
    ]


def _gain(metric: str, best: Row, other: Row, over_samples: Interval | None) -> Gain:
    difference = best.cells[metric].mean - other.cells[metric].mean
    interval, p, test = _over_seeds(metric, best, other)
    return Gain(metric, difference, interval, p, test, over_samples)


def _over_seeds(metric: str, best: Row, other: Row) -> tuple[Interval | None, float | None, str]:
    """Interval, p-value and name of the t-test that fits how the two were trained; none of them
    where there are too few runs or values that are not finite.
    """
    mine, theirs = (np.array([run[metric] for run in row.runs]) for row in (best, other))
    if not np.isfinite([*mine, *theirs]).all():
        return None, None, ""
    if other.contender.is_teacher and len(theirs) > 1:
        if len(mine) < 2:
            return None, None, ""
        return *_welch(mine, theirs), "Welch t-test"
    if other.contender.name == ENSEMBLE or len(theirs) == 1:
        differences, test = mine - theirs[0], "one-sample t-test"
    else:
        shared = sorted(set(best.contender.seeds) & set(other.contender.seeds))
        pairs = [
            (best.contender.seeds.index(seed), other.contender.seeds.index(seed)) for seed in shared
        ]
        differences, test = np.array([mine[i] - theirs[j] for i, j in pairs]), "paired t-test"
    if len(differences) < 2:
        return None, None, ""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return *_student(differences.mean(), error, len(differences) - 1), test


def _welch(
    mine: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[Interval | None, float | None]:
    """Welch's test of two independent samples of different variance."""
    shares = np.array([runs.var(ddof=1) / len(runs) for runs in (mine, theirs)])
    degrees = np.nan
    if shares.any():
        degrees = shares.sum() ** 2 / (shares**2 / [len(mine) - 1, len(theirs) - 1]).sum()
    return _student(mine.mean() - theirs.mean(), np.sqrt(shares.sum()), degrees)


def _student(
    difference: float, error: float, degrees: float
) -> tuple[Interval | None, float | None]:
    """Interval and two-sided p-value by Student's t; neither when there is no spread to judge by.

    Written with the distribution alone: importing `scipy.stats` takes longer than the rest of a
    comparison together.
    """
    from scipy.special import stdtr, stdtrit

    if not error > 0:
        return None, None
    half = error * stdtrit(degrees, (1 + LEVEL) / 2)
    p = 2 * stdtr(degrees, -abs(difference) / error)
    return Interval(float(difference - half), float(difference + half)), float(p)


def _over_samples(best: Row, others: Sequence[Row], seed: int) -> dict[tuple[str, str], Interval]:
    """Bootstrap intervals of the differences by (contender, metric)."""
    best_scores, labels = _mean_scores(best), best.predictions[0].labels
    differences: dict[tuple[str, str], NDArray[np.float64]] = {}
    for row in others:
        if np.array_equal(row.predictions[0].labels, labels):
            for metric, scores in _mean_scores(row).items():
                differences[row.contender.name, metric] = best_scores[metric] - scores
    return bootstrap(differences, seed)


def _mean_scores(row: Row) -> dict[str, NDArray[np.float64]]:
    """The scores of every sample, averaged over the runs: (N,) for each metric."""
    runs = [sample_scores(predictions) for predictions in row.predictions]
    return {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
