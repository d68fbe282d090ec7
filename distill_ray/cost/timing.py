"""How long a network takes to answer, timed while nothing else of this package runs here."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

WARM_UP, FEWEST, MOST = 5, 30, 2000
"""Runs before those that are timed, and how many of those there are at least and at most."""

TIMED_S, LONGEST_S = 1.0, 5.0
"""Seconds of timing, where the fewest and the most runs allow; on a busy machine until the fewest
were left alone, up to the second.
"""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run: the median and the 95th percentile of `runs` runs. Those in which
    the machine did something else meanwhile do not count; `disturbed` is their share of all. Where
    hardly any was left alone, it is 1, and all of them count, with the time that the processor
    worked for them where that was one thread.
    """

    median: float
    percentile_95: float
    runs: int
    disturbed: float = 0.0


def time_runs(run: Callable[[], object], threads: int = 1) -> Timing:
    """Time a function that works in so many threads. Two processes on a machine never time at once:
    the second waits.
    """
    with filelock.FileLock(Path(tempfile.gettempdir(), "distill-ray-timing.lock")):
        for _ in range(WARM_UP):
            run()
        alone: list[float] = []
        disturbed: list[float] = []
        started = time.perf_counter()
        while _goes_on(len(alone), len(alone) + len(disturbed), time.perf_counter() - started):
            before, worked, begun = _interruptions(threads), time.thread_time(), time.perf_counter()
            run()
            seconds, worked = time.perf_counter() - begun, time.thread_time() - worked
            if _interruptions(threads) == before:
                alone.append(seconds)
            else:
                disturbed.append(worked if threads == 1 else seconds)
    share = len(disturbed) / (len(alone) + len(disturbed))
    if len(alone) < FEWEST:
        alone, share = alone + disturbed, 1.0
    median, late = np.quantile(1000 * np.array(alone), [0.5, 0.95])
    return Timing(float(median), float(late), len(alone), share)


def _goes_on(alone: int, runs: int, seconds: float) -> bool:
    if alone < FEWEST:
        return seconds < LONGEST_S or runs < FEWEST
    return runs < MOST and seconds < TIMED_S


def _interruptions(threads: int) -> int:
    """How often the system has taken the processor from this thread, or, where it has several,
    from this process, to give it to others.
    """
    of_thread = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # Linux has it
    return resource.getrusage(of_thread if threads == 1 else resource.RUSAGE_SELF).ru_nivcsw
