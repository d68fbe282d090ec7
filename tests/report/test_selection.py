"""The winner's curse in numbers: what trials had, against the same trained again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill_ray.events import JobState
from distill_ray.report.comparison import comparisons
from distill_ray.report.health import findings
from distill_ray.report.markdown import markdown
from distill_ray.report.page import Report
from distill_ray.report.results import Contender, StudyResults, TrialRow
from distill_ray.report.selection import selection, selection_sentences
from distill_ray.report.to_json import as_json


def nll(contender: Contender) -> np.ndarray:
    """The loss of each run on the validation split."""
    return np.array(
        [
            -run.log_probabilities[np.arange(len(run.labels)), run.labels].mean(dtype=np.float64)
            for run in contender.validation
        ]
    )


def trial(number: int, value: float) -> TrialRow:
    return TrialRow(number, JobState.FINISHED, {"alpha": 0.1 * number}, {"val/nll": value})


@pytest.fixture
def two(study: StudyResults) -> StudyResults:
    """Trial 5 was the best of the search, and trained again it is behind trial 2: the champion
    comes first.
    """
    best, second = study.best, study.contender("default-kd")
    assert best is not None and second is not None
    champion = replace(best, name="best-2", label="best-2", trial=2)
    lucky = replace(second, name="best-1", label="best-1", trial=5)
    others = [each for each in study.contenders if not each.found]
    trials = (trial(2, 0.2), trial(5, 0.1), trial(7, 0.3))
    return replace(study, trials=trials, contenders=(*others, champion, lucky))


def test_each_is_compared_with_its_own_trial(two: StudyResults) -> None:
    first, second = selection(two)
    assert [(each.contender, each.trial, each.seeds) for each in (first, second)] == [
        ("best-1", 5, 3),
        ("best-2", 2, 3),
    ]
    assert (first.in_search, second.in_search) == (0.1, 0.2)
    for selected in (first, second):
        contender = two.contender(selected.contender)
        assert contender is not None
        assert selected.again == pytest.approx(nll(contender).mean())
        assert selected.std == pytest.approx(nll(contender).std(ddof=1))


def test_every_form_of_the_report_has_the_numbers(two: StudyResults) -> None:
    first, second = selection(two)
    luck, order = selection_sentences(two)
    assert luck == (
        "The best of 3 complete trials, trial 5, has a validation NLL of 0.1; trained again over "
        f"3 seeds it has {first.again:.3f} ± {first.std:.3f}, {first.again - 0.1:.2g} worse."
    )
    assert order == (
        "Trial 2 is the first of the 2 that were trained again, with "
        f"{second.again:.3f} ± {second.std:.3f}."
    )
    text = markdown(two, two.rows, comparisons(two.rows))
    page = Report.of(two).html()
    assert luck in text and luck in page and order in page
    assert f'<td class="n">0.1</td><td class="n">{first.again_text}</td>' in page
    data = as_json(two)["selection"]
    assert (data["best_of_trials"], data["trained_again"]) == (0.1, first.again)
    assert [each["trial"] for each in data["configurations"]] == [5, 2]


def test_a_lucky_winner_is_a_finding(study: StudyResults) -> None:
    best = study.best
    assert best is not None
    again, deviation = nll(best).mean(), nll(best).std(ddof=1)

    def checks(value: float) -> set[str]:
        one = replace(study, trials=(trial(best.trial or 0, float(value)),))
        return {each.check for each in findings(one, one.rows, comparisons(one.rows))}

    assert "lucky-winner" in checks(again - 2.1 * deviation)
    assert "lucky-winner" not in checks(again - 1.9 * deviation)
    assert "lucky-winner" not in checks(again + 9 * deviation)


def test_there_is_nothing_to_say_before_anything_is_trained_again(
    young_study: StudyResults,
) -> None:
    assert selection(young_study) == [] and selection_sentences(young_study) == []
    assert as_json(young_study)["selection"] is None
