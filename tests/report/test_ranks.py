"""The students of a study ranked: who is in it, what is said, and several studies together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from distill_ray.report.compare import as_text, compare_studies
from distill_ray.report.comparison import comparisons
from distill_ray.report.health import findings
from distill_ray.report.markdown import markdown
from distill_ray.report.page import Report
from distill_ray.report.ranks import loss_or_weight, ranks_of, table
from distill_ray.report.repeats import as_json as repeats_as_json
from distill_ray.report.repeats import as_text as repeats_as_text
from distill_ray.report.repeats import repeats_of
from distill_ray.report.results import Contender, StudyResults
from distill_ray.report.summary import headline
from distill_ray.report.to_json import as_json

METHODS = ("kd", "dkd", "nkd")


@pytest.fixture(scope="module")
def fair(study: StudyResults) -> StudyResults:
    """Three methods searched, kd by default, and a student from scratch."""

    def student(like: Contender, name: str, label: str, method: str) -> Contender:
        return replace(like, name=name, label=label, params={**like.params, "method": method})

    teachers, scratch, default, best = (
        study.contender(name) for name in ("teacher", "scratch", "default-kd", "best")
    )
    assert teachers and scratch and default and best
    found = [
        student(like, f"best-{place}", f"searched {method}", method)
        for place, (like, method) in enumerate(
            zip((best, default, scratch), METHODS, strict=True), start=1
        )
    ]
    trials = [
        replace(
            trial,
            params={"method": METHODS[trial.number % 3], **trial.params},
            values={name: trial.number % 3 + value for name, value in trial.values.items()},
        )
        for trial in study.trials
    ]
    contenders = (teachers, student(default, "kd", "kd", "kd"), scratch, *found)
    return replace(study, contenders=contenders, trials=tuple(trials), for_each="method")


def test_students_are_ranked_seed_by_seed(fair: StudyResults) -> None:
    accuracy, nll = ranks_of({"fair": fair.rows})
    assert set(nll.ranking.ranks) == {"kd", "scratch", *(f"searched {name}" for name in METHODS)}
    runs = {row.contender.label: [run["nll"] for run in row.runs] for row in fair.rows}
    labels = [nll.labels[name] for name in nll.ranking.ranks]
    assert nll.ranking.p == pytest.approx(friedmanchisquare(*(runs[n] for n in labels)).pvalue)
    assert labels[0] == "searched kd"
    assert nll.means["kd"][0] == pytest.approx(np.mean(runs["kd"]))
    assert accuracy.ranking.blocks == 3
    header, lines = table([accuracy, nll])
    assert header == ["", "accuracy %", "95 % interval", "mean rank", "NLL", "95 % interval",
                      "mean rank"]  # fmt: skip
    assert [line[0] for line in lines] == labels


def test_whether_it_is_the_method(fair: StudyResults) -> None:
    over_trials, between, searching = loss_or_weight(fair, fair.rows)
    assert "the method explains" in over_trials
    share = int(over_trials.partition("explains ")[2].partition(" %")[0])
    assert share > 60  # a method's number is added to the loss of its trials
    assert between.endswith("from searched kd to searched nkd.")
    runs = {row.contender.label: row.cells["nll"].mean for row in fair.rows}
    lower = runs["kd"] - runs["searched kd"]
    assert lower > 0
    assert f"lowered test NLL by {lower:.3f} against the defaults of the same method" in searching
    default, found = fair.contenders[1], fair.contenders[3]
    exchanged = (
        replace(found, name="kd", label="kd"),
        replace(default, name=found.name, label=found.label),
    )
    others = [each for each in fair.contenders if each not in (default, found)]
    lost = replace(fair, contenders=(*others, *exchanged))
    assert f"raised test NLL by {lower:.3f} against" in loss_or_weight(lost, lost.rows)[-1]


def test_a_search_for_each_method_is_judged_against_the_same_method(fair: StudyResults) -> None:
    """Its defaults stand beside it, as in a fair table: they come before a student from scratch."""
    assert fair.baselines[:2] == ["kd", "default-kd"]
    answer, *_ = headline(fair, fair.rows, comparisons(fair.rows))
    assert "better than kd in" in answer and "from scratch" not in answer
    alike = tuple(
        replace(fair.contenders[3], name="kd", label="kd") if each.name == "kd" else each
        for each in fair.contenders
    )
    level = replace(fair, contenders=alike)
    compared = comparisons(level.rows)
    assert headline(level, level.rows, compared)[0].startswith("The search found nothing better t")
    found = [each.evidence for each in findings(level, level.rows, compared)]
    assert any("chose the settings of kd" in evidence for evidence in found)
    repeated = repeats_of({"one": fair, "two": replace(fair, name="two")})
    assert {gain.against for gain in repeated.gains} == {"kd"}
    assert "share its teachers" in repeats_as_text(repeated)
    assert set(repeats_as_json(repeated)["ranks"]) == {"accuracy", "nll"}


def test_page_markdown_and_json_have_it(fair: StudyResults, study: StudyResults) -> None:
    report = Report.of(fair)
    assert "Is it the method or its settings?" in report.html()
    assert set(report.drawings) >= {"ranks-accuracy", "ranks-nll"}
    assert "## Ranks" in markdown(fair, fair.rows, [])
    found = json.loads(json.dumps(as_json(fair), allow_nan=False))
    assert found["ranks"]["nll"]["students"][0]["label"] == "searched kd"
    # Three students are compared in pairs
    assert as_json(study)["ranks"] == {}
    assert "## Ranks" not in markdown(study, study.rows, [])


def test_several_studies_rank_what_all_of_them_have(fair: StudyResults) -> None:
    """A method's place among the best differs from study to study; its name does not."""
    swapped = [
        replace(each, name={"best-1": "best-2", "best-2": "best-1"}.get(each.name, each.name))
        for each in fair.contenders
        if each.name != "scratch"
    ]
    other = replace(fair, name="other", contenders=tuple(swapped))
    compared = compare_studies({"fair": fair, "other": other})
    nll = compared.ranks[-1]
    assert nll.ranking.blocks == 6
    assert set(nll.labels.values()) == {"kd", "searched kd", "searched dkd", "searched nkd"}
    assert "Students that all studies have:" in as_text(compared)
