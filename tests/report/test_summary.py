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
from distill_ray.report.markdown import markdown
from distill_ray.report.results import StudyResults
from distill_ray.report.summary import facts, found_settings, lead, verdict
from distill_ray.report.table import table


def judged(study: StudyResults, accuracy: tuple[float, float], nll: tuple[float, float]) -> str:
    gains = {
        metric: Gain(
            metric, sum(bounds) / 2, Interval(*bounds), 0.01, "paired t-test", Interval(*bounds)
        )
        for metric, bounds in (("accuracy", accuracy), ("nll", nll))
    }
    said = verdict(Comparison(study.contenders[0], gains))
    return f"{said.words} ({said.tone})"


def test_verdicts(study: StudyResults) -> None:
    assert judged(study, (0.01, 0.02), (-0.2, -0.1)) == "better in accuracy and NLL (good)"
    assert judged(study, (-0.02, -0.01), (0.1, 0.2)) == "worse in accuracy and NLL (bad)"
    assert judged(study, (0.01, 0.02), (0.1, 0.2)) == "better in accuracy, worse in NLL (neutral)"
    assert judged(study, (-0.01, 0.02), (-0.2, 0.1)) == "no clear difference (neutral)"


def test_one_sure_interval_of_two_is_perhaps(study: StudyResults) -> None:
    gain = Gain(
        "accuracy", 0.01, Interval(-0.01, 0.03), 0.2, "paired t-test", Interval(0.005, 0.015)
    )
    said = verdict(Comparison(study.contenders[0], {"accuracy": gain}))
    assert (said.words, said.tone) == ("perhaps better in accuracy", "neutral")


def test_lead_says_what_was_found(study: StudyResults, young_study: StudyResults) -> None:
    row = table(study)[-1]
    sentence = lead(study, table(study))
    assert f"{100 * row.cells['accuracy'].mean:.2f} ± " in sentence
    assert "3 training runs" in sentence
    young = lead(young_study, table(young_study))
    assert "Nothing is confirmed" in young
    assert "trial 0" in young
    assert lead(replace(young_study, trials=()), []) == "No student has been found yet."


def test_facts_hold_the_share_of_the_ensembles_lead(study: StudyResults) -> None:
    rows = {row.contender.name: row.cells["accuracy"].mean for row in table(study)}
    kept = (rows["best"] - rows["scratch"]) / (rows["ensemble"] - rows["scratch"])
    found = {fact.name: fact for fact in facts(table(study))}
    assert found["of the ensemble's lead"].value == f"{100 * kept:.0f} %"
    assert found["parameters"].remark == "the ensemble has 3 times as many"
    assert facts(table(study)[:2]) == []
    assert (
        facts(
            table(
                replace(
                    study, contenders=tuple(replace(each, test=()) for each in study.contenders)
                )
            )
        )
        == []
    )


def test_found_settings_are_the_searched_ones(study: StudyResults) -> None:
    assert (
        found_settings(study)
        == "temperature 4.2, alpha 0.9, augmentation cutout, augmentation.size 3"
    )


def test_markdown_is_complete_and_escapes(study: StudyResults) -> None:
    hostile = replace(study, name="a*b<script>", study_file="```\nname: x\n```")
    rows = table(hostile)
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
