"""What Optuna gets to know of a trial, without the trials: Tune's calls made by hand, on Optuna's
real storage.
"""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.air.execution._internal import TrackedActor
from ray.train._internal.storage import StorageContext
from ray.tune.error import TuneError
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.search import Searcher, SearchGenerator

from distill_ray.errors import Failure, StoreError
from distill_ray.execution._ray_internals import forget_ended
from distill_ray.execution.messages import Finished, Record
from distill_ray.job import Data, Split
from distill_ray.search.deadline import Deadline
from distill_ray.search.history import (
    ABANDONED,
    SOURCE,
    best_recipes,
    counted,
    is_over,
    open_history,
)
from distill_ray.search.samplers import make_sampler
from distill_ray.search.scheduler import make_scheduler, rungs
from distill_ray.search.searcher import (
    INSTEAD_OF,
    OptunaSearcher,
    queue_first,
    settle_abandoned,
)
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

DATA = Data(
    name="digits", digest="d" * 32, location="digits", label="label", split=Split(validation=100)
)


def of_nobody(trial_id: str) -> int:
    raise AssertionError(f"nobody asks for the number of {trial_id}")


@pytest.fixture
def history(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> Callable[..., tuple[StudyDefinition, optuna.Study]]:
    def opened(*overrides: str) -> tuple[StudyDefinition, optuna.Study]:
        study = tiny_study(*overrides)
        past = open_history(study, DATA, ["a", "b"], Store.open(str(tmp_path / "store")), None)
        queue_first(past, study.search)
        return study, past

    return opened


def epochs(values: dict[int, float]) -> list[Record]:
    """Epochs with these losses."""
    return [{"epoch": epoch, "val/nll": value} for epoch, value in values.items()]


def ends(
    searcher: OptunaSearcher,
    name: str,
    values: dict[int, float],
    end: Finished | Failure | None = None,
) -> None:
    """A trial tells of its last epochs and ends; without an `end` Tune's scheduler stops it."""
    searcher.on_epochs(name, epochs(values))
    searcher.on_end(name, end)


def finished(loss: float, seconds: float = 1.5) -> Finished:
    return Finished({"val/nll": loss}, seconds)


class Heard:
    """The trials as the searcher tells of them: how each of them ended."""

    def __init__(self) -> None:
        self.ends: list[Any] = []

    def costs(self, trial: optuna.Trial) -> dict[str, float]:
        return {}

    def begin(self, trial: optuna.Trial) -> Any:
        return {"number": trial.number, **trial.params}

    def start(self, number: int) -> None:
        pass

    def epochs(self, number: int, records: Any) -> None:
        pass

    def end(self, *end: Any) -> None:
        self.ends.append(end)


def searcher(
    study: StudyDefinition, history: optuna.Study, deadline: Deadline | None = None
) -> tuple[OptunaSearcher, list[Any]]:
    heard = Heard()
    history.sampler = make_sampler(study.search, 0)
    return OptunaSearcher(history, study.search, heard, deadline), heard.ends


def drawn(searcher: OptunaSearcher, name: str) -> dict[str, Any]:
    """What the next trial has drawn, with its number."""
    task: Any = searcher.next_task(name)
    return dict(task)


def test_what_is_tried_first_comes_first(history: Any) -> None:
    study, past = history()
    made, _ = searcher(study, past)
    assert drawn(made, "x") == {
        "number": 0,
        "temperature": 4,
        "alpha": 0.9,
        "augmentation": "identity",
    }


def test_states_are_true(history: Any) -> None:
    study, past = history("search.trials=5")
    made, ended = searcher(study, past)
    for name in ("complete", "pruned", "failed", "died", "reused"):
        assert made.next_task(name) is not None
    made.on_epochs("complete", epochs({1: 0.9}))
    ends(made, "complete", {2: 0.6, 3: 0.5}, finished(0.4))
    made.on_epochs("pruned", epochs({1: 2.0}))
    ends(made, "pruned", {2: 2.1})
    ends(made, "failed", {}, Failure("job", "the loss was nan in epoch 1"))
    made.on_end("died", Failure("machine", "its process died; tried 2 times"))
    ends(made, "reused", {1: 0.8, 2: 0.7}, finished(0.7))
    complete, pruned, failed, died, reused = past.trials
    assert (complete.state, complete.value, complete.intermediate_values) == (
        TrialState.COMPLETE,
        0.4,
        {1: 0.9, 2: 0.6, 3: 0.5},
    )
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {1: 2.0, 2: 2.1})
    assert pruned.user_attrs["reason"] == "stopped after epoch 2"
    assert (failed.state, failed.user_attrs["reason"]) == (
        TrialState.FAIL,
        "the loss was nan in epoch 1",
    )
    assert (died.state, died.user_attrs["reason"]) == (
        TrialState.FAIL,
        "its process died; tried 2 times",
    )
    assert reused.state == TrialState.COMPLETE
    assert [number for number, *_ in ended] == [0, 1, 2, 3, 4]
    assert is_over(past, study.search)
    assert made.next_task("more") is None


