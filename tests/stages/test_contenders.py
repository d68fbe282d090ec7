"""Ensembles in the table of a study."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distill_ray.records import Predictions
from distill_ray.report.arrow import runs
from distill_ray.report.results import Contender
from distill_ray.report.table import Row
from distill_ray.stages.contenders import ensemble_contenders
from distill_ray.study import StudyDefinition

# five networks' probabilities for one image, and their means: all alike, and 5:1:5:1:1 (the
# "calibrated ensemble" system)
MEMBERS = [[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.6, 0.3, 0.1]]
EQUAL, WEIGHTED = [0.58, 0.28, 0.14], [0.71538462, 0.18461538, 0.10]


def said(*probabilities: list[float]) -> tuple[Predictions, ...]:
    return tuple(Predictions(np.log(np.array([each])), np.array([0])) for each in probabilities)


def contender(name: str, *runs: list[float]) -> Contender:
    jobs = tuple(f"{name}-{number}" for number in range(len(runs)))
    return Contender(name, name, {}, 100, tuple(range(len(runs))), said(*runs), said(*runs), jobs)


def means(study: StudyDefinition, others: list[Contender]) -> list[list[float]]:
    (found,) = ensemble_contenders(study, others)
    return [np.exp(run.log_probabilities[0]).tolist() for run in found.test]


@pytest.mark.parametrize(("shares", "expected"), [("[]", EQUAL), ("[5, 1, 5, 1, 1]", WEIGHTED)])
def test_several_contenders_are_averaged_run_by_run(
    tiny_study: Callable[..., StudyDefinition], shares: str, expected: list[float]
) -> None:
    names = ["none", "cutmix", "cutout", "mixup", "augmix"]
    baselines = ", ".join(f"{name}: {{}}" for name in names)
    mean = f"five: {{ensemble: [{', '.join(names)}], shares: {shares}}}"
    study = tiny_study(f"confirm.baselines={{{baselines}, {mean}}}")
    others = [contender(name, row, row[::-1]) for name, row in zip(names, MEMBERS, strict=True)]
    first, second = means(study, others)
    assert first == pytest.approx(expected)
    assert second == pytest.approx(expected[::-1])
    (found,) = ensemble_contenders(study, others)
    assert (found.name, found.parameters, found.members, found.seeds) == ("five", 500, 5, (0, 1))
    assert len(found.job_ids) == 10
    row = Row(found, "test", ({"nll": 1.0}, {"nll": 2.0}), (1.0, 1.0))
    assert runs([row]).to_pydict() == {
        "name": ["five"] * 2,
        "seed": [None] * 2,
        "job": [None] * 2,
        "nll": [1.0, 2.0],
    }


def test_the_runs_of_one_contender_are_averaged(tiny_study: Callable[..., StudyDefinition]) -> None:
    study = tiny_study("confirm.seeds=5", "confirm.baselines=[student-ensemble]")
    (found,) = ensemble_contenders(study, [contender("best", *MEMBERS)])
    assert np.exp(found.test[0].log_probabilities[0]).tolist() == pytest.approx(EQUAL)
    assert found.averaged and not contender("best", *MEMBERS).averaged
    assert (found.label, len(found.test), found.parameters, found.members) == (
        "ensemble of students",
        1,
        500,
        5,
    )


def test_an_ensemble_waits_for_its_members(tiny_study: Callable[..., StudyDefinition]) -> None:
    study = tiny_study("confirm.baselines=[student-ensemble]")
    assert ensemble_contenders(study, [contender("scratch", *MEMBERS)]) == []
