"""What several repeats of a study say together, and in what they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy.stats import ttest_1samp

from distill_ray.cli.repeat import of_repeat
from distill_ray.report.repeats import as_json, as_text, repeats_of
from distill_ray.report.results import StudyResults
from distill_ray.resolve import confirm_runs, data_of, teacher_runs
from distill_ray.study import StudyDefinition


def test_gains_are_judged_over_repeats(study: StudyResults) -> None:
    """In the second the search found what the default is, in the third the default is better."""
    best, default = study.contender("best"), study.contender("default-kd")
    assert best and default
    same = replace(default, name="best", label="best found")
    lost = (replace(best, name="default-kd", label="default KD"), same)
    others = [each for each in study.contenders if each.name not in ("best", "default-kd")]
    repeats = {
        "one": study,
        "two": replace(study, contenders=(*others, default, same)),
        "three": replace(study, contenders=(*others, *lost)),
    }
    found = repeats_of(repeats)
    _, nll = found.gains
    rows = {row.contender.name: row.cells["nll"].mean for row in study.rows}
    gain = rows["best"] - rows["default-kd"]
    assert nll.differences == pytest.approx((gain, 0, -gain))
    assert (nll.ahead, found.repeats) == (1, 3)
    interval = ttest_1samp(nll.differences, 0).confidence_interval(0.95)
    assert nll.interval is not None
    assert (nll.interval.low, nll.interval.high) == pytest.approx((interval.low, interval.high))
    text = as_text(found)
    assert "better in 1 of 3 repeats" in text
    assert "no claim" not in text
    assert as_json(found)["gains"][1]["ahead"] == 1
    two = repeats_of(dict(list(repeats.items())[:2]))
    assert "Fewer than three repeats bear no claim." in as_text(two)


def test_teachers_that_all_repeats_share_are_said(study: StudyResults) -> None:
    """Such as those that somebody trained."""
    retrained = [
        replace(each, job_ids=tuple(f"{job}-2" for job in each.job_ids))
        if each.is_teacher
        else each
        for each in study.contenders
    ]
    other = replace(study, contenders=tuple(retrained))
    assert "each with the same teachers and" in as_text(repeats_of({"one": study, "two": study}))
    assert "each with other teachers and" in as_text(repeats_of({"one": study, "two": other}))


def test_without_confirmed_students_there_is_no_gain(young_study: StudyResults) -> None:
    assert as_text(repeats_of({"young": young_study})).startswith("No repeat has a confirmed")


def test_a_repeat_has_seeds_of_its_own_and_the_same_data(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    assert of_repeat(1, "tiny", 0) == ()
    first = tiny_study()
    second = tiny_study(*of_repeat(2, first.name, first.seed))
    assert second.name == f"{first.name}-repeat-2"
    assert second.search.seed != first.search.seed
    assert data_of(second) == data_of(first)
    data = data_of(first)

    def seeds(study: StudyDefinition) -> set[int]:
        teachers = teacher_runs(study, data)
        students = confirm_runs(study, data, [run.job.id for run in teachers], [])
        return {run.job.seed for run in (*teachers, *students)} | {study.trial_seed}

    assert not seeds(first) & seeds(second)
