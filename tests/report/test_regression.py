"""The report of a study of regression: its metrics, and nothing about classes, accuracy or
temperatures.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill_ray.metrics import mean_prediction, score
from distill_ray.records import Predictions
from distill_ray.report.results import Contender, StudyResults
from distill_ray.report.table import as_text
from distill_ray.report.write import write_report


def gaussians(own: Contender, samples: int) -> tuple[Predictions, ...]:
    """For each run predictions of the same made-up curve, off by a little."""
    targets = np.sin(np.linspace(-3, 3, samples)).astype(np.float32)
    found = []
    for job in own.job_ids[: 1 if own.name == "ensemble" else None]:
        drawn = np.random.default_rng(int(job, 16))
        outputs = np.stack(
            [targets + drawn.normal(0, 0.1, samples), drawn.normal(-4, 0.3, samples)], axis=1
        )
        found.append(Predictions(outputs.astype(np.float32), targets))
    return tuple(found)


@pytest.fixture(scope="module")
def regression(study: StudyResults) -> StudyResults:
    contenders = tuple(
        replace(each, validation=gaussians(each, 30), test=gaussians(each, 300))
        for each in study.contenders
    )
    return replace(study, task="regression", class_names=(), contenders=contenders)


def test_the_table_has_the_metrics_of_regression(regression: StudyResults) -> None:
    rows = regression.rows
    header, *_ = as_text(rows).splitlines()
    assert header.split() == ["NLL", "RMSE", "MAE", "params"]
    assert "without the constant ln(2 pi) / 2" in as_text(rows) and "ECE" not in as_text(rows)
    best = regression.contenders[-1]
    each = [score(run.log_probabilities, run.labels)["rmse"] for run in best.test]
    assert rows[-1].cells["rmse"].mean == pytest.approx(np.mean(each))


def test_every_form_of_the_report_is_written(regression: StudyResults, tmp_path: Path) -> None:
    names = [path.relative_to(tmp_path).as_posix() for path in write_report(regression, tmp_path)]
    page = (tmp_path / "report.html").read_text()
    assert "has an RMSE of" in page and "of the test split right" not in page
    assert "Errors by class" not in page and 'id="calibration"' not in page
    assert {"rmse", "nll", "mae"} <= set(
        json.loads((tmp_path / "report.json").read_text())["table"][0]["metrics"]
    )
    assert "RMSE" in (tmp_path / "report.md").read_text()
    assert any("rmse" in name for name in names) and not any(
        "reliability" in name for name in names
    )


def test_members_together(regression: StudyResults) -> None:
    runs = regression.contenders[1].test
    together = mean_prediction([run.log_probabilities for run in runs], runs[0].labels)
    apart = np.mean([score(run.log_probabilities, run.labels)["rmse"] for run in runs])
    assert score(together, runs[0].labels)["rmse"] < apart
