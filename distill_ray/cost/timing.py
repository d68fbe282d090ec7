"""How long a network takes to answer, timed while nothing else of this package runs here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

WARM_UP, FEWEST, MOST = 5, 30, 2000
"""Runs before those that are timed, and how many of those there are at least and at most."""

TIMED_S = 1.0
"""Seconds of timing, where the fewest and the most runs allow."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run: the median and the 95th percentile of `runs` runs."""

    median: float
    percentile_95: float
    runs: int


def time_runs(run: Callable[[], object]) -> Timing:
    """Time a function. Two processes on a machine never time at once: the second waits."""
    with filelock.FileLock(Path(tempfile.gettempdir(), "distill-ray-timing.lock")):
        for _ in range(WARM_UP):
            run()
        seconds: list[float] = []
        ends = time.perf_counter() + TIMED_S
        while len(seconds) < FEWEST or (len(seconds) < MOST and time.perf_counter() < ends):
            begun = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begun)
    milliseconds = 1000 * np.array(seconds)
    median, late = np.quantile(milliseconds, [0.5, 0.95])
    return Timing(float(median), float(late), len(seconds))
