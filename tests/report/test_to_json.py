"""The report for machines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from distill_ray.events import JobState
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.to_json import as_json


def test_says_everything_in_json(study: StudyResults) -> None:
    report = json.loads(json.dumps(as_json(study), allow_nan=False))
    assert report["study"]["name"] == "quickstart"
    assert report["study"]["objectives"] == {"val/nll": "min"}
    assert [stage["stage"] for stage in report["stages"]] == [
        "teach",
        "search",
        "confirm",
        "report",
    ]
    assert [row["name"] for row in report["table"]] == [
        "ensemble",
        "teacher",
        "scratch",
        "default-kd",
        "best",
    ]
    assert set(report["table"][4]["metrics"]["nll"]) == {"mean", "std", "n"}
    assert report["table"][0]["metrics"]["nll"]["std"] is None
    assert len(report["trials"]) == 12
    assert {trial["state"] for trial in report["trials"]} == {"finished", "pruned", "failed"}
    assert all(
        trial["params"]
        and set(trial["values"]) == ({"val/nll"} if trial["state"] == "finished" else set())
        for trial in report["trials"]
    )
    assert report["champion"]["params"]["temperature"] == 4.2


def test_half_finished_study(young_study: StudyResults) -> None:
    report = json.loads(json.dumps(as_json(young_study), allow_nan=False))
    assert report["study"]["status"] == "running"
    assert report["champion"] is None
    assert report["table"][0]["split"] == "validation"
    assert report["trials"][-1]["state"] == "running"


def test_infinite_and_nan_become_null(study: StudyResults) -> None:
    trials = (
        TrialRow(0, JobState.FINISHED, {"lr": 0.1}, {"val/nll": float("inf")}),
        TrialRow(1, JobState.FAILED, {"lr": float("nan")}),
    )
    report = as_json(replace(study, trials=trials))
    json.dumps(report, allow_nan=False)
    assert report["trials"][0]["values"]["val/nll"] is None
    assert report["trials"][1]["params"]["lr"] is None


def test_nothing_yet(study: StudyResults) -> None:
    empty = replace(study, status="running", stages=(), trials=(), contenders=(), champion=None)
    assert as_json(empty)["table"] == []


@pytest.mark.parametrize(
    "uri", ["https://someone:secret@host/path", "postgresql://someone:se@cret@host/db"]
)
def test_credentials_never_reach_the_report(study: StudyResults, uri: str) -> None:
    report = json.dumps(
        as_json(
            replace(
                study,
                tracking_uri=uri,
                command=f"distill-ray run --tracking-uri {uri}",
                study_file=f"x: '{uri}'",
            )
        )
    )
    assert "cret" not in report
    assert "someone" not in report
    assert "://host/" in report
