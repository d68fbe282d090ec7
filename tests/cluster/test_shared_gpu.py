"""Trials that share a GPU: a node that is said to have one, whatever the machine has, takes as many as the fraction allows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill_ray.records import find_job
from distill_ray.stages.cluster import Machines, WorkerResources
from distill_ray.store import Store

TINY = Path(__file__).parents[1] / "stages" / "tiny.yaml"

WATCH = """
import sys, time
from pathlib import Path
import ray
ray.init(address=sys.argv[1], logging_level="ERROR")
print("watching", flush=True)
lowest = 1.0
while not Path(sys.argv[2]).exists():
    lowest = min(lowest, ray.available_resources().get("GPU", 0.0))
    time.sleep(0.05)
print(lowest)
"""


@pytest.mark.parametrize(
    ("cpus", "gpus", "places"), [(1, 0.25, 4), (1, 0.3, 3), (1, 1, 1), (4, 0.25, 2), (1, 0, 8), (1, 2, 0), (1, 0.1, 8)]
)
def test_how_many_fit_a_machine(cpus: float, gpus: float, places: int) -> None:
    machine = Machines({"CPU": 8, "GPU": 1})
    assert machine.places(WorkerResources(cpus, gpus)) == places


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_trials_on_one_gpu(machines: Any, tmp_path: Path) -> None:
    """A quarter of it stays free, as `max_concurrent` says: so trials asked for a quarter each, and ran at the same time."""
    machines.start("--address", machines.address, "--num-cpus", "4", "--num-gpus", "1", "--object-store-memory", "100000000")
    over = tmp_path / "over"
    watching = subprocess.Popen(
        [sys.executable, "-c", WATCH, machines.address, str(over)], env=machines.environment, stdout=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None and watching.stdout.readline() == "watching\n"
    command = [str(Path(sys.executable).with_name("distill-ray")), "run", str(TINY), "--address", machines.address]
    command += ["--store", str(tmp_path / "store"), "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    for field in ("resources.gpus_per_worker=0.25", "search.max_concurrent=3", "search.trials=6", "student.epochs=6"):
        command += ["--set", field]
    done = subprocess.run(command, env=machines.environment, capture_output=True, text=True, timeout=900)
    over.touch()
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(watching.communicate(timeout=60)[0]) == pytest.approx(0.25)
    store = Store.open(str(tmp_path / "store"))
    assert sum(find_job(store, name) is not None for name in store.names("jobs")) >= 8
