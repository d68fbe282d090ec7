"""What makes results doubtful is said wherever they are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill_ray.cli import options
from distill_ray.records import Predictions
from distill_ray.report.cautions import cautions
from distill_ray.report.comparison import comparisons
from distill_ray.report.markdown import markdown
from distill_ray.report.page import Report
from distill_ray.report.results import Contender, StudyResults


def guessing(run: Predictions, seed: int = 0) -> Predictions:
    logits = np.random.default_rng(seed).normal(size=run.log_probabilities.shape)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(logs.astype(np.float32), run.labels)


def with_bad_teacher(study: StudyResults) -> StudyResults:
    """One of three teachers knows nothing, and is as loud as the others."""
    ensemble, teacher, *others = study.contenders
    bad = replace(teacher, test=(*teacher.test[:2], guessing(teacher.test[2])))
    logs = np.where(
        np.arange(len(bad.test[0].labels))[:, None] < 200,
        bad.test[2].log_probabilities,
        bad.test[0].log_probabilities,
    )
    spoilt = replace(ensemble, test=(Predictions(logs, bad.test[0].labels),))
    return replace(study, contenders=(spoilt, bad, *others))


def test_nothing_to_doubt(study: StudyResults, young_study: StudyResults) -> None:
    assert cautions(study.rows) == cautions(young_study.rows) == cautions([]) == []


def test_given_teachers_are_said_once_with_where_they_are_from(study: StudyResults) -> None:
    ensemble, teacher, *others = study.contenders
    given = replace(teacher, params={**teacher.params, "weights": "a.pt@0", "epochs": 0})
    parts = []
    for place, (name, source) in enumerate({"own": "", "older": "older@STORE"}.items()):
        part = replace(given, name=f"teacher-{name}", label=f"single teacher {name}")
        part = replace(part, job_ids=given.job_ids[place : place + 1], source=source)
        parts.append(replace(part, test=part.test[:1], validation=part.validation[:1]))
    everyone = replace(given, job_ids=given.job_ids[:2])
    results = replace(study, contenders=(ensemble, everyone, *parts, *others))
    earlier, elsewhere = cautions(results.rows)
    assert earlier.startswith(
        "Trained by earlier studies: single teacher older (from older@STORE). Unless those held out"
    )
    assert elsewhere.startswith("Trained elsewhere: single teacher own, perhaps with images")
    alone = replace(study, contenders=(ensemble, given, *others))
    assert cautions(alone.rows)[0].startswith("Trained elsewhere: single teacher, perhaps")


def test_a_teacher_at_chance_and_an_ensemble_that_it_spoils(study: StudyResults) -> None:
    chance, *ensemble = cautions(with_bad_teacher(study).rows)
    assert chance.startswith("No better than guessing: single teacher (1 of 3 runs: accuracy ")
    assert "always naming the most frequent class gives 11.78 %" in chance
    assert [line.split(", by")[0] for line in ensemble] == [
        "The ensemble is worse than its best member in accuracy",
        "The ensemble is worse than its best member in NLL",
    ]


def test_a_student_at_chance(study: StudyResults) -> None:
    best = study.contenders[4]
    lost = replace(best, test=tuple(guessing(run, 1) for run in best.test))
    (line,) = cautions(replace(study, contenders=(*study.contenders[:4], lost)).rows)
    assert "best found (3 of 3 runs: accuracy " in line


def test_seeds_that_share_versions_of_the_images(study: StudyResults) -> None:
    best = study.contenders[4]
    shared = replace(best, params={**best.params, "versions": 8})
    (line,) = cautions(replace(study, contenders=(*study.contenders[:4], shared)).rows)
    assert line.startswith("The seeds of best found share the versions of the images")
    alone = replace(
        shared,
        **{name: getattr(shared, name)[:1] for name in ("seeds", "validation", "test", "job_ids")},
    )
    assert cautions(replace(study, contenders=(*study.contenders[:4], alone)).rows) == []


def test_a_single_class_is_no_reason(study: StudyResults) -> None:
    labels = np.zeros(50, np.int64)
    sure = Predictions(np.log(np.tile([0.9, 0.1], (50, 1))), labels)
    only = Contender("scratch", "scratch", {}, 10, (0,), (sure,), (sure,), ("a",))
    assert cautions(replace(study, contenders=(only,)).rows) == []


def test_every_form_of_the_results_says_it(
    study: StudyResults, capsys: pytest.CaptureFixture[str]
) -> None:
    doubtful = with_bad_teacher(study)
    rows = doubtful.rows
    options.show(doubtful, "store")
    page = Report.of(replace(doubtful, trials=())).html()
    for text in (capsys.readouterr().out, page, markdown(doubtful, rows, comparisons(rows))):
        assert "No better than guessing: single teacher" in " ".join(text.split())
