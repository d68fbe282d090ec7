"""Ranks of several contenders over repeated comparisons, and which of them differ beyond chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Confidence level of the critical difference."""


@dataclass(frozen=True)
class Ranking:
    """Contenders by their mean rank, 1 being the best, over `blocks` comparisons of all.

    `p` is that of Friedman's test against the hypothesis that all are equal, and two contenders
    differ beyond chance where their mean ranks are more than `critical` apart (Nemenyi). Source:
    Demsar 2006, "Statistical comparisons of classifiers over multiple data sets".
    """

    ranks: Mapping[str, float]
    blocks: int
    p: float
    critical: float

    @property
    def ties(self) -> list[tuple[str, ...]]:
        """The largest groups of neighbours in rank that cannot be told apart, of two at least."""
        names = list(self.ranks)
        groups: list[tuple[str, ...]] = []
        for first in range(len(names)):
            limit = self.ranks[names[first]] + self.critical
            group = tuple(name for name in names[first:] if self.ranks[name] <= limit)
            if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
                groups.append(group)
        return groups


def rank(scores: Mapping[str, Sequence[float]], better: str) -> Ranking:
    """The ranking of at least three contenders by their scores, one for each block, in the same
    order of blocks; `better` is `min` or `max`. Equal scores share their mean rank.

    Raises ValueError for fewer contenders, fewer than two blocks, numbers of blocks that differ and
    NaN.
    """
    from scipy import stats

    table = np.array(list(scores.values()), np.float64)
    if table.ndim != 2 or table.shape[0] < 3 or table.shape[1] < 2 or np.isnan(table).any():
        raise ValueError(
            "scores: expected as many numbers, at least 2, of each of at least 3 contenders, "
            f"found the shape {table.shape}"
        )
    count, blocks = table.shape
    ranks = stats.rankdata(-table if better == "max" else table, axis=0).mean(axis=1)
    alike = (table == table[:1]).all()
    p = 1.0 if alike else float(stats.friedmanchisquare(*table).pvalue)
    quantile = float(stats.studentized_range.ppf(LEVEL, count, np.inf)) / np.sqrt(2)
    order = np.argsort(ranks, kind="stable")
    names = list(scores)
    return Ranking(
        {names[place]: float(ranks[place]) for place in order},
        blocks,
        p,
        float(quantile * np.sqrt(count * (count + 1) / (6 * blocks))),
    )


def explained(groups: Mapping[str, Sequence[float]]) -> float | None:
    """The share of the variation of scores that lies between groups rather than within them: the
    correlation ratio of the ranks of all scores, from 0 to 1, less what chance explains (Kelley
    1935); None where every group has a single score or all are equal.
    """
    from scipy import stats

    scores = np.concatenate([np.asarray(group, np.float64) for group in groups.values()])
    ranks = stats.rankdata(scores)
    total, within, start = ((ranks - ranks.mean()) ** 2).sum(), 0.0, 0
    for group in groups.values():
        own = ranks[start : start + len(group)]
        within += ((own - own.mean()) ** 2).sum()
        start += len(group)
    degrees = len(scores) - len(groups)
    if degrees < 1 or total == 0:
        return None
    return max(0.0, float(1 - within / degrees * (len(scores) - 1) / total))
