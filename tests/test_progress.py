from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from distill_ray.events import JobState, Measurement, StudyJob
from distill_ray.job import Data, Job, Recipe
from distill_ray.methods import EnsembleKD
from distill_ray.progress import Progress


@pytest.fixture
def run_of(small_data: Data) -> Callable[[int], StudyJob]:
    def make(number: int) -> StudyJob:
        recipe = Recipe(model="wrn-10-1", method=EnsembleKD(), epochs=8)
        job = Job(recipe=recipe, data=small_data, seed=number, teachers=("a", "b"))
        return StudyJob(f"trial/{number}", "search", "trial", job, number, {"temperature": 4.0})

    return make


def tell(progress: Progress, run_of: Callable[[int], StudyJob]) -> None:
    """Three of four trials: one from the store, one that finishes, one pruned; a fourth begins."""
    progress.stage_started("search", 4)
    progress.past(run_of(0), JobState.FINISHED, list, {"val/nll": 0.5, "val/accuracy": 0.8}, "")
    for number in (1, 2, 3):
        progress.started(run_of(number))
    progress.epoch(run_of(3), {"epoch": 3, "val/nll": 0.7, "val/accuracy": 0.75})
    progress.ended(run_of(1), JobState.FINISHED, {"val/nll": 0.25, "val/accuracy": 0.9}, "")
    progress.ended(run_of(2), JobState.PRUNED, {"val/nll": 2.0}, "stopped after epoch 4")


def test_on_a_terminal_it_shows_what_runs_and_the_best_so_far(
    run_of: Callable[[int], StudyJob],
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with Progress(console, {"val/nll": "min"}) as progress:
        tell(progress, run_of)
        console.print(progress._view())
        progress.stage_ended("search")
    shown = screen.getvalue()
    assert "search 3/4 done, 1 running, 1 pruned" in shown
    assert "left   best val/nll 0.2500" in shown
    assert "epoch 3/8" in shown and "nll 0.7000  accuracy 0.7500" in shown
    assert "2 runs, 1 found in the store, 1 pruned, best val/nll 0.2500 (trial 001" in shown


def test_jobs_beside_a_stage_are_shown_and_counted_in_their_own(
    run_of: Callable[[int], StudyJob],
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    first, second = (replace(run_of(number), stage="confirm") for number in (1, 2))
    with Progress(console, {"val/nll": "min"}) as progress:
        progress.stage_started("search", 1)
        for run in (run_of(0), first, second):
            progress.started(run)
        for run in (first, run_of(0)):
            progress.ended(run, JobState.FINISHED, {"val/nll": 0.5}, "")
        progress.stage_ended("search")
        progress.stage_started("confirm", 2)
        progress.past(first, JobState.FINISHED, list, {"val/nll": 0.5}, "")
        console.print(progress._view())
    shown = screen.getvalue()
    assert "1 run, 1 beside it, best val/nll 0.5000 (trial 000" in shown
    assert "confirm 1/2 done, 1 running" in shown


def test_elsewhere_it_writes_a_line_for_each_beginning_and_end(
    run_of: Callable[[int], StudyJob],
) -> None:
    file = io.StringIO()
    with Progress(Console(file=file, width=200), {"val/nll": "min"}) as progress:
        tell(progress, run_of)
        progress.stage_ended("search")
        progress.stage_started("screen", 1)
        progress.measured(Measurement("screen/x", "mixup", {}, {"screen/t-stddev": 0.004}, False))
        progress.stage_ended("screen")
    lines = file.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines[:3]] == [
        f"[search] trial {number:03}" for number in (1, 2, 3)
    ]
    assert lines[3].startswith("[search 2/4] trial 001 · ") and lines[3].endswith(
        "finished nll 0.2500  accuracy 0.9000"
    )
    assert "pruned: stopped after epoch 4 nll 2.0000" in lines[4]
    assert lines[5].startswith("search ")
    assert lines[6] == "[screen 1/1] mixup T. stddev 0.004000"
    assert "lowest T. stddev 0.004000 (mixup)" in lines[7]
