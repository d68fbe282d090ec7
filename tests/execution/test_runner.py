"""Tasks on a real cluster: those whose processes die, whose machine is at fault, and that fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import DamagedError, RunError, StoreError
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.messages import Finished, Record, Task
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.runner import run_in_parallel


@dataclass
class Heard:
    """An assignment that only notes what it hears."""

    task: Any
    log: str = ""
    news: list[Any] = field(default_factory=list)

    def on_start(self) -> None:
        self.news.append("start")

    def on_epochs(self, records: Sequence[Record]) -> None:
        self.news += [record["epoch"] for record in records]

    def on_finish(self, result: Finished) -> None:
        self.news.append(result.metrics)

    def on_failure(self, reason: str) -> None:
        self.news.append(reason)


def doing(work: Callable[[], Any], epochs: int = 1) -> Heard:
    """A task with that work. Its class is made here, so that other processes get it by value."""

    class Doing(Task):
        name = "something"

        def __init__(self) -> None:
            self.epochs = epochs

        def work(self) -> Any:
            return work()

    return Heard(Doing())


def telling(*numbers: int, error: Exception | None = None, seconds: float = 0.0) -> Heard:
    def work() -> Any:
        from distill_ray.execution.messages import Finished

        for number in numbers:
            yield [{"epoch": number}]
        time.sleep(seconds)
        if error is not None:
            raise error
        return Finished({"val/nll": 0.5})

    return doing(work, len(numbers))


def at_first(path: Path, act: Callable[[], None]) -> Heard:
    """A task that does something bad the first time, after its first epoch."""

    def work() -> Any:
        from distill_ray.execution.messages import Finished

        yield [{"epoch": 1}]
        if not path.exists():
            path.touch()
            act()
        yield [{"epoch": 2}]
        return Finished({"val/nll": 0.5})

    return doing(work, 2)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        made.connect()
        yield made


def test_all_tasks_are_done_in_order_and_told_of() -> None:
    assignments = [telling(1, 2), telling(1), telling()]
    run_in_parallel(assignments, WorkerResources())
    done = {"val/nll": 0.5}
    assert [each.news for each in assignments] == [
        ["start", 1, 2, done],
        ["start", 1, done],
        ["start", done],
    ]


def broken_disk() -> None:
    raise OSError(5, "Input/output error")


def killed() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("act", [broken_disk, killed], ids=["disk", "killed"])
def test_faults_of_the_machine_are_tried_again(
    tmp_path: Path, act: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    # Local functions reach other processes by value
    code = act.__code__

    def local() -> None:
        import os
        import types

        types.FunctionType(code, {"os": os, "OSError": OSError})()

    assignment = at_first(tmp_path / "tried", local)
    run_in_parallel([assignment], WorkerResources())
    assert assignment.news == ["start", 1, 1, 2, {"val/nll": 0.5}]
    assert "something is started again: " in caplog.text


def test_an_environment_without_a_package_is_tried_again(tmp_path: Path) -> None:
    """A task that cannot even be unpickled, as where the package's folder has just gone."""
    path = tmp_path / "tried"

    def unpickled() -> Any:
        import pathlib

        if not pathlib.Path(path).exists():
            pathlib.Path(path).touch()
            raise ModuleNotFoundError("No module named 'distill_ray.store'")
        return 0

    class Unpickles:
        def __reduce__(self) -> Any:
            return unpickled, ()

    assignment = telling(1)
    assignment.task.burden = Unpickles()
    run_in_parallel([assignment], WorkerResources())
    assert assignment.news == ["start", 1, {"val/nll": 0.5}]


def test_a_fault_that_stays_is_named_and_has_failed() -> None:
    assignment = telling(1, 2, error=OSError(5, "Input/output error"))
    with pytest.raises(RunError, match=r"^something: OSError: .*Input/output error; tried 2 times"):
        run_in_parallel([assignment], WorkerResources(retries=1))
    assert assignment.news[:3] == ["start", 1, 1]
    assert "Input/output error; tried 2 times" in assignment.news[3]


def test_a_failure_of_the_job_ends_it_all_at_once() -> None:
    begun = time.monotonic()
    beside, failing = telling(1, seconds=600), telling(1, error=ValueError("no"))
    with pytest.raises(RunError, match=r"^something: no$"):
        run_in_parallel([beside, failing], WorkerResources())
    assert failing.news == ["start", 1, "no"]
    assert "val/nll" not in str(beside.news)
    assert time.monotonic() - begun < 300


@pytest.mark.parametrize("error", [DamagedError("it is gone"), StoreError("no space left")])
def test_no_task_has_failed_where_the_store_has(error: Exception) -> None:
    beside, noticing = telling(1, seconds=600), telling(1, error=error)
    with pytest.raises(type(error), match=str(error)):
        run_in_parallel([beside, noticing], WorkerResources())
    assert noticing.news in (["start", 1], ["start"])
    assert str(error) not in beside.news
