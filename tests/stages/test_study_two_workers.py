"""Studies whose jobs have two workers: Ray Train, DDP over gloo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from distill_ray.records import find_job
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages.screen import find_screening, screenings
from distill_ray.store import Store
from distill_ray.study import load_study
from support.studies import TINY, command, only_search

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("trial_workers", "on_two"),
    [(1, 1), (2, 3)],
    ids=["teacher", "teacher and students"],
)
def test_jobs_on_two_workers(trial_workers: int, on_two: int, tmp_path: Path) -> None:
    """Ray Train, DDP over gloo; a trial of two workers that is pruned gives its place to the next.

    The study also has a screening, which leaves one augmentation to the search.
    """
    workers = ("resources.workers_per_teacher=2", f"resources.workers_per_trial={trial_workers}")
    fewer = (
        "teachers.members=1",
        "search.trials=2",
        "search.try_first=[]",
        "confirm.seeds=1",
        "confirm.baselines=[]",
    )
    fewer += ("screen={epochs: 6, keep: 1}",)
    overrides = [argument for override in workers + fewer for argument in ("--set", override)]
    run = command("run", str(TINY), "--store", str(tmp_path), *overrides)
    assert run.returncode == 0, run.stdout + run.stderr
    store = Store(str(tmp_path))
    jobs = [found.job for job in store.names("jobs") if (found := find_job(store, job))]
    assert Counter(job.workers for job in jobs)[2] >= on_two
    check_screening(tmp_path, workers + fewer)


def check_screening(folder: Path, overrides: tuple[str, ...]) -> None:
    """Both choices were measured, the one with the lower T. stddev was searched alone, and MLflow
    and the report say so.
    """
    from mlflow import MlflowClient

    study = load_study(TINY, overrides)
    store, data = Store(str(folder)), data_of(study)
    (teacher,) = teacher_runs(study, data)
    asked = screenings(study, data, [teacher.job.id])
    measured = {each.label: found for each in asked if (found := find_screening(store, each))}
    assert set(measured) == {"identity", "crop"}
    kept = min(measured, key=lambda label: measured[label].deviation.value)
    assert {trial.params["augmentation"] for trial in only_search(folder).trials} == {kept}

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'screen'")
    recorded = {run.info.run_name: run.data.metrics for run in runs}
    assert recorded == {
        f"screening · {label}": pytest.approx(screened.metrics)
        for label, screened in measured.items()
    }
    assert {run.info.status for run in runs} == {"FINISHED"}

    shown = (folder / "studies" / "tiny" / "report" / "report.md").read_text()
    assert f"{measured[kept].deviation.value:.6f} | " in shown
    assert shown.count(" | left out") == 1
