"""A warm start, on Optuna's own journals: what is taken from earlier searches, that it counts for
nothing, what it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from distill_ray.errors import RequestError
from distill_ray.resolve import data_of
from distill_ray.search.history import (
    begun,
    best_trials,
    counted,
    is_over,
    known_from,
    open_history,
)
from distill_ray.search.samplers import make_sampler
from distill_ray.search.warm_start import earlier_trials, overlap, warm_start
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study

SPACE = (
    "temperature: {log: [1, 20]}, alpha: {uniform: [0.1, 1.0]}, "
    "augmentation: {choice: [identity, crop]}"
)
Make = Callable[..., StudyDefinition]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def study(
        name: str,
        *,
        space: str = SPACE,
        objectives: str = "{val/nll: min}",
        warm: str = "[]",
        trials: int = 3,
    ) -> StudyDefinition:
        file = tmp_path / f"{name}.yaml"
        file.write_text(
            f"name: {name}\nteachers: {{model: wrn-10-1}}\n"
            "student: {model: wrn-10-1, epochs: 8}\n"
            f"search:\n  trials: {trials}\n  scheduler: none\n  objectives: {objectives}\n"
            f"  warm_start: {warm}\n  space: {{{space}}}\n"
        )
        return load_study(file)

    return study


TEACHERS = [f"teacher-{number}" for number in range(3)]


def history_of(study: StudyDefinition, store: Store, storage: str | None = None) -> optuna.Study:
    return open_history(study, data_of(study), TEACHERS, store, storage)


def searched(
    study: StudyDefinition, store: Store, *trials: dict[str, object], storage: str | None = None
) -> optuna.Study:
    """The study's search after these trials, with values 0.1, 0.2, ... of every objective, and
    after one that was pruned.
    """
    history = history_of(study, store, storage)
    for number, settings in enumerate([*trials, trials[0]]):
        history.enqueue_trial(settings)
        trial = history.ask()
        study.search.space.suggest(trial)
        pruned = number == len(trials)
        values = None if pruned else [0.1 + number / 10] * len(study.search.objectives)
        history.tell(trial, values, state=TrialState.PRUNED if pruned else TrialState.COMPLETE)
    return history


GOOD = {"temperature": 3.0, "alpha": 0.5, "augmentation": "crop"}
OTHER = {"temperature": 15.0, "alpha": 0.2, "augmentation": "identity"}


def test_earlier_trials_are_told_once_and_count_for_nothing(make: Make, store: Store) -> None:
    searched(make("old"), store, GOOD, OTHER)
    study = make("new", warm="[old]")
    history = history_of(study, store)
    for _ in range(2):
        warm_start(history, study, data_of(study), store, None)
        told = history.get_trials(deepcopy=False)
        assert [trial.params for trial in told] == [GOOD, OTHER]
        assert [trial.values for trial in told] == [[0.1], [0.2]]
        assert {trial.user_attrs["source"] for trial in told} == {"old"}
    assert known_from(history) == {"old": 2}
    assert (begun(history), counted(history), best_trials(history, study.search)) == ([], [], [])
    for _ in range(3):
        assert not is_over(history, study.search)
        trial = history.ask()
        study.search.space.suggest(trial)
        history.tell(trial, 0.9)
    assert is_over(history, study.search)
    assert [trial.number for trial in best_trials(history, study.search)] == [2, 3, 4]


def test_what_was_told_is_not_passed_on(make: Make, store: Store) -> None:
    searched(make("old"), store, GOOD)
    middle = make("middle", warm="[old]")
    warm_start(history_of(middle, store), middle, data_of(middle), store, None)
    searched(middle, store, OTHER)
    assert [
        trial.params for trial in earlier_trials(make("new", warm="[middle]"), store, None)
    ] == [OTHER]


def test_the_sampler_goes_where_earlier_trials_were_good(make: Make, store: Store) -> None:
    space = "alpha: {uniform: [0.1, 1.0]}"
    history = history_of(old := make("old", space=space, trials=40), store)
    distribution = optuna.distributions.FloatDistribution(0.1, 1.0)
    for number in range(30):
        alpha = 0.1 + 0.03 * number
        trial = optuna.trial.create_trial(
            params={"alpha": alpha}, distributions={"alpha": distribution}, value=abs(alpha - 0.8)
        )
        history.add_trial(trial)

    def drawn(study: StudyDefinition) -> list[float]:
        searching = history_of(study, store)
        warm_start(searching, study, data_of(study), store, None)
        searching.sampler = make_sampler(study.search, 0)
        return [float(study.search.space.suggest(searching.ask())["alpha"]) for _ in range(12)]

    assert old.search.trials == 40
    cold, warm = drawn(make("cold", space=space)), drawn(make("warm", space=space, warm="[old]"))
    assert sum(abs(alpha - 0.8) for alpha in warm) < sum(abs(alpha - 0.8) for alpha in cold)


def test_only_what_overlaps_and_fits(make: Make) -> None:
    space = (
        "method: {choice: [kd, supervised]}, temperature: {log: [1, 5], when: {method: kd}}, "
        "lr: {log: [0.01, 0.3]}, batch_size: {int: [16, 64], step: 16}"
    )
    study = make("new", space=space)
    fixed = {"augmentation": study.student.augmentation, "schedule": study.student.schedule}

    def taken(**params: object) -> dict[str, object]:
        return dict(overlap(study.search.space, fixed, params))  # type: ignore[arg-type]

    everything = {"method": "kd", "temperature": 4.0, "lr": 0.1, "batch_size": 32}
    assert taken(**everything) == everything
    assert taken(**everything, alpha=0.3) == everything
    assert taken(**{**everything, "temperature": 6.0}) == {
        "method": "kd",
        "lr": 0.1,
        "batch_size": 32,
    }
    assert taken(**{**everything, "batch_size": 40}) == {
        "method": "kd",
        "temperature": 4.0,
        "lr": 0.1,
    }
    assert taken(temperature=4.0, lr=0.1) == {"lr": 0.1}
    assert taken(method="latent-be", lr=0.1) == {}
    assert taken(augmentation="crop-flip", lr=0.1) == {"lr": 0.1}
    assert taken(augmentation="cutout(size=8)", lr=0.1) == {}
    assert taken(alpha=0.3) == {}


def test_objectives_are_found_by_name(make: Make, store: Store) -> None:
    searched(make("two", objectives="{val/accuracy: max, val/nll: min}"), store, GOOD)
    searched(make("nll"), store, OTHER)
    assert [trial.values for trial in earlier_trials(make("new", warm="[two]"), store, None)] == [
        [0.1]
    ]
    with pytest.raises(
        RequestError,
        match=r"new\.yaml:8: search\.warm_start: study nll has no search by val/accuracy",
    ):
        earlier_trials(make("new", objectives="{val/accuracy: max}", warm="[nll]"), store, None)


def test_another_store_another_storage_and_an_earlier_form_of_the_study_itself(
    make: Make, store: Store, tmp_path: Path
) -> None:
    elsewhere = Store.open(str(tmp_path / "else@where"))
    searched(make("old"), elsewhere, GOOD)
    study = make("new", warm=f"['old@{elsewhere.uri}', new]")
    assert [trial.params for trial in earlier_trials(study, store, None)] == [GOOD]
    searched(make("new", space="alpha: {uniform: [0.1, 1.0]}"), store, {"alpha": 0.25})
    assert [trial.params for trial in earlier_trials(study, store, None)] == [GOOD, {"alpha": 0.25}]
    database = f"sqlite:///{tmp_path / 'search.db'}"
    searched(make("old"), store, OTHER, storage=database)
    assert [
        trial.params for trial in earlier_trials(make("new", warm="[old]"), store, database)
    ] == [OTHER]


def test_a_study_that_is_not_there_makes_no_folder(make: Make, store: Store) -> None:
    with pytest.raises(
        RequestError,
        match=r"study gone has no search by val/nll in .*store; name one that has run there",
    ):
        earlier_trials(make("new", warm="[gone]"), store, None)
    assert store.names("studies") == []
    with pytest.raises(RequestError, match="in nowhere; name one"):
        earlier_trials(make("new", warm="[old@nowhere]"), store, None)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("written", ["[1]", "['-x']", "['old@']", "old"])
def test_wrong_names_are_named(make: Make, written: str) -> None:
    with pytest.raises(RequestError, match=r"search\.warm_start"):
        make("new", warm=written)


def test_several_objectives_rank_by_their_own_front(make: Make, store: Store) -> None:
    study = make("two", objectives="{val/accuracy: max, val/nll: min}", trials=5)
    history = history_of(study, store)
    for values in ([0.9, 0.5], [0.8, 0.2], [0.7, 0.3], [0.8, 0.2], [0.95, 0.9]):
        trial = history.ask()
        study.search.space.suggest(trial)
        history.tell(trial, values)
    assert [trial.number for trial in best_trials(history, study.search)] == [4, 0, 1, 3]
    assert {trial.number for trial in history.best_trials} == {0, 1, 3, 4}
