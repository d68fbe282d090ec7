"""Tasks on a real cluster: those whose processes die, whose machine is at fault, and that fail."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from distill_ray.errors import DamagedError, RunError, StoreError
from distill_ray.execution import tune_run
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.messages import Finished, Record, Task
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.runner import TaskList, run_in_parallel, run_list


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


def test_all_tasks_are_done_in_order_and_told_of(cluster: Cluster) -> None:
    assignments = [telling(1, 2), telling(1), telling()]
    run_in_parallel(cluster, assignments, WorkerResources())
    done = {"val/nll": 0.5}
    assert [each.news for each in assignments] == [
        ["start", 1, 2, done],
        ["start", 1, done],
        ["start", done],
    ]


def naming_its_process(path: Path, wait: Callable[[], Any] | None = None) -> Heard:
    """A task that writes down its process, and what `wait` returns after it."""

    def work() -> Any:
        import os

        from distill_ray.execution.messages import Finished

        path.write_text(f"{os.getpid()}")
        yield [{"epoch": 1}]
        if wait is not None:
            wait()
        return Finished()

    return doing(work)


def test_processes_are_kept_for_later_lists(cluster: Cluster, tmp_path: Path) -> None:
    """There is room for two, either of which may get a task that is alone."""
    files = [tmp_path / f"{number}" for number in range(4)]
    for file in files:
        run_in_parallel(cluster, [naming_its_process(file)], WorkerResources())
    assert len({file.read_text() for file in files}) <= 2


def test_one_that_has_died_since_is_no_fault_of_a_task(cluster: Cluster, tmp_path: Path) -> None:
    resources = WorkerResources(retries=0)
    files = [tmp_path / "first", tmp_path / "second"]
    run_in_parallel(cluster, [naming_its_process(files[0])], resources)
    process = int(files[0].read_text())
    os.kill(process, signal.SIGKILL)
    while psutil.pid_exists(process):
        time.sleep(0.1)
    run_in_parallel(cluster, [naming_its_process(files[1])], resources)
    assert int(files[1].read_text()) != process


def test_those_without_work_end_while_others_go_on(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their machines may be needed elsewhere, or given back."""
    monkeypatch.setattr(tune_run, "IDLE_S", 0.0)
    short = tmp_path / "short"

    def wait() -> None:
        import pathlib
        import time

        import psutil

        path, limit = pathlib.Path(short), time.monotonic() + 120
        while not path.exists() or psutil.pid_exists(int(path.read_text())):
            assert time.monotonic() < limit
            time.sleep(0.1)

    assignments = [naming_its_process(tmp_path / "long", wait), naming_its_process(short)]
    run_in_parallel(cluster, assignments, WorkerResources())


def in_turns(begun: Path, awaited: Path) -> Heard:
    """A task that makes one file, and ends when there is the other."""

    def work() -> Any:
        import pathlib
        import time

        from distill_ray.execution.messages import Finished

        pathlib.Path(begun).touch()
        limit = time.monotonic() + 120
        while not pathlib.Path(awaited).exists():
            assert time.monotonic() < limit
            time.sleep(0.05)
        yield [{"epoch": 1}]
        return Finished()

    return doing(work)


TWO_PLACES = WorkerResources(cpus=(os.cpu_count() or 1) / 2)


def test_tasks_beside_others_take_the_places_that_are_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    """What they began is waited for by those who want it, later."""
    own, beside, end = tmp_path / "own", tmp_path / "beside", tmp_path / "end"
    assignments = [in_turns(own, beside), telling(1)]
    others = [in_turns(beside, end), telling(1)]
    tasks = TaskList(others)
    run_in_parallel(cluster, assignments, TWO_PLACES, beside=tasks)
    assert [each.news for each in assignments] == [["start", 1, {}], ["start", 1, {"val/nll": 0.5}]]
    assert [each.news for each in others] == [["start"], []]
    end.touch()
    run_list(cluster, tasks, TWO_PLACES)
    assert [each.news for each in others] == [["start", 1, {}], ["start", 1, {"val/nll": 0.5}]]


