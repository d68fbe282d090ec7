"""What is known of good settings beforehand: the first trials are drawn around it."""

from __future__ import annotations

import math

import numpy as np

from distill_ray.study import Choice, Dimension, Search
from distill_ray.study.space import Label

WIDTH = 0.15
"""Standard deviation around the prior, as a share of the range."""

SHARE, FEWEST, MOST = 8, 2, 6
"""One trial in so many is drawn around the prior, within these bounds."""


def prior_trials(search: Search) -> list[dict[str, Label]]:
    """The configurations to try first for the prior of the study file, itself first; none without
    one. They are the same whenever this is called.

    A sampler that learns takes them for what they are, trials, so that a prior that is wrong costs
    no more than these (Mallik et al. 2023, "PriorBand", mix random and prior samples likewise).
    """
    if not search.prior:
        return []
    rng = np.random.default_rng(search.seed)
    count = min(MOST, max(FEWEST, search.trials // SHARE))
    trials = [dict(search.prior)]
    for _ in range(count - 1):
        trials.append({n: _near(search.space[n], at, rng) for n, at in search.prior.items()})
    return trials


def _near(dimension: Dimension, at: Label, rng: np.random.Generator) -> Label:
    """A value near `at`; of a choice the same in one of two cases."""
    if isinstance(dimension, Choice):
        return at if rng.random() < 0.5 else dimension.labels[rng.integers(len(dimension.labels))]
    scale, back = (math.log, math.exp) if dimension.log else (float, float)
    low, high = scale(dimension.low), scale(dimension.high)
    drawn = back(min(max(rng.normal(scale(float(at)), WIDTH * (high - low)), low), high))
    if dimension.step:
        drawn = dimension.low + round((drawn - dimension.low) / dimension.step) * dimension.step
    drawn = min(max(drawn, dimension.low), dimension.high)
    return round(drawn) if dimension.whole else float(drawn)
