"""The uncertainty that a report tells of: sets of classes, bins that make a difference, errors
among the most confident answers.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill_ray.records import Predictions
from distill_ray.report.bins import bin_remarks
from distill_ray.report.conformal import conformal_rows, note
from distill_ray.report.page import Report
from distill_ray.report.results import StudyResults
from distill_ray.report.table import Row, row_of
from distill_ray.report.to_json import as_json


def test_thresholds_come_from_validation_at_the_temperature_of_the_run(study: StudyResults) -> None:
    best = next(row for row in study.rows if row.contender.found)
    (found,) = conformal_rows([best], 0.9)
    validation, temperature = best.contender.validation[1], best.temperatures[1]
    logits = np.asarray(validation.log_probabilities, np.float64) / temperature
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = np.sort(1 - probabilities[np.arange(200), validation.labels])
    threshold = scores[math.ceil(201 * 0.9) - 1]
    assert found.sets["lac"][1].quantile == pytest.approx(threshold)
    assert 0.85 < found.coverage("lac").mean < 0.95
    low, high = found.interval("lac")
    assert low < found.coverage("lac").mean < high


def test_too_few_validation_images_are_said(study: StudyResults) -> None:
    rows = conformal_rows(study.rows, 0.9999)
    assert note(rows, 0.9999).startswith("A coverage of 99.99 % takes at least 9999 validation")
    assert {each.size("lac").mean for each in rows} == {10}
    assert note(conformal_rows(study.rows, 0.9), 0.9).startswith("Thresholds for a coverage of 90")


def test_before_the_test_split_there_are_no_sets(young_study: StudyResults) -> None:
    assert conformal_rows(young_study.rows, 0.9) == []
    assert note([], 0.9) == ""


def test_json_and_page_have_it(study: StudyResults) -> None:
    report = json.loads(json.dumps(as_json(study), allow_nan=False))
    best = report["conformal"]["by_contender"]["best"]["lac"]
    assert len(best["thresholds"]) == 3
    assert len(best["by_class"]) == 10
    assert "aurc" in report["table"][-1]["metrics"]
    page = Report.of(study).html()
    for text in ("adaptive ECE", "excess AURC", "worst class", "macro F1", "% answered"):
        assert text in page


def sure(shares: dict[float, float]) -> Predictions:
    """A thousand samples of two classes: by confidence the share of correct ones."""
    confidence = np.repeat(list(shares), 1000 // len(shares))
    each = 1000 // len(shares)
    labels = np.concatenate([np.arange(each) >= share * each for share in shares.values()])
    logs = np.log(np.stack([confidence, 1 - confidence], axis=1))
    return Predictions(logs, labels.astype(np.int64))


def test_bins_that_make_the_difference_are_said(study: StudyResults) -> None:
    """Errors of both signs in one bin of equal width, 0.94 to 1, cancel there; in bins of equal
    mass they do not.
    """

    def row(name: str, predictions: Predictions) -> Row:
        contender = replace(
            study.contenders[-1],
            name=name,
            label=name,
            validation=(predictions,),
            test=(predictions,),
        )
        return row_of(contender, "test")

    cancelling = row("best", sure({0.95: 1.0, 0.96: 0.92}))
    plain = row("other", sure({0.95: 0.93, 0.99: 0.97}))
    (remark,) = bin_remarks([plain, cancelling])
    assert remark == (
        "Bins make the difference in ECE between best and other, not the networks: ECE 0.5 and "
        "2.0 % and adaptive ECE 4.5 and 2.0 %."
    )
    assert bin_remarks([plain, row("best", sure({0.95: 0.90, 0.99: 0.94}))]) == []


def test_a_figure_of_many_contenders_shows_the_main_ones(
    study: StudyResults, tmp_path: Path
) -> None:
    others = [replace(study.contenders[-2], name=f"x{n}", label=f"X{n}") for n in range(6)]
    many = replace(study, contenders=(*study.contenders[:-1], *others, study.contenders[-1]))
    (panel,) = Report.of(many).sections["selective"]
    assert "X1" not in panel.plots[0].description
    assert study.contenders[-1].label in panel.plots[0].description
