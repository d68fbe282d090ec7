"""The end of a search that leaves time for the confirmations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from distill_ray.job import Data, Split
from distill_ray.records import TEACHER_IMAGES, last_epoch_path
from distill_ray.resolve import trial_run
from distill_ray.search import deadline
from distill_ray.search.deadline import StudyDeadline
from distill_ray.search.history import open_history
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

DATA = Data(
    name="digits", digest="d" * 32, location="digits", label="label", split=Split(validation=100)
)
BEGUN, LIMIT, EPOCHS = 1000.0, 3600.0, 10


class Searching:
    """A search at a time that the test sets, with one trial after another."""

    def __init__(self, study: StudyDefinition, folder: Path, places: int) -> None:
        self.now = BEGUN + 60.0
        self.study, self.store = study, Store.open(str(folder))
        self.history = open_history(study, DATA, ["a", "b"], self.store, None)
        self.end = StudyDeadline(
            study,
            DATA,
            ["a", "b"],
            self.store,
            self.history,
            begun=BEGUN,
            time_limit=math.inf,
            places=places,
        )

    def monotonic(self) -> float:
        return self.now

    def trial(
        self, seconds: float, *, answered: int = 0, epochs: int = EPOCHS, value: float = 0.5
    ) -> None:
        """One whose epochs take so long each, in which teachers answer for images."""
        trial = self.history.ask()
        drawn = self.study.search.space.suggest(trial)
        job = trial_run(self.study, DATA, ["a", "b"], trial.number, drawn).job
        self.end.begin(trial.number)
        self.now += seconds * epochs
        self.end.epochs(trial.number, [{"epoch": 1 + n, "seconds": seconds} for n in range(epochs)])
        counts = json.dumps({TEACHER_IMAGES: answered})
        self.store.write(last_epoch_path(job.id), counts.encode())
        complete = epochs == EPOCHS
        state = TrialState.COMPLETE if complete else TrialState.PRUNED
        self.history.tell(trial, value if complete else None, state)
        self.end.end(trial.number, job, complete=complete)


@pytest.fixture
def searching(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Searching]:
    def of(*overrides: str, places: int = 1) -> Searching:
        study = tiny_study(
            f"search.study_time_limit={LIMIT:.0f}s",
            "search.scheduler=none",
            "search.space={temperature: {log: [1, 20]}}",
            "search.try_first=[]",
            f"student.epochs={EPOCHS}",
            "confirm={seeds: 2, baselines: [scratch, default-kd]}",
            *overrides,
        )
        made = Searching(study, tmp_path / "store", places)
        monkeypatch.setattr(deadline, "time", made)
        return made

    return of


def test_confirmations_get_what_they_need(searching: Callable[..., Searching]) -> None:
    """Two seeds of three contenders, ten epochs each; 5 % is kept for the report."""
    search = searching()
    assert search.end.at() == math.inf
    search.trial(2.0, epochs=3)  # stopped early: nothing to confirm yet
    assert search.end.at() == math.inf
    search.trial(2.0)
    assert search.end.reserve == pytest.approx(6 * EPOCHS * 2)
    assert search.end.at() == pytest.approx(BEGUN + 0.95 * LIMIT - 120)
    # None begins that would probably not come to its end
    assert search.end.last_begin() == pytest.approx(search.end.at() - 20)
    search.now = search.end.at() - 1
    assert not search.end.passed()
    search.now += 2
    assert search.end.passed()


def test_a_machine_that_becomes_slower_ends_the_search_sooner(
    searching: Callable[..., Searching],
) -> None:
    search = searching(places=2)
    search.trial(2.0)
    assert search.end.reserve == pytest.approx(6 * EPOCHS * 2 / 2)
    search.trial(8.0)
    search.trial(8.0)
    assert search.end.reserve == pytest.approx(6 * EPOCHS * 8 / 2)


def test_teachers_answer_anew_for_the_seeds_of_confirmations(
    searching: Callable[..., Searching],
) -> None:
    """The first trial made them answer, in 3 seconds an epoch; the others read that. Of the
    confirmations, which have seeds of their own, those of one seed share too.
    """
    search = searching("search.space={lr: {log: [0.01, 0.1]}}")
    search.trial(5.0, answered=1000 * EPOCHS)
    search.trial(2.0)
    students, answering = 6 * EPOCHS * 2.0, 2 * EPOCHS * 3.0
    assert search.end.reserve == pytest.approx(students + answering)
    live = searching("search.space={lr: {log: [0.01, 0.1]}}", "resources.teacher_logits.mode=live")
    live.trial(5.0, answered=1000 * EPOCHS, value=0.4)
    live.trial(2.0, value=0.4)
    assert live.end.reserve == pytest.approx(students + 2 * answering)


def test_a_network_takes_its_own_time(searching: Callable[..., Searching]) -> None:
    """What no trial had counts as the slowest."""
    search = searching()
    search.trial(2.0)
    pace = deadline.Pace([deadline._Training("slow", 10, 90.0, 0), *search.end._trainings])
    job = trial_run(search.study, DATA, ["a", "b"], 0, search.history.trials[0].params).job
    assert pace.seconds(job, answering=True) == pytest.approx(EPOCHS * 2)
    other = replace(job, recipe=replace(job.recipe, model="another"))
    assert pace.seconds(other, answering=True) == pytest.approx(EPOCHS * 9)
