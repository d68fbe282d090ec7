"""What MLflow has of the screening: a finished run for each augmentation that was measured, told of
once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.events import JobState
from distill_ray.resolve import data_of
from distill_ray.stages.mlflow_observer import MlflowObserver
from distill_ray.stages.screen import ENTROPY, T_STDDEV, measurement, screenings
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.tracking import Tracker

TINY = Path(__file__).parents[1] / "tiny.yaml"


def test_a_measurement_is_a_run_of_its_own(
    tracking_uri: str, tmp_path: Path, said: list[str]
) -> None:
    study = load_study(
        TINY, ("screen={epochs: 6, candidates: [identity, {name: cutout, size: 4, flip: false}]}",)
    )
    data = data_of(study)
    plain, holes = screenings(study, data, ["t" * 20])
    found = {T_STDDEV: 0.25, ENTROPY: 1.5, "screen/groups": 2.0}
    for reused in (False, True):  # the second time as another driver, which finds it in the store
        tracker = Tracker(
            tracking_uri,
            "tiny",
            "key",
            artifacts=str(tmp_path / "artifacts"),
            interval=0.02,
        )
        record = MlflowObserver(tracker, study, data)
        record.study_started(Store(str(tmp_path)))
        record.measured(measurement(holes, found, reused=reused))
        if reused:
            record.measured(measurement(plain, found))
        tracker.finish_study(JobState.FINISHED)
        tracker.close()
        assert said == []

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri, tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    runs = {
        run.info.run_name: run
        for run in client.search_runs([experiment.experiment_id], "tags.stage = 'screen'")
    }
    assert set(runs) == {"screening · cutout", "screening · identity"}
    (parent,) = client.search_runs(
        [experiment.experiment_id], "tags.`mlflow.runName` = 'study tiny'"
    )
    run = runs["screening · cutout"]
    assert run.data.metrics == pytest.approx(found)
    assert (
        run.data.tags["augmentation"] == "cutout"
        and run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    )
    assert {
        "augmentation": "cutout",
        "augmentation.size": "4",
        "augmentation.flip": "False",
        "epochs": "6",
    }.items() <= run.data.params.items()
    assert {each.info.status for each in runs.values()} == {"FINISHED"}
