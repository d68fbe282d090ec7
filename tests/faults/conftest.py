"""A study with the same jobs in every run, run undisturbed once, and the means to disturb it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
import pytest

from distill_ray.records import WEIGHTS, find_job
from distill_ray.search.history import journal_path
from distill_ray.search.journal import journal
from distill_ray.store import Store

STUDY = Path(__file__).with_name("steady.yaml")

Results = dict[str, tuple[str, ...]]
Times = dict[str, list[float]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these are long: each runs a whole study with real processes."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(7200))


@dataclass
class Steady:
    """The study in one store."""

    store: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    printed: list[str] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "distill_ray",
            "run",
            str(STUDY),
            "--store",
            str(self.store),
            *self.options,
        ]

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        done = subprocess.run(
            self.command,
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
            env=self.environment,
        )
        self.printed.append(done.stdout + done.stderr)
        return done

    def finish(self) -> None:
        """Run it to its end, which must be good."""
        done = self.run()
        assert done.returncode == 0, "".join(self.printed)

    @contextlib.contextmanager
    def running(self) -> Iterator[Driver]:
        """The study while it is run; its driver is killed at the end of the block, if it still is
        there.
        """
        process = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )
        self.printed.clear()
        driver = Driver(self, process)
        try:
            yield driver
        finally:
            if process.poll() is None:
                driver.kill_all()
            process.wait()

    def results(self) -> Results:
        """Of every finished job the checksums of its weights and predictions."""
        store, found = Store(str(self.store)), {}
        for name in store.names("jobs"):
            record = find_job(store, name)
            if record is not None:
                files = {**record.record.files}
                if (tested := store.get(f"jobs/{name}/evaluations/test")) is not None:
                    files |= tested.files
                wanted = (WEIGHTS, "predictions-validation.parquet", "predictions-test.parquet")
                found[name] = tuple(files[file]["sha256"] for file in wanted if file in files)
        return found

    def under_way(self) -> Times:
        """Of every job with a checkpoint, when each of the epochs in it had ended."""
        return {
            name: [record["time"] for record in records]
            for name, records in self.histories().items()
        }

    def histories(self) -> dict[str, list[dict[str, float]]]:
        """The epochs in the checkpoint of every job that has one."""
        store, found = Store(str(self.store)), {}
        for name in store.names("work"):
            content = store.read(f"work/{name}/checkpoint.safetensors")
            if content is not None and find_job(store, name) is None:
                body = content[32:]
                header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])[
                    "__metadata__"
                ]
                found[name] = json.loads(header["history"])
        return found

    def epochs(self) -> dict[str, list[dict[str, float]]]:
        """The epochs of every finished job."""
        store = Store(str(self.store))
        return {
            name: found.epochs() for name in store.names("jobs") if (found := find_job(store, name))
        }

    def goes_on_from(self, before: Times) -> None:
        """The epochs that were in a checkpoint then are those of the finished jobs: none of them
        was trained again.
        """
        epochs = self.epochs()
        for name, times in before.items():
            assert [record["time"] for record in epochs[name]][: len(times)] == times

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = journal(Store(str(self.store)), journal_path("steady"))
        (summary,) = optuna.get_all_study_summaries(storage)
        return optuna.load_study(study_name=summary.study_name, storage=storage).trials


class Driver:
    """A running `distill-ray run`, with what it prints and the processes below it."""

    def __init__(self, study: Steady, process: subprocess.Popen[str]) -> None:
        self.study = study
        self.process = process
        self.began = time.time()
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.study.printed.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, text: str, timeout: float = 1500) -> None:
        """Wait until it has printed `text`."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: (
                    any(text in line for line in self.study.printed) or not self._reader.is_alive()
                ),
                timeout,
            )
            assert found and any(text in line for line in self.study.printed), "".join(
                self.study.printed
            )

    def until(self, condition: Callable[[], object], timeout: float = 1500) -> None:
        """Wait until `condition` holds."""
        limit = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None and time.monotonic() < limit, "".join(
                self.study.printed
            )
            time.sleep(0.02)

    def until_training(self, epochs: int = 2) -> Times:
        """Wait until a job that is not finished has that many epochs behind it in a checkpoint that
        was not there before.
        """
        old = self.study.under_way()
        found: Times = {}

        def is_training() -> bool:
            found.update(self.study.under_way())
            return any(
                len(times) >= max(epochs, len(old.get(name, ())) + 1)
                for name, times in found.items()
            )

        self.until(is_training)
        return found

    def ended(self, timeout: float = 3000) -> int:
        """Its exit code, waited for."""
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code

    def workers(self, name: str = "ray::") -> list[psutil.Process]:
        """The processes below it whose title contains `name`, those that idle left out."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    title = " ".join(process.cmdline())
                    if (
                        title.startswith("ray::")
                        and name in title
                        and "ray::IDLE" not in title
                        and "Agent" not in title
                    ):
                        found.append(process)
        return found

    def kill_worker(self, name: str) -> Times:
        """kill -9 of a worker of that name while it trains; the jobs that were under way."""
        before = self.until_training()
        found = self.workers(name)
        assert found, [" ".join(each.cmdline()) for each in self.workers()]
        for process in found:
            process.kill()
        assert before
        return before

    def kill_all(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            for process in [psutil.Process(self.process.pid), *below]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def steady(tmp_path: Path) -> Callable[..., Steady]:
    """The study in a store of the test's own."""
    return lambda *options, store=None: Steady(store or tmp_path / "store", options)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Steady:
    """The study as it is when nothing happens to it."""
    study = Steady(
        Path(
            os.environ.get("DISTILL_RAY_UNDISTURBED")
            or tmp_path_factory.mktemp("undisturbed") / "store"
        )
    )
    study.finish()
    return study


@pytest.fixture(scope="session")
def group_alone(tmp_path_factory: pytest.TempPathFactory) -> Steady:
    """A study of one teacher on two workers and one trial, as it is when nothing happens to it."""
    small = (
        "resources.workers_per_teacher=2",
        "teachers.members=1",
        "teachers.epochs=12",
        "confirm.baselines=[]",
    )
    search = ("search.trials=1", "search.try_first=[{temperature: 4, alpha: 0.9, lr: 0.1}]")
    options = tuple(argument for override in (*small, *search) for argument in ("--set", override))
    study = Steady(tmp_path_factory.mktemp("group") / "store", options)
    study.finish()
    return study


@pytest.fixture(scope="session")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Steady:
    """The study with 100 epochs a job, so that it takes some minutes, as it is when nothing happens
    to it.
    """
    options = ("--set", "teachers.epochs=100", "--set", "student.epochs=100")
    study = Steady(tmp_path_factory.mktemp("longer") / "store", options)
    study.finish()
    return study
