"""Several studies in one table, and which differences are marked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distill_ray.cli import main
from distill_ray.records import Predictions
from distill_ray.report.compare import as_json, as_text, compare_studies
from distill_ray.report.comparison import comparisons
from distill_ray.report.results import StudyResults
from distill_ray.store import Store


def worse(study: StudyResults) -> StudyResults:
    """The study with a best student that says of every test image that it is of another class."""
    best = study.best
    assert best is not None
    moved = tuple(
        replace(run, log_probabilities=np.roll(run.log_probabilities, 1, axis=1))
        for run in best.test
    )
    return replace(study, contenders=(*study.contenders[:-1], replace(best, test=moved)))


def test_the_first_study_is_compared_as_its_own_report_does(study: StudyResults) -> None:
    compared = compare_studies({"first": study})
    own = {each.other.name: each.gains for each in comparisons(study.rows)}
    assert compared.reference is not None and compared.reference.row.contender.name == "best"
    assert {each.row.contender.name: each.gains for each in compared.rows if each.gains} == own


def test_what_differs_is_marked_in_both_directions(study: StudyResults) -> None:
    lines = as_text(compare_studies({"good": study, "bad": worse(study)})).splitlines()
    (bad,) = [line for line in lines if line.startswith("bad") and "best found" in line]
    assert bad.count("▼") >= 3 and "▲" not in bad
    lines = as_text(compare_studies({"bad": worse(study), "good": study})).splitlines()
    (good,) = [line for line in lines if line.startswith("good") and "best found" in line]
    assert good.count("▲") >= 3 and "▼" not in good
    (reference,) = [line for line in lines if line.startswith("bad") and "best found" in line]
    assert not set(reference) & set("▲▼△▽")
    assert "worse than bad, best found, beyond the spread of seeds and of test samples" in lines[-1]


def test_a_study_equal_to_the_first_has_no_mark_on_its_best_student(study: StudyResults) -> None:
    lines = as_text(compare_studies({"one": study, "two": study})).splitlines()
    (twin,) = [line for line in lines if line.startswith("two") and "best found" in line]
    assert not set(twin) & set("▲▼△▽")


def test_other_test_images_are_not_compared(study: StudyResults) -> None:
    def shortened(run: Predictions) -> Predictions:
        return Predictions(run.log_probabilities[:900], run.labels[:900])

    fewer = replace(
        study,
        contenders=tuple(
            replace(each, test=tuple(map(shortened, each.test))) for each in study.contenders
        ),
    )
    compared = compare_studies({"all": study, "fewer": fewer})
    assert not any(each.gains for each in compared.rows if each.study == "fewer")
    assert "Not compared, evaluated on other test images: fewer." in as_text(compared)


def test_nothing_confirmed_nothing_compared(young_study: StudyResults) -> None:
    compared = compare_studies({"young": young_study})
    assert compared.reference is None
    assert "nothing is compared" in as_text(compared)
    assert as_json(compared)["reference"] is None


def test_compare_command(
    finished_study: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file, store = str(finished_study.file), finished_study.store.uri
    assert main(["compare", file, "--store", store]) == 0
    assert "best found" in capsys.readouterr().out
    Store.open(str(tmp_path / "empty"))
    assert main(["compare", f"{file}@{store}", f"{file}@{tmp_path / 'empty'}", "--json"]) == 0
    captured = capsys.readouterr()
    assert f"tiny@{tmp_path / 'empty'}: no results yet in {tmp_path / 'empty'};" in captured.err
    compared = json.loads(captured.out)
    assert compared["reference"] == {"study": f"tiny@{store}", "name": "best"}
    rows = {(row["study"], row["name"]): row for row in compared["rows"]}
    assert set(rows) == {
        (f"tiny@{store}", name) for name in ("ensemble", "teacher", "scratch", "best")
    }
    assert (
        rows[f"tiny@{store}", "scratch"]["reference_minus_this"]["nll"]["test"] == "paired t-test"
    )
    assert main(["compare", file, file, "--store", store]) == 2
    assert "named twice" in capsys.readouterr().err
    assert main(["compare", file, "--store", store, "--set", "confirm.seeds=1"]) == 0
    assert main(["compare", file, "--store", store, "--set", "confirm.sedes=1"]) == 2
    assert "--set: confirm.sedes: unknown field" in capsys.readouterr().err
