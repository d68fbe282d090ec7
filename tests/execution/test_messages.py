"""How an error crosses from one process to another, and what a task tells of itself."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from distill_ray.errors import DamagedError, Failure, Fault, RequestError, RunError, StoreError
from distill_ray.execution.messages import Epochs, Finished, Record, Task, Work, messages


class Scripted(Task):
    """A task that tells of some epochs, and then raises or is done."""

    name = "scripted"
    epochs = 2

    def __init__(self, records: Sequence[Record], error: Exception | None = None) -> None:
        self._records = records
        self._error = error
        self.closed = False

    def work(self) -> Work:
        try:
            for record in self._records:
                yield [record]
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True
        return Finished({"val/nll": 0.5}, 2.0)


@pytest.mark.parametrize(
    ("error", "fault", "kind"),
    [
        (DamagedError("a record is gone"), "damaged", DamagedError),
        (StoreError("no space left"), "store", StoreError),
        (RequestError("row 3 is no image"), "request", RequestError),
        (RunError("the loss was nan"), "job", RunError),
        (ValueError("shapes differ"), "job", RunError),
        (OSError(errno.EIO, "Input/output error"), "machine", OSError),
        (ChildProcessError("its workers died"), "machine", OSError),
        (ModuleNotFoundError("No module named 'distill_ray.store'"), "machine", OSError),
    ],
)
def test_an_error_keeps_its_kind_and_its_reason(
    error: Exception, fault: Fault, kind: type[Exception]
) -> None:
    failure = Failure(**json.loads(json.dumps(asdict(Failure.of(error)))))
    assert failure.fault == fault
    again = failure.error()
    assert type(again) is kind
    assert failure.reason in str(again) and failure.reason in str(error)
    assert Failure.of(again).fault == fault
    if isinstance(error, OSError) and error.errno:
        assert isinstance(again, OSError) and again.errno == error.errno


def test_an_error_without_a_message_is_named() -> None:
    assert Failure.of(AssertionError()).reason == "AssertionError"


def test_a_task_tells_of_its_epochs_and_its_end() -> None:
    task = Scripted([{"epoch": 1}, {"epoch": 2}])
    assert list(messages(task)) == [
        Epochs([{"epoch": 1}]),
        Epochs([{"epoch": 2}]),
        Finished({"val/nll": 0.5}, 2.0),
    ]


@pytest.mark.parametrize("error", [DamagedError("gone"), StoreError("full"), ValueError("no")])
def test_what_the_machine_has_no_part_in_is_told(error: Exception) -> None:
    task = Scripted([{"epoch": 1}], error)
    assert list(messages(task)) == [Epochs([{"epoch": 1}]), Failure.of(error)]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "unreadable"), ImportError("gone")])
def test_faults_of_the_machine_are_raised(error: Exception) -> None:
    telling = messages(Scripted([{"epoch": 1}], error))
    assert next(telling) == Epochs([{"epoch": 1}])
    with pytest.raises(type(error)):
        next(telling)


def test_a_task_that_is_given_up_lets_go_of_what_it_holds() -> None:
    task = Scripted([{"epoch": 1}, {"epoch": 2}])
    telling = messages(task)
    next(telling)
    telling.close()
    assert task.closed
