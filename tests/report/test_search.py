"""What the trials say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill_ray.events import JobState
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.search import (
    best_trial,
    curve,
    epoch_metrics,
    influence,
    last_value,
    pareto_front,
    searched,
)


def complete(number: int, values: dict[str, float], **params: str | float) -> TrialRow:
    return TrialRow(number, JobState.FINISHED, params, values)


def test_best_trial_follows_the_direction_and_ignores_what_is_not_complete(
    study: StudyResults,
) -> None:
    trials = (
        complete(0, {"a": 2.0}),
        TrialRow(1, JobState.PRUNED, {}, {}, ({"epoch": 1, "a": 0.1},)),
        complete(2, {"a": 3.0}),
    )
    lowest = best_trial(replace(study, objectives={"a": "min"}, trials=trials))
    highest = best_trial(replace(study, objectives={"a": "max"}, trials=trials))
    assert (lowest, highest) == (trials[0], trials[2])
    assert best_trial(replace(study, trials=(complete(0, {"val/nll": float("nan")}),))) is None


def test_last_value_and_curve_skip_gaps() -> None:
    epochs = (
        {"epoch": 1, "a": 3.0},
        {"epoch": 2, "a": float("inf")},
        {"epoch": 3, "a": 2.0},
        {"epoch": 4},
    )
    trial = TrialRow(0, JobState.PRUNED, {}, {}, epochs)
    assert curve(trial, "a") == [(1, 3.0), (3, 2.0)]
    assert last_value(trial, "a") == 2.0
    assert last_value(trial, "b") is None
    assert last_value(replace(trial, values={"a": 1.0}), "a") == 1.0


def test_pareto_front_keeps_what_nothing_beats(study: StudyResults) -> None:
    points = [
        (1.0, 0.1),
        (2.0, 0.5),
        (2.5, 0.4),
        (3.0, 0.9),
        (1.0, 0.1),
        (0.5, 0.05),
        (4.0, float("nan")),
    ]
    trials = tuple(complete(number, {"nll": x, "acc": y}) for number, (x, y) in enumerate(points))
    front = pareto_front(replace(study, objectives={"nll": "min", "acc": "max"}, trials=trials))
    assert [trial.number for trial in front] == [5, 0, 4, 1, 3]
    assert pareto_front(replace(study, trials=())) == []


def test_searched_settings_are_those_that_vary(study: StudyResults) -> None:
    trials = (complete(0, {}, lr=0.1, method="kd"), complete(1, {}, lr=0.2, method="kd", size=3))
    assert searched(replace(study, trials=trials)) == ["lr"]


def test_epoch_metrics_are_those_reported_with_objectives_first(study: StudyResults) -> None:
    assert epoch_metrics(study) == ["val/nll", "val/accuracy", "train/loss"]
    assert epoch_metrics(replace(study, objectives={"val/ece": "min"})) == [
        "val/accuracy",
        "train/loss",
    ]


@pytest.mark.parametrize("logarithmic", [True, False])
def test_influence_finds_the_setting_that_acts_and_not_the_one_that_does_not(
    study: StudyResults, logarithmic: bool
) -> None:
    rng = np.random.default_rng(0)
    trials = []
    for number in range(40):
        temperature = float(np.exp(rng.uniform(0, 3)))
        value = (np.log(temperature) - 1.5) ** 2 + 0.05 * rng.normal()
        trials.append(
            complete(
                number,
                {"val/nll": value},
                temperature=temperature,
                idle=rng.uniform(),
                kind=str(rng.choice(["a", "b"])),
            )
        )
    scale = frozenset({"temperature"}) if logarithmic else frozenset()
    shares = {
        share.name: share
        for share in influence(replace(study, trials=tuple(trials), log_scale=scale))
    }
    assert (
        shares["temperature"].explained
        > (0.8 if logarithmic else 0.35)
        > shares["temperature"].by_chance
    )
    assert shares["idle"].explained < shares["idle"].by_chance
    assert shares["kind"].explained < shares["kind"].by_chance


def test_influence_of_a_category_is_the_share_between_its_groups(study: StudyResults) -> None:
    values = [(0.0, "a"), (1.0, "a"), (2.0, "a"), (3.0, "b"), (4.0, "b"), (5.0, "b")]
    trials = tuple(
        complete(number, {"val/nll": value}, kind=kind)
        for number, (value, kind) in enumerate(values)
    )
    (share,) = influence(replace(study, trials=trials))
    # Ranks 0..5: 17.5 in all around their mean, of which 13.5 lie between the two groups.
    assert share.explained == pytest.approx(13.5 / 17.5)


def test_influence_needs_enough_trials_and_differences(study: StudyResults) -> None:
    trials = tuple(complete(number, {"val/nll": 1.0}, lr=0.1 * number) for number in range(8))
    assert influence(replace(study, trials=trials)) == []
    assert (
        influence(
            replace(
                study, trials=tuple(replace(t, values={"val/nll": t.number}) for t in trials[:5])
            )
        )
        == []
    )


def test_conditional_setting_counts_where_it_is_present(study: StudyResults) -> None:
    rng = np.random.default_rng(1)
    trials = []
    for number in range(30):
        size = int(rng.integers(1, 6))
        params: dict[str, str | float] = {"size": size} if number % 2 else {}
        trials.append(
            complete(number, {"val/nll": size if number % 2 else 10.0 + rng.normal()}, **params)
        )
    (share,) = influence(replace(study, trials=tuple(trials)))
    assert share.explained > 0.85 > 0.3 > share.by_chance
