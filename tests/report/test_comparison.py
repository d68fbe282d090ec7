"""Differences between contenders, checked against SciPy's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from distill_ray.report.comparison import Gain, comparisons
from distill_ray.report.results import Contender, StudyResults


def accuracies(contender: Contender | None) -> list[float]:
    assert contender is not None
    return [
        float(np.mean(run.log_probabilities.argmax(axis=1) == run.labels)) for run in contender.test
    ]


def gain_over(study: StudyResults, name: str, metric: str = "accuracy") -> Gain:
    return next(
        comparison for comparison in comparisons(study.rows) if comparison.other.name == name
    ).gains[metric]


def test_students_of_equal_seeds_are_paired(study: StudyResults) -> None:
    gain = gain_over(study, "scratch")
    oracle = stats.ttest_rel(accuracies(study.best), accuracies(study.contender("scratch")))
    bounds = oracle.confidence_interval(0.95)
    assert gain.test == "paired t-test"
    assert gain.over_seeds is not None
    assert (gain.over_seeds.low, gain.over_seeds.high) == pytest.approx(
        (bounds.low, bounds.high), rel=1e-10
    )
    assert gain.p == pytest.approx(oracle.pvalue, rel=1e-10)


def test_only_shared_seeds_are_paired(study: StudyResults) -> None:
    scratch = study.contender("scratch")
    assert scratch is not None
    others = tuple(
        replace(each, seeds=(2, 9, 0)) if each is scratch else each for each in study.contenders
    )
    mine, theirs = accuracies(study.best), accuracies(scratch)
    oracle = stats.ttest_rel([mine[2], mine[0]], [theirs[0], theirs[2]])
    assert gain_over(replace(study, contenders=others), "scratch").p == pytest.approx(
        oracle.pvalue, rel=1e-10
    )


def test_single_teachers_are_independent_runs(study: StudyResults) -> None:
    gain = gain_over(study, "teacher")
    oracle = stats.ttest_ind(
        accuracies(study.best), accuracies(study.contender("teacher")), equal_var=False
    )
    bounds = oracle.confidence_interval(0.95)
    assert gain.test == "Welch t-test"
    assert gain.over_seeds is not None
    assert (gain.over_seeds.low, gain.over_seeds.high) == pytest.approx(
        (bounds.low, bounds.high), rel=1e-10
    )
    assert gain.p == pytest.approx(oracle.pvalue, rel=1e-10)


def test_a_named_group_of_teachers_is_compared_as_all_of_them_are(study: StudyResults) -> None:
    teachers = study.contender("teacher")
    assert teachers is not None
    renamed = tuple(
        replace(each, name="teacher-a") if each is teachers else each for each in study.contenders
    )
    assert gain_over(replace(study, contenders=renamed), "teacher-a") == gain_over(study, "teacher")


@pytest.mark.parametrize(
    ("name", "found", "teacher"),
    [
        ("best", True, False),
        ("best-2", True, False),
        ("best-paper", False, False),
        ("best-of-all", False, False),
        ("teacher", False, True),
        ("teacher-mixup", False, True),
        ("teacherless", False, False),
    ],
)
def test_what_a_contender_is_by_its_name(
    study: StudyResults, name: str, found: bool, teacher: bool
) -> None:
    contender = replace(study.contenders[0], name=name)
    assert (contender.found, contender.is_teacher) == (found, teacher)


def test_the_ensemble_is_a_fixed_value(study: StudyResults) -> None:
    gain = gain_over(study, "ensemble")
    oracle = stats.ttest_1samp(accuracies(study.best), accuracies(study.contender("ensemble"))[0])
    assert gain.test == "one-sample t-test"
    assert gain.p == pytest.approx(oracle.pvalue, rel=1e-10)


def test_bootstrap_over_samples_agrees_with_scipy(study: StudyResults) -> None:
    best, scratch = study.best, study.contender("scratch")
    assert best is not None
    assert scratch is not None
    correct = [
        [run.log_probabilities.argmax(axis=1) == run.labels for run in each.test]
        for each in (best, scratch)
    ]
    differences = np.mean(correct[0], axis=0) - np.mean(correct[1], axis=0)
    oracle = stats.bootstrap(
        (differences,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    )
    found = gain_over(study, "scratch").over_samples
    assert found is not None
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert found.low == pytest.approx(oracle.confidence_interval.low, abs=0.06 * width)
    assert found.high == pytest.approx(oracle.confidence_interval.high, abs=0.06 * width)
    assert gain_over(study, "scratch") == gain_over(study, "scratch")


def test_difference_in_nll_matches_the_table_and_its_bootstrap_surrounds_it(
    study: StudyResults,
) -> None:
    cells = {row.contender.name: row.cells for row in study.rows}
    for metric in ("accuracy", "nll", "brier"):
        gain = gain_over(study, "default-kd", metric)
        assert gain.difference == pytest.approx(
            cells["best"][metric].mean - cells["default-kd"][metric].mean
        )
        assert gain.over_samples is not None
        assert gain.over_samples.low < gain.difference < gain.over_samples.high
        assert gain.improves
        assert gain.evidence == "clear"
    assert gain_over(study, "default-kd", "ece").over_samples is None
    assert not gain_over(study, "scratch", "ece").improves


def test_one_run_each_leaves_the_samples_only(study: StudyResults) -> None:
    single = tuple(
        replace(each, seeds=each.seeds[:1], validation=each.validation[:1], test=each.test[:1])
        for each in study.contenders
    )
    gain = gain_over(replace(study, contenders=single), "scratch")
    assert gain.over_seeds is None
    assert gain.p is None
    assert gain.over_samples is not None


def test_equal_contenders_show_nothing(study: StudyResults) -> None:
    best = study.best
    assert best is not None
    gain = gain_over(replace(study, contenders=(best, replace(best, name="scratch"))), "scratch")
    assert gain.difference == 0
    assert gain.over_seeds is None
    assert gain.evidence == "none"
    assert not gain.improves


def test_validation_which_selected_the_student_gives_no_comparison(study: StudyResults) -> None:
    assert (
        comparisons(
            replace(
                study, contenders=tuple(replace(each, test=()) for each in study.contenders)
            ).rows
        )
        == []
    )


def test_no_best_no_comparison(young_study: StudyResults) -> None:
    assert comparisons(young_study.rows) == []
