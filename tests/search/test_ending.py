"""When a search ends before it has had its trials, and what it begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from distill_ray.execution.messages import Finished
from distill_ray.job import Data, Split
from distill_ray.search.history import (
    SOURCE,
    STUDY_TIME,
    counted,
    is_over,
    open_history,
    why_over,
)
from distill_ray.search.samplers import make_sampler
from distill_ray.search.searcher import OptunaSearcher, queue_first
from distill_ray.search.warm_start import note_of_earlier_versions, warm_start
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

DATA = Data(
    name="digits", digest="d" * 32, location="digits", label="label", split=Split(validation=100)
)
SPACE = "search.space={temperature: {log: [1, 20]}, alpha: {uniform: [0.1, 1]}}"
BASE = (SPACE, "search.try_first=[]", "search.trials=30", "search.sampler=random")


class Trials:
    def costs(self, trial: optuna.Trial) -> dict[str, float]:
        return {}

    def begin(self, trial: optuna.Trial) -> Any:
        return dict(trial.params)

    def reject(self, trial: optuna.Trial, costs: Any) -> str:
        return ""

    def start(self, number: int) -> None: ...

    def epochs(self, number: int, records: Any) -> None: ...

    def end(self, *end: Any) -> None: ...


@pytest.fixture
def opened(tiny_study: Callable[..., StudyDefinition], tmp_path: Path) -> Callable[..., Any]:
    def at(*overrides: str) -> tuple[StudyDefinition, optuna.Study, Store]:
        study, store = tiny_study(*BASE, *overrides), Store.open(str(tmp_path / "store"))
        return study, open_history(study, DATA, ["a", "b"], store, None), store

    return at


def run(
    study: StudyDefinition, history: optuna.Study, values: list[float], **measured: float
) -> int:
    """Trials with these values, of two epochs each; how many the search asked for."""
    history.sampler = make_sampler(study.search, len(history.trials))
    searcher = OptunaSearcher(history, study.search, Trials())
    for number, value in enumerate(values):
        if searcher.next_task(str(number)) is None:
            return number
        epochs = [{"epoch": epoch, "val/nll": value} | measured for epoch in (1, 2)]
        end = Finished({"val/nll": value}, 1.0)
        searcher.on_epochs(str(number), epochs)
        searcher.on_end(str(number), end)
    return len(values)


def test_a_search_ends_when_nothing_improves(opened: Callable[..., Any]) -> None:
    study, history, _ = opened("search.stop={patience: 4}")
    values = [0.9, 0.8, 0.5, 0.6, 0.7, 0.5, 0.9, 0.1]
    assert run(study, history, values) == 7
    assert why_over(history, study.search) == "4 trials in a row have improved nothing"
    assert is_over(history, study.search)
    more, same, _ = opened("search.stop={patience: 5}")
    assert same.study_name == history.study_name and not is_over(same, more.search)


def test_a_budget_of_epochs_counts_pruned_trials_too(opened: Callable[..., Any]) -> None:
    study, history, _ = opened("search.budget={epochs: 7}")
    searcher = OptunaSearcher(history, study.search, Trials())
    searcher.next_task("pruned")
    searcher.on_epochs("pruned", [{"epoch": 1, "val/nll": 2.0}])
    searcher.on_end("pruned", None)
    assert history.trials[0].state == TrialState.PRUNED
    assert run(study, history, [0.5] * 9) == 3
    assert why_over(history, study.search) == "its budget of 7 epochs is spent"


def test_a_budget_of_energy_is_what_devices_have_counted(opened: Callable[..., Any]) -> None:
    study, history, _ = opened("search.budget={kwh: 0.5}")
    # A tenth of a kWh an epoch, two epochs a trial
    assert run(study, history, [0.5] * 9, **{"system/energy_joules": 3.6e5}) == 3
    assert why_over(history, study.search) == "its budget of 0.5 kWh is spent"
    assert is_over(history, study.search)


def test_a_budget_of_energy_that_nothing_counts_ends_the_search(opened: Callable[..., Any]) -> None:
    study, history, _ = opened("search.budget={kwh: 0.5}")
    assert run(study, history, [0.5] * 9) == 1
    assert "no device here counts its energy" in why_over(history, study.search)


def test_a_search_that_ended_for_the_time_of_its_study_is_over(opened: Callable[..., Any]) -> None:
    study, history, _ = opened("search.study_time_limit=1h")
    assert run(study, history, [0.5] * 2) == 2 and not is_over(history, study.search)
    history.set_user_attr(STUDY_TIME, 3600.0)
    assert "what is left of the study's time" in why_over(history, study.search)
    assert is_over(history, study.search) and run(study, history, [0.5]) == 0
    for more in ("search.study_time_limit=2h", "search.study_time_limit=null"):
        longer, same, _ = opened(more)
        assert same.study_name == history.study_name and not is_over(same, longer.search)


def test_the_first_trials_are_drawn_around_the_prior(opened: Callable[..., Any]) -> None:
    study, history, _ = opened("search.prior={temperature: 4, alpha: 0.9}")
    for _ in range(2):  # by a second driver too, each once
        queue_first(history, study.search)
    waiting = history.get_trials(states=(TrialState.WAITING,))
    fixed = [trial.system_attrs["fixed_params"] for trial in waiting]
    assert fixed[0] == {"temperature": 4, "alpha": 0.9} and len(fixed) == 3
    assert len({each["temperature"] for each in fixed}) == 3
    assert all(1.5 < each["temperature"] < 12 and 0.4 < each["alpha"] <= 1 for each in fixed)
    assert run(study, history, [0.5, 0.6, 0.7]) == 3
    assert [trial.params["temperature"] for trial in history.trials] == [
        each["temperature"] for each in fixed
    ]


def test_a_changed_space_starts_from_what_overlaps(opened: Callable[..., Any]) -> None:
    study, history, store = opened()
    run(study, history, [0.5, 0.6, 0.7])
    wider = "search.space.temperature={log: [1, 40]}"
    study, history, _ = opened(wider)
    place = (study, DATA, ["a", "b"], store, None)
    assert note_of_earlier_versions(*place) == (
        "search: starts from 3 trials of the study before its space was changed"
    )
    for _ in range(2):
        warm_start(history, study, DATA, store, None)
    assert [trial.user_attrs[SOURCE] for trial in history.trials] == ["tiny"] * 3
    assert counted(history) == [] and not is_over(history, study.search)
    other, fresh, _ = opened("student.epochs=3")
    warm_start(fresh, other, DATA, store, None)
    assert fresh.trials == [], "another student's trials cannot be compared"
    assert "begins anew" in note_of_earlier_versions(other, DATA, ["a", "b"], store, None)
