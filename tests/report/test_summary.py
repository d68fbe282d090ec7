"""The answer in words."""

from __future__ import annotations

from dataclasses import replace

from distill_ray.report.comparison import Comparison, Gain, Interval, comparisons
from distill_ray.report.format import (
    counted,
    cut,
    duration,
    file_name,
    listed,
    objective_title,
    setting,
)
from distill_ray.report.health import findings
from distill_ray.report.markdown import markdown
from distill_ray.report.results import StudyResults
from distill_ray.report.summary import best_settings, facts, headline, verdict


def judged(study: StudyResults, accuracy: tuple[float, float], nll: tuple[float, float]) -> str:
    gains = {
        metric: Gain(
            metric, sum(bounds) / 2, Interval(*bounds), 0.01, "paired t-test", Interval(*bounds)
        )
        for metric, bounds in (("accuracy", accuracy), ("nll", nll))
    }
    judged = verdict(Comparison(study.contenders[0], gains))
    return f"{judged.words} ({judged.tone})"


def test_verdicts(study: StudyResults) -> None:
    assert judged(study, (0.01, 0.02), (-0.2, -0.1)) == "better in accuracy and NLL (good)"
    assert judged(study, (-0.02, -0.01), (0.1, 0.2)) == "worse in accuracy and NLL (bad)"
    assert judged(study, (0.01, 0.02), (0.1, 0.2)) == "better in accuracy, worse in NLL (neutral)"
    assert judged(study, (-0.01, 0.02), (-0.2, 0.1)) == "no clear difference (neutral)"


def test_one_sure_interval_of_two_is_perhaps(study: StudyResults) -> None:
    gain = Gain(
        "accuracy", 0.01, Interval(-0.01, 0.03), 0.2, "paired t-test", Interval(0.005, 0.015)
    )
    judged = verdict(Comparison(study.contenders[0], {"accuracy": gain}))
    assert (judged.words, judged.tone) == ("perhaps better in accuracy", "neutral")


def answer(results: StudyResults) -> str:
    rows = results.rows
    return " ".join(headline(results, rows, comparisons(rows)))


def test_the_headline_says_whether_the_search_was_worth_it(study: StudyResults) -> None:
    text = answer(study)
    assert text.startswith(
        "The search found a student that is better than default KD in accuracy and NLL "
        "(best student minus default KD: accuracy +2.01 points "
        "(seeds +0.93 to +3.08, test samples +1.00 to +2.98), NLL -0.046 (seeds "
    )
    assert "classifies 95.82 ± 0.22 % of the test split correctly" in text
    assert "3 training runs" in text
    assert text.endswith(
        "It is behind the ensemble of 3 by 0.92 points in accuracy and 0.001 in NLL."
    )


def test_a_search_that_found_nothing_better_says_so(study: StudyResults) -> None:
    default, best = study.contenders[3:]
    swapped = (
        replace(default, validation=best.validation, test=best.test),
        replace(best, validation=default.validation, test=default.test),
    )
    text = answer(replace(study, contenders=(*study.contenders[:3], *swapped)))
    assert text.startswith(
        "The search found nothing better than default KD, which is better in accuracy and NLL "
        "(best student minus default KD: accuracy -2.01 points (seeds "
    )
    twin = replace(best, validation=default.validation, test=default.test)
    text = answer(replace(study, contenders=(*study.contenders[:4], twin)))
    assert text.startswith("The search found nothing clearly better than default KD (")
    assert "accuracy +0.00 points" in text


def test_a_search_that_chose_the_default_settings_says_so(study: StudyResults) -> None:
    """Then the best student and default KD are the same jobs, with differences of nothing."""
    default, best = study.contenders[3:]
    same = replace(default, name=best.name, label=best.label)
    mean = replace(same, name="student-ensemble", averaged=True)
    results = replace(study, contenders=(*study.contenders[:4], same, mean))
    chosen = "The search found nothing better than default KD: it chose the same settings"
    assert answer(results).startswith(f"{chosen}, so the two are the same training runs. The best")
    compared = comparisons(results.rows)
    assert [each.other.name for each in compared if each.same] == ["default-kd"]
    assert "**the same training runs**" in markdown(results, results.rows, compared)
    evidence = [each.evidence for each in findings(results, results.rows, compared)]
    assert (
        "The search chose the settings of default KD, so the two are the same training runs."
        in evidence
    )


def test_without_default_kd_the_student_from_scratch_is_the_measure(study: StudyResults) -> None:
    contenders = tuple(each for each in study.contenders if each.name != "default-kd")
    assert "better than student from scratch in" in answer(replace(study, contenders=contenders))


def test_before_anything_is_confirmed(young_study: StudyResults) -> None:
    young = answer(young_study)
    assert "Nothing is confirmed" in young
    assert "trial 0" in young
    nothing = replace(young_study, trials=())
    assert headline(nothing, [], []) == ["No trial has finished yet."]


def test_facts_hold_the_share_of_the_ensembles_lead(study: StudyResults) -> None:
    rows = {row.contender.name: row.cells["accuracy"].mean for row in study.rows}
    kept = (rows["best"] - rows["scratch"]) / (rows["ensemble"] - rows["scratch"])
    found = {fact.name: fact for fact in facts(study.rows)}
    assert found["of the ensemble's lead"].value == f"{100 * kept:.0f} %"
    assert found["accuracy"].remark == ""
    assert found["NLL"].remark == "0.121 ± 0.003 after temperature scaling"
    assert found["parameters"].remark == "the ensemble has 3 times as many"
    assert facts(study.rows[:2]) == []
    assert (
        facts(
            replace(
                study, contenders=tuple(replace(each, test=()) for each in study.contenders)
            ).rows
        )
        == []
    )


def test_best_settings_are_the_searched_ones(study: StudyResults) -> None:
    assert (
        best_settings(study)
        == "temperature 4.2, alpha 0.9, augmentation cutout, augmentation.size 3"
    )


def test_markdown_is_complete_and_escapes(study: StudyResults) -> None:
    hostile = replace(study, name="a*b<script>", study_file="```\nname: x\n```")
    rows = hostile.rows
    text = markdown(hostile, rows, comparisons(rows))
    assert text.startswith("# a\\*b\\<script\\>")
    assert "**better in accuracy and NLL**" in text
    assert "| best found | 95.82 ± 0.22 |" in text
    assert "````yaml\n```\nname: x\n```\n````" in text


def test_words() -> None:
    assert objective_title("val/nll") == "validation NLL"
    assert objective_title("latency") == "latency"
    assert [setting(value) for value in (0.123456, 3, True, "cutout")] == [
        "0.1235",
        "3",
        "true",
        "cutout",
    ]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert (counted(1, "trial"), counted(2, "trial")) == ("1 trial", "2 trials")
    assert [duration(seconds) for seconds in (4.12, 59.97, 125, 12000)] == [
        "4.1 s",
        "1 min 0 s",
        "2 min 5 s",
        "3 h 20 min",
    ]
    assert cut("abcdef", 4) == "abc…"
    assert file_name("augmentation.size/Ä") == "augmentation-size"
