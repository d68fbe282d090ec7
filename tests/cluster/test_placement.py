"""More multi-worker trials than fit at once, some of them pruned: all that they held is free again,
and none waits for ever.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill_ray.stages.state import StudyState

TINY = Path(__file__).parents[1] / "tiny.yaml"
TRIALS = 5

pytestmark = pytest.mark.slow


def test_everything_is_given_back(machines: Any, tmp_path: Path) -> None:
    """Trials of two workers on two nodes of two CPUs: two fit. Watched while they run, and looked
    at before the driver ends.
    """
    for _ in range(2):
        machines.start(
            "--address", machines.address, "--num-cpus", "2", "--object-store-memory", "100000000"
        )
    command = [sys.executable, __file__, machines.address, str(tmp_path / "store")]
    done = subprocess.run(
        command, env=machines.environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    print(seen)
    assert sum(seen["states"].values()) == TRIALS
    assert seen["states"].get("PRUNED", 0) >= 1, "nothing was pruned, so nothing is proven"
    assert seen["most_training"] == 2
    assert seen["epochs_of_pruned"] == [1] * seen["states"]["PRUNED"]
    assert seen["left"] == {"placement groups": [], "actors": [], "CPU": 4.0}


def watch(address: str, folder: str) -> dict[str, Any]:
    """Run the study in this process and say what was seen of the cluster, meanwhile and when its
    search was over.
    """
    import threading
    import time
    from collections import Counter

    import ray
    from ray._private.state import actors
    from ray.util import placement_group_table

    from distill_ray.events import Observers
    from distill_ray.execution.cluster import Cluster
    from distill_ray.records import log_path
    from distill_ray.resolve import data_of, teacher_runs
    from distill_ray.search.history import open_history
    from distill_ray.stages.pipeline import RunContext, run_stages
    from distill_ray.store import Store
    from distill_ray.study import load_study

    settings = [
        "resources.workers_per_trial=2",
        "teachers.members=1",
        f"search.trials={TRIALS}",
        "student.epochs=3",
    ]
    # Of three that finish an epoch one goes on
    settings += ["search.scheduler={name: asha, grace_epochs: 1, reduction: 3}"]
    settings += ["confirm.seeds=1", "confirm.baselines=[]", "resources.workers_per_teacher=2"]
    study, store = load_study(TINY, settings), Store.open(folder)
    data = data_of(study)

    def held() -> list[str]:
        return [
            group for group, entry in placement_group_table().items() if entry["state"] != "REMOVED"
        ]

    def training() -> int:
        """How many groups of two whole CPUs there are that have their place: one for each
        multi-worker job that trains.
        """
        bundles = [
            entry["bundles"].values()
            for entry in placement_group_table().values()
            if entry["state"] == "CREATED"
        ]
        return sum(sum(bundle.get("CPU", 0) for bundle in group) == 2 for group in bundles)

    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.5):
            if ray.is_initialized():
                most = max(most, training())

    with Cluster(address) as cluster:
        watching = threading.Thread(target=look)
        watching.start()
        run_stages(
            RunContext(StudyState(study, data, store, advancing=True), cluster, Observers(()))
        )
        over.set()
        watching.join()
        limit = time.monotonic() + 60
        while True:
            alive = [
                actor["ActorClassName"] for actor in actors().values() if actor["State"] != "DEAD"
            ]
            # Ray Train's own, one for the cluster
            alive = [name for name in alive if name != "_AutoscalingCoordinatorActor"]
            left = {
                "placement groups": held(),
                "actors": alive,
                "CPU": ray.available_resources().get("CPU", 0.0),
            }
            if (
                left == {"placement groups": [], "actors": [], "CPU": 4.0}
                or time.monotonic() > limit
            ):
                break
            time.sleep(1)
        history = open_history(
            study, data, [run.job.id for run in teacher_runs(study, data)], store, None
        )
        pruned = [trial for trial in history.trials if trial.state.name == "PRUNED"]
        logs = [
            (store.read(log_path(trial.user_attrs["job_id"])) or b"").decode() for trial in pruned
        ]
        saved = [store.names(f"work/{trial.user_attrs['job_id']}") for trial in pruned]
    return {
        "states": Counter(trial.state.name for trial in history.trials),
        "most_training": most,
        "epochs_of_pruned": [sum("  val/nll" in line for line in log.splitlines()) for log in logs],
        "checkpoints_of_pruned": saved,
        "left": left,
    }


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1], sys.argv[2])))
