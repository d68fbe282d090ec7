"""Saved views as MLflow's page reads them. That the page shows them was looked at in a browser
(MLflow 3.17).
"""

from __future__ import annotations

import json
from pathlib import Path

from distill_ray.events import JobState
from distill_ray.tracking import Tracker, studies_in, study_views, view_path

VIEWS = study_views(
    {"val/ece": "min", "val/accuracy": "max"}, ["temperature", "augmentation.size"], "0123abcd"
)


def test_a_view_is_what_the_page_of_mlflow_expects() -> None:
    state = json.loads(VIEWS["trials"].state())
    assert state["searchFilter"] == "tags.study_key = '0123abcd' and tags.stage = 'search'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/ece`", True)
    assert state["selectedColumns"] == [
        "tags.`status`",
        "metrics.`val/ece`",
        "metrics.`val/accuracy`",
        "metrics.`val/nll`",
        "metrics.`val/brier`",
        "params.`temperature`",
        "params.`augmentation.size`",
    ]
    assert state["columnOrder"][3:] == state["selectedColumns"]
    assert set(state["columnWidths"]) >= set(state["columnOrder"])
    (chart,) = state["compareRunCharts"]
    assert (chart["selectedParams"], chart["selectedMetrics"]) == (
        ["temperature", "augmentation.size"],
        ["val/ece"],
    )


def test_an_objective_to_maximise_is_sorted_from_the_top() -> None:
    assert not study_views({"val/accuracy": "max"}, [], "0123abcd")["trials"].ascending


def test_views_are_saved_with_the_experiment_once(tracking_uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    said: list[str] = []
    saved = []
    for _ in range(2):
        with Tracker(
            tracking_uri, "small", "abc", artifacts=str(tmp_path / "artifacts"), warn=said.append
        ) as tracker:
            tracker.start_study("small")
            tracker.save_views(VIEWS)
            tracker.finish_study(JobState.FINISHED)
        experiment = MlflowClient(tracking_uri).get_experiment_by_name("small")
        assert experiment is not None
        saved.append(
            {
                name: value
                for name, value in experiment.tags.items()
                if name.startswith("mlflow.sharedViewState.")
            }
        )
    assert said == []
    assert experiment is not None and saved[0] == saved[1]
    assert {
        name.rpartition(".")[2]: json.loads(value)["name"] for name, value in saved[0].items()
    } == {
        "jobs": "All jobs, as they came",
        "trials": "Trials, best first",
        "students": "Students on the test split",
    }
    path = f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=trials&workflowType=machine_learning"
    assert view_path(tmp_path / "mlflow.db", "small", "trials") == path
    assert studies_in(tmp_path / "mlflow.db") == ["small"]


def test_no_study_no_page(tracking_uri: str, tmp_path: Path) -> None:
    assert view_path(tmp_path / "mlflow.db", "other", "trials") is None
    assert view_path(tmp_path / "nothing.db", "small", "trials") is None
    assert studies_in(tmp_path / "nothing.db") == []
    assert not (tmp_path / "nothing.db").exists()
