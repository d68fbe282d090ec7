"""A whole study on real digits with real Ray, Optuna and MLflow: run, run again, changed.

One study is run for the module and looked at from all sides; running it again must find everything
done.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from distill_ray.data import load_images, open_source
from distill_ray.export import open_model
from distill_ray.records import EPOCHS, WEIGHTS, find_job
from distill_ray.store import Store
from support.studies import TINY, command, job_folders, only_search


@dataclass(frozen=True)
class Finished:
    """A study that was run: its store, what the run printed, and its report as JSON."""

    store: Path
    printed: str
    report: dict[str, Any]

    def search(self) -> optuna.Study:
        return only_search(self.store)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    store = tmp_path_factory.mktemp("study") / "store"
    run = command("run", str(TINY), "--store", str(store))
    assert run.returncode == 0, run.stdout + run.stderr
    report = command("report", str(TINY), "--store", str(store), "--json")
    assert report.returncode == 0, report.stderr
    return Finished(store, run.stdout, json.loads(report.stdout))


def test_it_ends_with_the_table(finished: Finished) -> None:
    for words in (
        "ensemble",
        "single teacher",
        "student from scratch",
        "best found",
        "accuracy",
        "cNLL",
        "report",
        "distill-ray ui",
    ):
        assert words in finished.printed
    # A busy machine makes us wait for Ray; of Ray's own output there is nothing.
    lines = [line for line in finished.printed.splitlines() if "waiting for Ray" not in line]
    printed = "\n".join(lines).lower()
    assert "ray" not in printed.replace("distill-ray", "").replace("distill_ray", "")


def test_baselines_alone_may_begin_beside_the_search(finished: Finished) -> None:
    beside, confirm = re.split(r"^search .*$", finished.printed, flags=re.MULTILINE)
    early, late = (re.findall(r"\[confirm\] (\w+) .* begins", part) for part in (beside, confirm))
    assert set(early) <= {"scratch"}
    assert sorted(early + late) == ["best", "best", "scratch", "scratch"]


def test_the_report_for_machines_has_everything(finished: Finished) -> None:
    report = finished.report
    assert report["study"]["name"] == "tiny"
    rows = {row["name"]: row for row in report["table"]}
    assert set(rows) == {"ensemble", "teacher", "scratch", "best"}
    assert rows["best"]["metrics"]["accuracy"]["n"] == 2
    assert rows["ensemble"]["metrics"]["accuracy"]["n"] == 1
    assert set(rows["best"]["metrics"]) >= {"accuracy", "nll", "ece", "brier", "oe", "cnll", "cece"}
    assert len(report["trials"]) == 4
    assert report["champion"]["job_id"]


def test_optuna_has_the_true_states(finished: Finished) -> None:
    trials = finished.search().trials
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        epochs = 2 if trial.state == TrialState.COMPLETE else 1
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        done = find_job(Store(str(finished.store)), trial.user_attrs["job_id"])
        assert (done is not None) == (trial.state == TrialState.COMPLETE)
        if done is not None:
            assert trial.value == done.metrics["val/nll"]


def test_the_test_split_was_read_by_confirmations_and_teachers_alone(finished: Finished) -> None:
    store = Store(str(finished.store))
    read = [
        job
        for job in store.names("jobs")
        if (found := find_job(store, job)) and found.has_read_test
    ]
    assert len(read) == 2 + 2 * 2


def test_mlflow_has_one_run_for_each_job(finished: Finished) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.store}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    stages = Counter(run.data.tags["stage"] for run in runs)
    assert stages == {"study": 1, "teach": 2, "search": 4, "confirm": 4}
    (parent,) = [run for run in runs if run.data.tags["stage"] == "study"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {parent.info.run_id, None}
    assert parent.info.status == "FINISHED"
    for run in runs:
        if run.data.tags["stage"] == "confirm":
            history = client.get_metric_history(run.info.run_id, "val/nll")
            assert [point.step for point in history] == [1, 2]
    names = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/report.html" in names


def test_the_champion_predicts_on_raw_images(finished: Finished) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{finished.store}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    images = load_images(open_source("digits"), "test")
    probabilities = model.predict(np.array(images.images[:50]))
    found = find_job(Store(str(finished.store)), finished.report["champion"]["job_id"])
    assert found is not None
    predictions = found.predictions("test")
    assert predictions is not None
    scaled = predictions.log_probabilities[:50] / finished.report["champion"]["temperature"]
    expected = np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_running_it_again_trains_nothing_and_doubles_nothing(
    finished: Finished, tmp_path: Path
) -> None:
    before = job_folders(finished.store)
    student = tmp_path / "student"
    words = ("run", str(TINY), "--store", str(finished.store), "--export", str(student))
    again = command(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert job_folders(finished.store) == before
    assert len(finished.search().trials) == 4
    lines = again.stdout.splitlines()
    assert lines[-3].startswith(f"{student}: safetensors, calibrated")
    assert lines[-11:-3] == finished.printed.splitlines()[-8:]
    test_mlflow_has_one_run_for_each_job(finished)

    images = load_images(open_source("digits"), "test").images[:1]
    assert open_model(student).predict(np.array(images)).shape == (1, 10)
    refused = command(*words)
    assert refused.returncode == 2
    assert f"{student} is there already and not empty; name a new folder" in refused.stderr


@pytest.mark.slow
def test_more_trials_keep_those_there_are(finished: Finished) -> None:
    """And one whose record was damaged is trained again, to the same bytes."""
    before, store = job_folders(finished.store), Store(str(finished.store))
    damaged = next(
        trial for trial in finished.search().trials if trial.state == TrialState.COMPLETE
    ).user_attrs["job_id"]
    record = find_job(store, damaged).record
    store.write(record.files[EPOCHS]["path"], b"x" * record.files[EPOCHS]["bytes"])
    more = command(
        "run",
        str(TINY),
        "--store",
        str(finished.store),
        "--set",
        "search.trials=5",
        "--set",
        "confirm.seeds=1",
    )
    assert more.returncode == 0, more.stdout + more.stderr
    trials = finished.search().trials
    assert len(trials) == 5
    assert {name for name in before if damaged not in name} <= job_folders(finished.store)
    again = find_job(store, damaged)
    assert (
        again is not None
        and again.record.files[WEIGHTS]["sha256"] == record.files[WEIGHTS]["sha256"]
    )
    printed = " ".join(more.stdout.split())
    assert "running the study makes it anew now" in printed
    assert "Traceback" not in printed
