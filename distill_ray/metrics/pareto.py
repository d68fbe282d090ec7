"""The Pareto front of several objectives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def on_pareto_front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of points (N, objectives), where lower is better, those that no other one beats: nowhere
    worse and somewhere better. The result (N,) is a mask.
    """
    kept, front = np.zeros(len(costs), dtype=bool), np.empty((0, costs.shape[1]))
    for place in np.lexsort(costs.T[::-1]):  # in this order no point is beaten by a later one
        point = costs[place]
        if not ((front <= point).all(axis=1) & (front < point).any(axis=1)).any():
            kept[place], front = True, np.vstack([front, point])
    return kept
