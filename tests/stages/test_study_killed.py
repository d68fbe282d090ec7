"""A study whose driver is killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from support.studies import TINY, command, job_folders, kill_in_the_search, only_search

pytestmark = pytest.mark.slow


def test_killed_in_the_search_and_run_again(tmp_path: Path) -> None:
    """`kill -9` of the driver; the same command then finishes without training a finished job
    again. `tests/faults` has the other stages.
    """
    store = tmp_path / "store"
    kill_in_the_search("run", str(TINY), "--store", str(store))
    before = {folder: (store / folder).stat().st_mtime_ns for folder in job_folders(store)}
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
