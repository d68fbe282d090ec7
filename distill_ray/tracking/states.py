"""The states of jobs in MLflow's words: the one place that knows them.

MLflow has no status of its own for a job that was pruned, infeasible or interrupted. A pruned job
has done what it was to do, an infeasible one had nothing to do, and MLflow's page shows `KILLED` as
a red cross, so they are `FINISHED`; an interrupted one is `KILLED`. Every run also has a tag with
the state itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from distill_ray.events import JobState

STATE_TAG = "status"
"""Tag of every run with its `JobState`."""

_STATUSES = {
    JobState.WAITING: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.FINISHED: "FINISHED",
    JobState.PRUNED: "FINISHED",
    JobState.INFEASIBLE: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.INTERRUPTED: "KILLED",
}


def mlflow_status(state: JobState) -> str:
    """MLflow's status for a job in `state`."""
    return _STATUSES[state]


def state_of_run(status: str, tags: Mapping[str, str]) -> JobState:
    """The state of a job whose run has this status and these tags.

    Where the tag contradicts the status (writing it was interrupted, say, or someone changed the
    run), the status decides, and a run that seems to have ended well counts as interrupted.
    """
    tag = tags.get(STATE_TAG)
    if tag in list(JobState) and _STATUSES[JobState(tag)] == status:
        return JobState(tag)
    if status in ("RUNNING", "SCHEDULED"):
        return JobState.RUNNING
    return JobState.FAILED if status == "FAILED" else JobState.INTERRUPTED
