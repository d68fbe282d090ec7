"""What MLflow has of a study that ended while it was away: everything, once, with the times at
which it happened.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distill_ray.cli import main

if TYPE_CHECKING:
    from conftest import FinishedStudy


def test_everything_is_there_once(
    finished_study: FinishedStudy,
    tracking_uri: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    store = str(tmp_path / "store")
    shutil.copytree(finished_study.store.uri, store)
    sync = ["sync", str(finished_study.file), "--store", store, "--tracking-uri", tracking_uri]
    for _ in range(2):
        assert main(sync) == 0
        assert capsys.readouterr().out.endswith("has all of study tiny\n")
    client = MlflowClient(tracking_uri, tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.data.tags["stage"] for run in runs) == {
        "study": 1,
        "teach": 2,
        "search": 4,
        "confirm": 4,
    }
    teacher = next(run for run in runs if run.data.tags["stage"] == "teach")
    assert (teacher.info.start_time, teacher.info.end_time) == (1e12 - 500, 1e12)
    (study,) = [run for run in runs if run.data.tags["stage"] == "study"]
    description = study.data.tags["mlflow.note.content"]
    for words in (
        "The best student classifies",
        "| student from scratch&nbsp;",
        "[best student](#/models/tiny)",
        "report/report.html",
    ):
        assert words in description
    assert client.get_model_version_by_alias("tiny", "champion").run_id in {
        run.info.run_id for run in runs
    }

    # The store by another name has the same runs, the same study on another store has its own: its
    # trials drew other settings.
    count = len(runs)
    moved = Path(store).rename(tmp_path / "moved")
    assert main([*sync[:3], str(moved), *sync[4:]]) == 0
    assert len(client.search_runs([experiment.experiment_id])) == count
    other = shutil.copytree(finished_study.store.uri, tmp_path / "other")
    history = other / "studies" / "tiny" / "search.journal"
    drawn = r'("trial_id":2,"param_name":"temperature","param_value_internal":)[0-9.]+'
    history.write_text(re.sub(drawn, r"\g<1>7.5", history.read_text()))
    assert main([*sync[:3], str(other), *sync[4:]]) == 0
    assert "does not take" not in capsys.readouterr().out
    assert len(client.search_runs([experiment.experiment_id])) == 2 * count
    failed = client.search_runs(
        [experiment.experiment_id], "tags.`mlflow.runName` LIKE 'trial 002%'"
    )
    assert [run.data.params["temperature"] == "7.5" for run in failed] in (
        [True, False],
        [False, True],
    )
    stores = client.search_runs([experiment.experiment_id], "tags.stage = 'study'")
    assert {run.data.tags["store"] for run in stores} == {str(moved), str(other)}
    sync[3] = str(moved)

    # Another version of the study has a run of its own, and shares those of its jobs; each list
    # shows the jobs of the last version alone.
    assert main([*sync, "--set", "search.trials=5"]) == 0
    assert capsys.readouterr().out.endswith("has all of study tiny, which is not finished\n")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    filters = {
        name: json.loads(json.loads(experiment.tags[f"mlflow.sharedViewState.{name}"])["state"])[
            "searchFilter"
        ]
        for name in ("trials", "jobs")
    }
    assert len(client.search_runs([experiment.experiment_id], "tags.stage = 'search'")) == 8
    assert len(client.search_runs([experiment.experiment_id], "tags.stage = 'study'")) == 3
    assert len(client.search_runs([experiment.experiment_id], filters["trials"])) == 4
    # Of its confirmation it has the baseline's runs, which do not depend on the search
    assert len(client.search_runs([experiment.experiment_id], filters["jobs"])) == 8
