"""A study on a cluster of a head without CPUs and a second node, with tokens, through the job
server, on an object store.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from distill_ray.records import find_job
from distill_ray.store import Store

TINY = Path(__file__).parents[1] / "tiny.yaml"

pytestmark = pytest.mark.slow


def test_submitted_followed_stopped_and_submitted_again(
    object_store: str, postgresql: Any, machines: Any, tmp_path: Path
) -> None:
    """What was finished before the stop is not trained again, and neither password nor key is in
    what it prints.
    """
    machines.start(
        "--address", machines.address, "--num-cpus", "2", "--object-store-memory", "100000000"
    )
    store, storage = Store.open(object_store), postgresql.address("optuna")
    ray = str(Path(sys.executable).with_name("ray"))

    def submit(name: str, *options: str) -> list[str]:
        study = ["distill-ray", "run", str(TINY), "--address", "auto", "--store", object_store]
        places = ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--search-storage", storage]
        return [
            ray,
            "job",
            "submit",
            "--address",
            machines.job_server,
            "--submission-id",
            name,
            *options,
            "--",
            *study,
            *places,
        ]

    def job(*arguments: str) -> str:
        command = [ray, "job", arguments[0], "--address", machines.job_server, *arguments[1:]]
        done = subprocess.run(
            command,
            env=machines.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        return done.stdout + done.stderr

    refused = subprocess.run(
        submit("no-token"),
        env=machines.environment | {"RAY_AUTH_TOKEN": "0" * 32},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0

    subprocess.run(
        submit("first", "--no-wait"),
        env=machines.environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    printed = ""
    follow = [ray, "job", "logs", "--address", machines.job_server, "--follow", "first"]
    with subprocess.Popen(
        follow,
        env=machines.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as logs:
        assert logs.stdout is not None
        for line in logs.stdout:
            printed += line
            if "[search 1/" in line:
                break
        logs.kill()
    assert "[search 1/" in printed, printed
    job("stop", "first")
    assert "stopped" in job("status", "first")
    before = {
        name: found.record.files for name in store.names("jobs") if (found := find_job(store, name))
    }
    assert len(before) >= 2

    second = subprocess.run(
        submit("second"),
        env=machines.environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    printed += second.stdout + second.stderr
    assert second.returncode == 0, printed
    assert "[teach" not in second.stdout
    assert "best found" in second.stdout
    for secret in ("open-sesame-4711", "secret"):
        assert secret not in printed
    after = {
        name: found.record.files for name in store.names("jobs") if (found := find_job(store, name))
    }
    assert {name: after[name] for name in before} == before

    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    assert sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials) == 4
    assert all(trial.state.is_finished() for trial in trials)
    status = subprocess.run(
        [sys.executable, "-m", "distill_ray", "status", str(TINY),
         "--store", object_store, "--search-storage", storage],
        env=machines.environment, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "tiny: finished" in status.stdout
    stages = next(name for name in store.names("studies/tiny") if name.startswith("stages-"))
    assert json.loads(store.read(f"studies/tiny/{stages}") or b"")


def test_jobs_on_workers_of_two_nodes_and_more_than_fit(machines: Any, tmp_path: Path) -> None:
    """Two workers on two nodes of one CPU each; more trials of two workers than fit at once, some
    of them pruned.
    """
    for _ in range(2):
        machines.start(
            "--address", machines.address, "--num-cpus", "1", "--object-store-memory", "100000000"
        )
    two = ("resources.workers_per_teacher=2", "resources.workers_per_trial=2")
    small = ("teachers.members=1", "search.trials=3", "confirm.seeds=1", "confirm.baselines=[]")
    command = machines.run(TINY, tmp_path / "s", *two, *small)
    done = subprocess.run(
        command, env=machines.environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    command += ["--set", "resources.workers_per_trial=3", "--set", "teachers.members=2"]
    refused = subprocess.run(
        command, env=machines.environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert refused.returncode == 2
    assert (
        "3 workers of 1 CPU and 0 GPU do not fit the cluster, "
        "which has 2 CPU and 0 GPU in 3 machines" in refused.stderr
    )
