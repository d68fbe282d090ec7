"""How long a network takes, on a machine that does other things too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from distill_ray.cost import timing
from distill_ray.cost.timing import FEWEST, WARM_UP, time_runs


class Machine:
    """A clock that a run moves on by a millisecond, and by ten when others have the processor."""

    def __init__(self, disturbed: Iterator[bool]) -> None:
        self._disturbed = disturbed
        self.wall = self.worked = 0.0
        self.interruptions = 0

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.worked

    def run(self) -> None:
        self.worked += 0.001
        self.wall += 0.001
        if next(self._disturbed):
            self.interruptions += 1
            self.wall += 0.009


def timed(
    disturbed: Iterator[bool], monkeypatch: pytest.MonkeyPatch, threads: int = 1
) -> timing.Timing:
    machine = Machine(itertools.chain(itertools.repeat(False, WARM_UP), disturbed))
    monkeypatch.setattr(timing, "time", machine)
    monkeypatch.setattr(timing, "_interruptions", lambda threads: machine.interruptions)
    return time_runs(machine.run, threads)


def test_runs_that_others_disturb_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    result = timed(itertools.cycle([True, True, False]), monkeypatch)
    assert result.median == pytest.approx(1) and result.percentile_95 == pytest.approx(1)
    assert result.disturbed == pytest.approx(2 / 3, abs=0.05) and result.runs >= FEWEST


def test_on_an_idle_machine_all_runs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    result = timed(itertools.repeat(False), monkeypatch)
    assert result.median == pytest.approx(1)
    assert (result.disturbed, result.runs) == (0, pytest.approx(1000, abs=2))


@pytest.mark.parametrize(("threads", "milliseconds"), [(1, 1), (2, 10)])
def test_where_none_is_left_alone_all_count(
    threads: int, milliseconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one thread the time that the processor worked is known."""
    result = timed(itertools.repeat(True), monkeypatch, threads)
    assert result.median == pytest.approx(milliseconds)
    assert result.disturbed == 1 and result.runs >= FEWEST
