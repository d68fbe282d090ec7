"""The states of jobs in MLflow's words."""

from __future__ import annotations

import pytest
from mlflow.entities import RunStatus

from distill_ray.events import JobState
from distill_ray.tracking.states import STATE_TAG, mlflow_status, state_of_run


@pytest.mark.parametrize("state", JobState)
def test_mlflow_knows_the_status_and_the_tag_tells_the_rest(state: JobState) -> None:
    status = mlflow_status(state)
    assert RunStatus.from_string(status)
    assert state_of_run(status, {STATE_TAG: state}) == state


@pytest.mark.parametrize(
    ("status", "tag", "state"),
    [
        ("RUNNING", "finished", JobState.RUNNING),
        ("KILLED", "finished", JobState.INTERRUPTED),
        ("FINISHED", "running", JobState.INTERRUPTED),
        ("FINISHED", None, JobState.INTERRUPTED),
        ("FAILED", "pruned", JobState.FAILED),
        ("KILLED", "a word of someone else", JobState.INTERRUPTED),
    ],
)
def test_a_tag_that_contradicts_the_status_does_not_count(
    status: str, tag: str | None, state: JobState
) -> None:
    assert state_of_run(status, {} if tag is None else {STATE_TAG: tag}) == state
