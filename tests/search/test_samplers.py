"""Every sampler and scheduler: drawing, stopping, and going on after a driver that was killed, on
Optuna's real storage. What trials reach is computed, not trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from distill_ray.execution.messages import Finished
from distill_ray.job import Data, Split
from distill_ray.search.history import counted, is_over, open_history
from distill_ray.search.samplers import make_sampler
from distill_ray.search.scheduler import make_scheduler, rungs
from distill_ray.search.searcher import OptunaSearcher, settle_abandoned
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

DATA = Data(
    name="digits", digest="d" * 32, location="digits", label="label", split=Split(validation=100)
)
EPOCHS = 12
NUMBERS = "search.space={temperature: {log: [1, 20]}, alpha: {uniform: [0.1, 1]}}"
CHOICES = "search.space={augmentation: {choice: [identity, crop]}, epochs: {int: [3, 5]}}"
SEVERAL = ("search.objectives={val/nll: min, val/accuracy: max}", "search.scheduler=none")
SPACES = {"grid": (CHOICES,), "nsga2": (NUMBERS, *SEVERAL), "nsga3": (NUMBERS, *SEVERAL)}


class Trials:
    """Trials that nobody trains."""

    def costs(self, trial: optuna.Trial) -> dict[str, float]:
        return {}

    def begin(self, trial: optuna.Trial) -> Any:
        return dict(trial.params)

    def reject(self, trial: optuna.Trial, costs: Any) -> str:
        return ""

    def start(self, number: int) -> None: ...

    def epochs(self, number: int, records: Any) -> None: ...

    def end(self, *end: Any) -> None: ...


def loss(params: dict[str, Any]) -> float:
    """Lowest at temperature 4 and alpha 0.9."""
    return (
        0.1
        + abs(math.log(params.get("temperature", 4) / 4))
        + (0.9 - params.get("alpha", 0.9)) ** 2
    )


@pytest.fixture
def driver(tiny_study: Callable[..., StudyDefinition], tmp_path: Path) -> Callable[..., Any]:
    """Opens the history of a search, as each new driver does."""

    def begin(*overrides: str) -> tuple[StudyDefinition, optuna.Study, OptunaSearcher]:
        study = tiny_study(f"student.epochs={EPOCHS}", "search.try_first=[]", *overrides)
        history = open_history(study, DATA, ["a", "b"], Store.open(str(tmp_path / "store")), None)
        settle_abandoned(history)
        history.sampler = make_sampler(study.search, len(history.trials))
        return study, history, OptunaSearcher(history, study.search, Trials())

    return begin


@pytest.mark.parametrize(
    "sampler", ["auto", "tpe", "gp", "cmaes", "random", "grid", "qmc", "nsga2", "nsga3"]
)
def test_a_sampler_goes_on_where_a_killed_driver_was(driver: Any, sampler: str) -> None:
    trials = 6 if sampler == "grid" else 14
    overrides = [
        f"search.sampler={sampler}",
        f"search.trials={trials}",
        *SPACES.get(sampler, (NUMBERS,)),
    ]
    met = 0
    for killed_after in (5, trials):
        study, history, searcher = driver(*overrides)
        while met < killed_after and (task := searcher.next_task(str(met))) is not None:
            value = loss(task)
            end = Finished({"val/nll": value, "val/accuracy": 1 / value}, 1.0)
            searcher.on_epochs(str(met), [{"epoch": 1, "val/nll": value}])
            searcher.on_end(str(met), end)
            met += 1
        if met < trials:
            assert searcher.next_task("left running") is not None
    assert len(counted(history)) == trials and is_over(history, study.search)
    drawn = {tuple(sorted(trial.params.items())) for trial in counted(history)}
    twice = trials - len(drawn)
    assert twice == 0 if sampler == "grid" else twice <= 2, "the new driver began from the start"


def courses(trials: int) -> list[list[float]]:
    """Learning curves that share their noise from epoch to epoch, the later trials worse."""
    rng = np.random.default_rng(0)
    noise = 1 + 0.05 * rng.standard_normal(EPOCHS)
    curve = np.exp(-0.3 * np.arange(EPOCHS))
    return [list(noise * (0.1 + 0.05 * (number % 5) + curve)) for number in range(trials)]


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median", "paired", "none"])
def test_a_scheduler_stops_what_is_bad_though_the_driver_was_killed(
    driver: Any, scheduler: str
) -> None:
    study, history, searcher = driver(NUMBERS, "search.trials=40", f"search.scheduler={scheduler}")

    def run(name: str, course: list[float]) -> int:
        """A trial until it is stopped; the epochs that it had."""
        searcher.next_task(name)
        trial: Any = SimpleNamespace(trial_id=name)
        if made is not None:
            made.on_trial_add(None, trial)
        epochs: list[dict[str, float]] = []
        for epoch, value in enumerate(course, 1):
            epochs.append({"epoch": epoch, "val/nll": value})
            if made is not None and epoch in rungs(study) and epoch < EPOCHS:
                result = epochs[-1] | {"epochs": list(epochs)}
                if made.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                    searcher.on_epochs(name, epochs)
                    searcher.on_end(name, None)
                    return epoch
                searcher.on_epochs(name, epochs)
                epochs.clear()
        end = Finished({"val/nll": course[-1]}, 1.0)
        searcher.on_epochs(name, epochs)
        searcher.on_end(name, end)
        return len(course)

    np.random.seed(0)  # Hyperband draws the rungs of a trial
    made = make_scheduler(study, history, searcher.number_of)
    for number, course in enumerate(courses(20)):
        run(str(number), course)
    best = history.best_value
    assert best == min(course[-1] for course in courses(20)), "the best trial was stopped"
    study, history, searcher = driver(NUMBERS, "search.trials=40", f"search.scheduler={scheduler}")
    made = make_scheduler(study, history, searcher.number_of)
    bad = [value + 1 for value in courses(1)[0]]
    spent = [run(f"bad {number}", bad) for number in range(6)]
    if scheduler == "none":
        assert spent == [EPOCHS] * 6
        return
    assert min(spent) < EPOCHS, "the new driver's scheduler knows nothing of the past"
    stopped = [trial for trial in history.trials if trial.state == TrialState.PRUNED]
    assert len(stopped) >= spent.count(min(spent))
    assert run("good", [value * 0.9 for value in courses(1)[0]]) == EPOCHS


def test_paired_waits_for_what_catches_up(driver: Any) -> None:
    """A trial that begins late is not stopped where another one has made up for as much."""
    study, history, searcher = driver(NUMBERS, "search.trials=40", "search.scheduler=paired")
    made = make_scheduler(study, history, searcher.number_of)
    fast, slow = courses(1)[0], [1.0] * (EPOCHS - 3) + [0.5, 0.2, 0.1]
    for number, course in enumerate([fast] * 7 + [slow]):
        searcher.next_task(str(number))
        epochs = [{"epoch": epoch, "val/nll": value} for epoch, value in enumerate(course, 1)]
        end = Finished({"val/nll": course[-1]}, 1.0)
        searcher.on_epochs(str(number), epochs)
        searcher.on_end(str(number), end)
    for name, course, decision in (("late", slow, "CONTINUE"), ("lost", [3.0] * 9, "STOP")):
        searcher.next_task(name)
        epochs = [{"epoch": e, "val/nll": value} for e, value in enumerate(course[:9], 1)]
        trial: Any = SimpleNamespace(trial_id=name)
        result = epochs[-1] | {"epochs": epochs}
        assert made.on_trial_result(None, trial, result) == decision