def test_tasks_whose_run_has_ended_are_handed_out_again() -> None:
    """They begin once, to those who hear of them."""
    first, second = telling(1), telling(1)
    tasks = TaskList([first, second])
    assert tasks.next_task("a") is first.task
    tasks.on_start("a")
    tasks.on_end("a", None)
    assert tasks.next_task("b") is first.task
    tasks.on_start("b")
    tasks.on_end("b", Finished())
    assert first.news == ["start", {}]
    assert tasks.next_task("c") is second.task


def broken_disk() -> None:
    raise OSError(5, "Input/output error")


def killed() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("act", [broken_disk, killed], ids=["disk", "killed"])
def test_faults_of_the_machine_are_tried_again(
    cluster: Cluster, tmp_path: Path, act: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    # Local functions reach other processes by value
    code = act.__code__

    def local() -> None:
        import os
        import types

        types.FunctionType(code, {"os": os, "OSError": OSError})()

    assignment = at_first(tmp_path / "tried", local)
    run_in_parallel(cluster, [assignment], WorkerResources())
    assert assignment.news == ["start", 1, 1, 2, {"val/nll": 0.5}]
    assert "something is started again: " in caplog.text


def test_an_environment_without_a_package_is_tried_again(cluster: Cluster, tmp_path: Path) -> None:
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
    run_in_parallel(cluster, [assignment], WorkerResources())
    assert assignment.news == ["start", 1, {"val/nll": 0.5}]


@pytest.fixture
def trial(tmp_path: Path) -> Any:
    """A trial of Tune whose process could not begin, twice."""
    reason = ModuleNotFoundError("No module named 'torch'")
    text = "RuntimeError: X failed to import\n\nModuleNotFoundError: No module named 'torch'"
    error = ActorDiedError(RayTaskError("X.__init__", text, reason))
    (tmp_path / "error").write_bytes(pickle.dumps(error))
    return SimpleNamespace(
        trial_id="t",
        pickled_error_file=str(tmp_path / "error"),
        run_metadata=SimpleNamespace(num_failures=2),
    )


def test_a_process_that_cannot_begin_says_why(trial: Any) -> None:
    """Ray's own text is long; what its process ran into comes last."""
    reason = "its process could not begin: ModuleNotFoundError: No module named 'torch'"
    assert tune_run._reason(trial) == reason


def test_a_process_that_was_killed_says_why(trial: Any, tmp_path: Path) -> None:
    error = RayActorError(error_msg="its process was killed: low on memory")
    (tmp_path / "error").write_bytes(pickle.dumps(error))
    assert tune_run._reason(trial) == "its process was killed: low on memory"


def test_what_could_not_begin_is_tried_again_after_a_pause(trial: Any) -> None:
    """Until a cluster knows that a machine is gone it would give it every attempt."""
    run = MagicMock()
    listener = tune_run._Listener(run)
    listener.on_trial_recover(1, [], trial)
    run.pause.assert_called_once_with(2)
    listener.on_trial_start(1, [], trial)
    listener.on_trial_recover(1, [], trial)
    run.pause.assert_called_once_with(2)
    listener.on_trial_recover(1, [], trial)
    assert run.pause.call_count == 2


def test_a_fault_that_stays_is_named_and_has_failed(cluster: Cluster) -> None:
    assignment = telling(1, 2, error=OSError(5, "Input/output error"))
    with pytest.raises(RunError, match=r"^something: OSError: .*Input/output error; tried 2 times"):
        run_in_parallel(cluster, [assignment], WorkerResources(retries=1))
    assert assignment.news[:3] == ["start", 1, 1]
    assert "Input/output error; tried 2 times" in assignment.news[3]


def test_a_failure_of_the_job_ends_it_all_at_once(cluster: Cluster) -> None:
    beside, failing = telling(1, seconds=600), telling(1, error=ValueError("no"))
    with pytest.raises(RunError, match=r"^something: no$"):
        run_in_parallel(cluster, [beside, failing], WorkerResources())
    assert failing.news == ["start", 1, "no"]
    assert "val/nll" not in str(beside.news)


@pytest.mark.parametrize("error", [DamagedError("it is gone"), StoreError("no space left")])
def test_no_task_has_failed_where_the_store_has(cluster: Cluster, error: Exception) -> None:
    beside, noticing = telling(1, seconds=600), telling(1, error=error)
    with pytest.raises(type(error), match=str(error)):
        run_in_parallel(cluster, [beside, noticing], WorkerResources())
    assert noticing.news in (["start", 1], ["start"])
    assert str(error) not in beside.news