def test_a_retried_trial_repeats_its_epochs_without_harm(history: Any) -> None:
    study, past = history()
    made, _ = searcher(study, past)
    made.next_task("x")
    for values in ({1: 0.9}, {1: 0.9, 2: 0.8}):
        made.on_epochs("x", epochs(values))
    assert past.trials[0].intermediate_values == {1: 0.9, 2: 0.8}


def test_too_many_failures_end_the_search(history: Any) -> None:
    study, past = history("search.trials=10", "search.max_failed_trials=2")
    made, _ = searcher(study, past)
    for name in "ab":
        made.next_task(name)
        ends(made, name, {}, Failure("job", "no"))
    assert made.next_task("c") is None
    assert is_over(past, study.search)


def test_a_time_limit_fails_what_was_running(history: Any) -> None:
    study, past = history("search.time_limit=1s")
    deadline = Deadline(time.monotonic() + 3600)
    made, _ = searcher(study, past, deadline)
    made.next_task("x")
    deadline.time_limit = time.monotonic() - 1
    ends(made, "x", {1: 1.0})
    assert past.trials[0].state == TrialState.FAIL
    assert past.trials[0].user_attrs["reason"] == "the time limit of the search was reached"
    assert made.next_task("y") is None


def test_an_objective_that_is_not_a_number_fails_its_trial(history: Any) -> None:
    study, past = history()
    made, ended = searcher(study, past)
    made.next_task("x")
    ends(made, "x", {1: 0.5}, finished(math.nan))
    assert past.trials[0].state == TrialState.FAIL
    assert ended[0][1:3] == (TrialState.FAIL, "val/nll is not a number")
    assert settle_abandoned(past) == 0


def test_what_is_tried_first_is_tried_though_an_earlier_study_did(history: Any) -> None:
    study, past = history()
    (first,) = study.search.try_first
    trials = past.get_trials(states=(TrialState.WAITING,))
    assert [trial.system_attrs["fixed_params"] for trial in trials] == [first]
    distributions = {"temperature": optuna.distributions.FloatDistribution(1, 20, log=True)}
    warm = optuna.create_study(storage=past._storage, study_name="warm", direction="minimize")
    known = optuna.trial.create_trial(
        params={"temperature": 4.0},
        distributions=distributions,
        value=0.1,
        user_attrs={SOURCE: "earlier"},
    )
    warm.add_trial(known)
    only = replace(study.search, try_first=({"temperature": 4.0},))
    for _ in range(2):
        queue_first(warm, only)
    assert len(warm.get_trials(states=(TrialState.WAITING,))) == 1


def test_what_a_dead_driver_left_is_settled_and_tried_again(history: Any) -> None:
    study, past = history()
    made, _ = searcher(study, past)
    first, second = drawn(made, "x"), drawn(made, "y")
    assert settle_abandoned(past) == 2
    assert [(trial.state, trial.user_attrs["reason"]) for trial in past.trials[:2]] == [
        (TrialState.FAIL, ABANDONED)
    ] * 2
    assert counted(past) == []
    queue_first(past, study.search)
    again, _ = searcher(study, past)
    assert [{**drawn(again, name), "number": 0} for name in "xy"] == [
        {**each, "number": 0} for each in (first, second)
    ]
    assert settle_abandoned(past) == 2


def test_several_objectives_have_a_front(history: Any) -> None:
    study, past = history(
        "search.objectives={val/accuracy: max, val/nll: min}",
        "search.scheduler=none",
        "confirm.top=3",
    )
    made, _ = searcher(study, past)
    for name, accuracy, loss in (("a", 0.9, 0.5), ("b", 0.8, 0.4), ("c", 0.7, 0.6)):
        made.next_task(name)
        made.on_epochs(name, epochs({1: loss}))
        end = Finished({"val/accuracy": accuracy, "val/nll": loss}, 1.0)
        ends(made, name, {2: loss}, end)
    assert [trial.values for trial in past.trials] == [[0.9, 0.5], [0.8, 0.4], [0.7, 0.6]]
    found = best_recipes(study, past, 3)
    assert [recipe.method.temperature for recipe in found] == [
        past.trials[number].params["temperature"] for number in (0, 1)
    ]


def test_another_space_is_another_search(history: Any) -> None:
    _, first = history()
    _, second = history("search.space.alpha={uniform: [0.2, 0.9]}")
    _, third = history("search.trials=9", "search.time_limit=1h")
    assert first.study_name != second.study_name
    assert first.study_name == third.study_name


