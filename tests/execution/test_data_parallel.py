"""What the end of Ray Train's trainer means for a job."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError

from distill_ray.errors import RunError
from distill_ray.execution.data_parallel import explained

LOW = "5 worker(s) were killed due to the node running low on memory."


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemoryError(f"{LOW}\nEviction Stats:"), LOW),
        (ControllerError(OutOfMemoryError(f"{LOW}\nEviction Stats:")), LOW),
        (NodeDiedError("gone"), "gone"),
        (ControllerError(RuntimeError("no answer")), "no answer"),
        (ActorDiedError(), "The actor died unexpectedly before finishing this task."),
    ],
    ids=["memory", "memory of the controller", "node", "controller", "actor"],
)
def test_the_machine_is_at_fault_and_the_job_is_tried_again(error: Exception, reason: str) -> None:
    fault = explained(error, 2)
    assert isinstance(fault, ChildProcessError)
    assert str(fault) == f"a process that leads the workers died: {reason}"


def test_workers_that_died_too_often_are_a_failure() -> None:
    error = explained(WorkerGroupError("both died", {}), 2)
    assert isinstance(error, RunError)
    assert "training on 2 workers failed" in str(error) and "both died" in str(error)
