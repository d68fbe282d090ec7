"""Trials that share a GPU: one that Ray is told of, whether the machine has it or not, takes as
many as the fraction allows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill_ray.execution.machines import Machines
from distill_ray.execution.resources import WorkerResources
from distill_ray.records import find_job
from distill_ray.store import Store

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.mark.parametrize(
    ("cpus", "gpus", "places"),
    [(1, 0.25, 4), (1, 0.3, 3), (1, 1, 1), (4, 0.25, 2), (1, 0, 8), (1, 2, 0), (1, 0.1, 8)],
)
def test_how_many_fit_a_machine(cpus: float, gpus: float, places: int) -> None:
    machine = Machines({"CPU": 8, "GPU": 1})
    assert machine.workers(WorkerResources(cpus, gpus)) == places


@pytest.mark.parametrize(("gpus", "places"), [(0.6, 2), (0.5, 4), (0.25, 8), (1, 2), (2, 1)])
def test_a_part_of_a_gpu_does_not_spread_over_two(gpus: float, places: int) -> None:
    assert Machines({"CPU": 8, "GPU": 2}).workers(WorkerResources(1, gpus)) == places


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "together"), [(0.5, 2), (1, 1)])
def test_trials_on_one_gpu(gpus: float, together: int, tmp_path: Path) -> None:
    """With four CPUs, only the GPU decides how many trials run at the same time."""
    command = [
        str(Path(sys.executable).with_name("distill-ray")),
        "run",
        str(TINY),
        "--store",
        str(tmp_path / "store"),
    ]
    command += ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    for field in (
        f"resources.gpus_per_worker={gpus}",
        "student.epochs=60",
        "search.scheduler=none",
    ):
        command += ["--set", field]
    environment = os.environ | {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 4, "GPU": 1})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store.open(str(tmp_path / "store"))
    found = [record for name in store.names("jobs") if (record := find_job(store, name))]
    trials = [
        list(record.epochs()) for record in found if record.job.teachers and record.job.seed == 1000
    ]
    assert len(trials) == 4
    spans = [(epochs[0]["time"], epochs[-1]["time"]) for epochs in trials]
    assert (
        max(sum(begun <= moment <= ended for begun, ended in spans) for moment, _ in spans)
        == together
    )
