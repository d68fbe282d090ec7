"""How diverse networks are, between seeds and inside one, and what the report shows of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill_ray.metrics import diversity
from distill_ray.metrics.uncertainty import disagreement
from distill_ray.records import Predictions
from distill_ray.report.plots.diversity import diversity_panels, spreads
from distill_ray.report.results import StudyResults

THREE = np.log([[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.2, 0.8]], [[0.4, 0.6], [0.3, 0.7]]])


def test_disagreement_is_the_share_of_different_answers() -> None:
    np.testing.assert_array_equal(disagreement(THREE), [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]])
    found = diversity(THREE)
    assert found["disagreement"] == pytest.approx(2 / 3)
    mean = np.exp(THREE).mean(axis=0)
    by_hand = -(mean * np.log(mean)).sum(axis=1).mean() + (np.exp(THREE) * THREE).sum(axis=2).mean()
    assert found["information"] == pytest.approx(by_hand)


def test_copies_and_a_single_member_have_none() -> None:
    assert diversity(np.stack([THREE[0]] * 3)) == pytest.approx(
        {"disagreement": 0, "information": 0}, abs=1e-12
    )
    assert diversity(THREE[:1]) == pytest.approx({"disagreement": 0, "information": 0}, abs=1e-12)


def test_networks_of_a_contender_and_heads_inside_one(study: StudyResults) -> None:
    heads = ({"disagreement": 0.1, "information": 0.02}, {"disagreement": 0.3, "information": 0.04})
    best = replace(study.contenders[-1], diversity=heads)
    rows = replace(study, contenders=(*study.contenders[:-1], best)).rows
    found = spreads(rows)
    assert [each.label for each in found] == [
        "single teacher",
        "student from scratch",
        "default KD",
        "best found",
        "inside best found",
    ]
    logs = [run.log_probabilities for run in study.contenders[1].test]
    assert found[0].disagreement == pytest.approx(diversity(np.stack(logs))["disagreement"])
    assert (found[-1].inside, found[-1].disagreement, found[-1].information) == (
        True,
        pytest.approx(0.2),
        pytest.approx(0.03),
    )
    caption = diversity_panels(rows)[0].caption
    assert "Diamonds" in caption and "Diamonds" not in diversity_panels(study.rows)[0].caption


def test_the_teachers_pair_by_pair(study: StudyResults) -> None:
    teachers = study.contenders[1]
    twin, other = teachers.test[0], teachers.test[1]
    stranger = Predictions(np.roll(twin.log_probabilities, 1, axis=1), twin.labels)
    three = replace(teachers, test=(twin, other, stranger))
    rows = replace(study, contenders=(study.contenders[0], three, *study.contenders[2:])).rows
    (matrix,) = diversity_panels(rows)[1:]
    assert "teacher 0 and teacher 1 disagree least" in matrix.caption
    assert "teacher 0 and teacher 2 most (100.0 %)" in matrix.caption
    mine = {"job_ids": teachers.job_ids[:1], "validation": teachers.validation[:1], "test": (twin,)}
    group = replace(teachers, name="teacher-mixup", label="teacher mixup", **mine)
    rows = replace(
        study, contenders=(study.contenders[0], three, group, *study.contenders[2:])
    ).rows
    assert "teacher mixup 0 and teacher 1 disagree least" in diversity_panels(rows)[1].caption


def test_one_run_each_is_no_diversity(study: StudyResults) -> None:
    alone = [
        replace(each, seeds=each.seeds[:1], test=each.test[:1], validation=each.validation[:1])
        for each in study.contenders
    ]
    assert diversity_panels(replace(study, contenders=tuple(alone)).rows) == []