def test_a_full_store_ends_the_search_and_blames_no_trial(history: Any) -> None:
    study, past = history()
    made, ended = searcher(study, past)
    made.next_task("x")
    ends(made, "x", {}, Failure("store", "store /full: no space left"))
    assert isinstance(made.error, StoreError)
    assert str(made.error) == "store /full: no space left"
    assert ended == []
    assert settle_abandoned(past) == 1
    assert counted(past) == []


def test_a_driver_that_dies_before_a_trial_has_drawn_loses_none_that_was_to_be_tried(
    history: Any,
) -> None:
    """Nor one that dies while it settles what an earlier one had left."""
    study, past = history()
    wanted = [dict(each) for each in study.search.try_first]
    past.ask()
    past.enqueue_trial(wanted[0], user_attrs={INSTEAD_OF: 0})
    assert settle_abandoned(past) == 1
    queue_first(past, study.search)
    waiting = [
        trial.system_attrs["fixed_params"]
        for trial in past.trials
        if trial.state == TrialState.WAITING
    ]
    assert sorted(map(str, waiting)) == sorted(map(str, wanted))
    past.ask()
    assert settle_abandoned(past) == 1
    made, _ = searcher(study, past)
    assert drawn(made, "x") == {"number": past.trials[-1].number, **wanted[0]}


def test_a_trial_takes_few_writes_however_many_epochs_it_has(
    history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, past = history()
    made, _ = searcher(study, past)
    writes: list[int] = []
    append = JournalFileBackend.append_logs

    def counting(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        writes.append(len(logs))
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counting)
    made.next_task("x")
    made.on_epochs("x", epochs({epoch: 1 / epoch for epoch in range(1, 51)}))
    ends(made, "x", {epoch: 1 / epoch for epoch in range(51, 101)}, finished(0.1))
    assert len(writes) == 5
    (trial,) = history()[1].trials
    assert trial.intermediate_values == {epoch: 1 / epoch for epoch in range(1, 101)}
    assert (trial.params, trial.value, trial.state) == (
        past.trials[0].params,
        0.1,
        TrialState.COMPLETE,
    )


def test_asha_is_asked_after_its_rungs(history: Any) -> None:
    study, past = history(
        "student.epochs=30", "search.scheduler={name: asha, grace_epochs: 2, reduction: 3}"
    )
    assert rungs(study) == {2, 6, 18}
    assert {
        milestone for milestone, _ in make_scheduler(study, past, of_nobody)._brackets[0]._rungs
    } == rungs(study)
    assert rungs(history("search.scheduler=none")[0]) == frozenset()


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["student.warmup_epochs=0"], 2),
        (["student.warmup_epochs=1"], 2),
        (["student.warmup_epochs=5"], 6),
        (["student.warmup_epochs=4.5"], 6),
        (["search.space={warmup_epochs: {uniform: [0, 7]}}", "search.try_first=[]"], 8),
    ],
)
def test_no_trial_is_stopped_in_its_warm_up(history: Any, overrides: list[str], first: int) -> None:
    study, past = history(
        "student.epochs=30", "search.scheduler={name: asha, grace_epochs: 2}", *overrides
    )
    assert min(rungs(study)) == first
    scheduler = make_scheduler(study, past, of_nobody)
    assert {milestone for milestone, _ in scheduler._brackets[0]._rungs} == rungs(study)


@pytest.mark.parametrize("scheduler", ["none", "{name: asha, grace_epochs: 1, reduction: 2}"])
def test_tune_lets_go_of_trials_that_have_ended(
    history: Any, tmp_path: Path, scheduler: str
) -> None:
    """Tune's own controller, without processes: a collection of a newer Tune in which trials stay
    is noticed here.
    """

    class Silent(Searcher):
        def on_trial_complete(self, *arguments: Any, **named: Any) -> None:
            pass

    study, past = history(f"search.scheduler={scheduler}")
    storage = StorageContext(str(tmp_path), experiment_dir_name="search")
    controller = TuneController(
        search_alg=SearchGenerator(Silent()),
        scheduler=make_scheduler(study, past, of_nobody),
        storage=storage,
    )

    def begin() -> Trial:
        trial = Trial(
            "nothing",
            stub=True,
            storage=storage,
            placement_group_factory=PlacementGroupFactory([{"CPU": 1}]),
        )
        trial.placement_group_factory = trial._default_placement_group_factory
        controller.add_trial(trial)
        controller._set_trial_status(trial, Trial.RUNNING)
        return trial

    running, finished, failed = begin(), begin(), begin()
    for trial in (finished, failed):
        trial.run_metadata.last_result = {"epoch": 1, "val/nll": 1.0}
    controller.stop_trial(finished)
    controller._schedule_trial_stop(failed, exception=TuneError("its process died"))
    assert len(controller._get_trial_checkpoints()) == 3
    processes = controller._actor_manager
    unwanted = TrackedActor(1)
    processes._pending_actors_to_attrs[unwanted] = object, {}, running.placement_group_factory
    processes.schedule_actor_task(unwanted, "stop")  # waits for its beginning
    del processes._pending_actors_to_attrs[unwanted]
    forget_ended(controller._wrapped())
    controller._maybe_add_actors()  # the rest of a step
    ended = [weakref.ref(finished), weakref.ref(failed)]
    del trial, finished, failed
    gc.collect()
    assert [each() for each in ended] == [None, None]
    assert not processes._pending_actors_to_enqueued_actor_tasks
    assert controller.get_trials() == [running] and set(controller._trial_metadata) == {
        running.trial_id
    }


