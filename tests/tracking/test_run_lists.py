"""Saved views as MLflow's page reads them. That the page shows them was looked at in a browser
(MLflow 3.17).
"""

from __future__ import annotations

import json
from pathlib import Path

from distill_ray.events import JobState
from distill_ray.tracking import Tracker, pages_of_studies, study_run_lists

VIEWS = study_run_lists(
    {"val/ece": "min", "val/accuracy": "max"}, ["temperature", "augmentation.size"], "0123abcd"
)


def test_a_view_is_what_the_page_of_mlflow_expects() -> None:
    state = json.loads(VIEWS["trials"].state())
    assert state["searchFilter"] == "tags.`variant.0123abcd` = 'yes' and tags.stage = 'search'"
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
    assert not study_run_lists({"val/accuracy": "max"}, [], "0123abcd")["trials"].ascending


def test_lists_are_saved_with_the_experiment_once(
    tracking_uri: str, tmp_path: Path, said: list[str]
) -> None:
    from mlflow import MlflowClient

    saved = []
    for _ in range(2):
        artifacts = str(tmp_path / "artifacts")
        with Tracker(tracking_uri, "small", "abc", artifacts=artifacts) as tracker:
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
    experiment_id = experiment.experiment_id
    pages = pages_of_studies(tmp_path / "mlflow.db")
    assert list(pages) == ["small"] and list(pages["small"]) == ["trials", "students", "jobs"]
    assert pages["small"]["trials"] == (
        f"#/experiments/{experiment_id}/runs?viewStateShareKey=trials&workflowType=machine_learning"
    )


def test_no_study_no_page(tracking_uri: str, tmp_path: Path) -> None:
    assert pages_of_studies(tmp_path / "mlflow.db") == {}
    assert pages_of_studies(tmp_path / "nothing.db") == {}
    assert not (tmp_path / "nothing.db").exists()
