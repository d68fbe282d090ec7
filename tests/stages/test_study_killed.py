"""A study whose driver is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from support.studies import TINY, command, job_folders, only_search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    "stage",
    ["teach", "search", "confirm"],
)
def test_killed_and_run_again(stage: str, tmp_path: Path) -> None:
    """`kill -9` of the driver in a stage; the same command then finishes without training a
    finished job again.
    """
    store = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-m", "distill_ray", "run", str(TINY), "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith(f"[{stage} 1/"):
                os.kill(driver.pid, signal.SIGKILL)
                break
        driver.wait()
    before = {folder: (store / folder).stat().st_mtime_ns for folder in job_folders(store)}
    ended = []
    if (store / "studies" / "tiny" / "search.journal").exists():
        ended = [trial.number for trial in only_search(store).trials if trial.state.is_finished()]
    time.sleep(2)
    again = command("run", str(TINY), "--store", str(store))
    assert again.returncode == 0, again.stdout + again.stderr
    assert {folder: (store / folder).stat().st_mtime_ns for folder in before} == before
    trials = only_search(store).trials
    counted = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(counted) == 4
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    assert set(ended) <= {trial.number for trial in trials if trial.state.is_finished()}