FAIR = (
    "search={for_each: method, trials: 12, scheduler: none, try_first: [{method: nkd}], "
    "space: {method: {choice: [kd, dkd, nkd]}, temperature: {log: [1, 20]}, "
    "alpha: {uniform: [0, 1]}}}",
)


def test_each_method_has_a_search_of_its_own_with_as_many_trials(history: Any) -> None:
    """Failed trials count too, queued ones come first, and a new driver goes on."""
    study, past = history(*FAIR)
    methods = []
    for number in range(12):
        if number in (5, 8):  # another driver
            settle_abandoned(past)
        asking, _ = searcher(study, past)
        methods.append(drawn(asking, str(number))["method"])
        end = Failure("job", "no") if number == 3 else finished(0.5 + number / 10)
        ends(asking, str(number), {1: 0.5}, end)
    assert methods[0] == "nkd"
    assert {name: methods.count(name) for name in ("kd", "dkd", "nkd")} == dict.fromkeys(
        ("kd", "dkd", "nkd"), 4
    )
    assert all(set(methods[n : n + 3]) == {"kd", "dkd", "nkd"} for n in range(0, 12, 3))
    recipes = best_recipes(study, past, study.confirm.top)
    assert study.confirm.top == 3
    assert {recipe.method.name for recipe in recipes} == {"kd", "dkd", "nkd"}
    assert recipes[0].method.name == "nkd"


def test_the_sampler_of_a_method_does_not_see_the_trials_of_others(history: Any) -> None:
    """With as many trials that are good at high temperatures for nkd, and at low ones for kd, what
    each is given next differs.
    """
    study, past = history(*FAIR, "search.trials=120")
    for number in range(80):
        asking, _ = searcher(study, past)
        past.sampler = make_sampler(study.search, number)
        trial = drawn(asking, str(number))
        wanted = {"kd": math.log(2), "dkd": math.log(6), "nkd": math.log(15)}[trial["method"]]
        loss = abs(math.log(trial["temperature"]) - wanted)
        ends(asking, str(number), {1: loss}, finished(loss))
    late = [trial for trial in past.get_trials()[40:] if trial.params["method"] != "dkd"]
    means = {
        name: np.mean([t.params["temperature"] for t in late if t.params["method"] == name])
        for name in ("kd", "nkd")
    }
    assert means["kd"] < 5 < means["nkd"]


def test_what_is_confirmed_is_spread_along_the_front(history: Any) -> None:
    """From five on the front: the best, the middle one and the cheapest, not the three best."""
    study, past = history(
        "search.objectives={val/nll: min, cost/parameters: min}", "search.scheduler=none"
    )
    front = {4.0: (0.9, 10), 5.0: (0.5, 1000), 6.0: (0.7, 100), 7.0: (0.8, 50), 8.0: (0.6, 400)}
    points = {**front, 9.0: (0.65, 500)}
    for temperature, values in points.items():
        past.add_trial(
            optuna.trial.create_trial(
                params={"temperature": temperature, "alpha": 0.5, "augmentation": "identity"},
                distributions={
                    "temperature": optuna.distributions.FloatDistribution(1, 20, log=True),
                    "alpha": optuna.distributions.FloatDistribution(0.1, 1),
                    "augmentation": optuna.distributions.CategoricalDistribution(
                        ["identity", "crop"]
                    ),
                },
                values=values,
            )
        )

    def confirmed(top: int) -> list[Any]:
        recipes = best_recipes(study, past, top)
        return [recipe.method.temperature for recipe in recipes]

    assert confirmed(1) == [5.0]
    assert confirmed(2) == [5.0, 4.0]
    assert confirmed(3) == [5.0, 6.0, 4.0]
    assert confirmed(5) == confirmed(9) == [5.0, 8.0, 6.0, 7.0, 4.0]
