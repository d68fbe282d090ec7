"""Does what writes again and again, each time interrupted at its next file operation, and then does
it once more.

Run by `test_torn_writes.py` with `interrupt.c` loaded into the process: `interrupted.py die|full
FOLDER [WHAT ...]`. After each interruption the store must read as if the work was done or was not,
and doing it again must succeed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from optuna.trial import TrialState

from distill_ray.errors import DistillRayError, RunError
from distill_ray.events import JobState, StudyJob
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import STORED
from distill_ray.execution.train_job import teachers_of
from distill_ray.records import WEIGHTS, find_job
from distill_ray.resolve import confirm_runs, data_of, teacher_runs
from distill_ray.search.history import counted, is_over, open_history
from distill_ray.search.searcher import queue_first, settle_abandoned
from distill_ray.stages.gc import CHECKPOINTS, garbage
from distill_ray.stages.references import References, referenced
from distill_ray.stages.stage_log import StageLog, stage_rows
from distill_ray.store import MANIFEST, Store
from distill_ray.study import load_study
from distill_ray.tracking import Tracker
from distill_ray.tracking.run_update import StudyName, runs_in_database
from distill_ray.training import Worker
from distill_ray.training.checkpoint import is_intact

STUDY = Path(__file__).with_name("steady.yaml")
SMALL = (
    "data.train=48",
    "data.validation=24",
    "screen.batch_size=4",
    "teachers.epochs=2",
    "student.epochs=2",
    "teachers.members=1",
)
DIED = 77


class Work(Protocol):
    """Something that writes."""

    def do(self) -> None:
        """Do it, or what is missing of it."""

    def look(self) -> None:
        """What must hold at any time."""

    def finished(self) -> object:
        """What must hold when it is done, and be equal however often it was interrupted."""


SAMPLED = {"mlflow": 6}
"""What has thousands of operations, most of them alike, is interrupted at so many of them."""


class Training:
    """A job of two epochs from the images in its cache to its predictions on the test split."""

    def __init__(self, folder: Path) -> None:
        os.environ["DISTILL_RAY_CACHE"] = str(folder / "cache")
        study = load_study(STUDY, SMALL)
        self.store = Store.open(str(folder / "store"))
        self.job = teacher_runs(study, data_of(study))[0].job

    def do(self) -> None:
        for _ in run_job(self.store, self.job, WorkerResources(), read_test=True):
            pass

    def look(self) -> None:
        found = find_job(self.store, self.job.id)
        if found is not None:
            assert all(found.record.read(name) for name in found.record.files)
            assert len(found.epochs()) == 2
        saved = self.store.read(f"work/{self.job.id}/checkpoint.safetensors")
        assert saved is None or is_intact(saved, self.job.id)

    def finished(self) -> object:
        found = find_job(self.store, self.job.id)
        assert found is not None
        predictions = found.predictions("test")
        assert predictions is not None
        assert not self.store.names("work") or [each.why for each in garbage(self.store)] == [
            CHECKPOINTS
        ]
        return found.record.files[WEIGHTS]["sha256"], predictions.log_probabilities.tobytes()


class TeacherLogits:
    """The teacher logits of two epochs, computed and read back."""

    def __init__(self, folder: Path) -> None:
        os.environ["DISTILL_RAY_CACHE"] = str(folder.parent / "cache")
        study = load_study(STUDY, SMALL)
        self.store = Store.open(str(folder / "store"))
        data = data_of(study)
        teacher = teacher_runs(study, data)[0].job
        trained = Store.open(str(folder.parent / "trained"))
        for _ in run_job(trained, teacher, WorkerResources()):
            pass
        shutil.copytree(Path(trained.uri, "jobs"), Path(self.store.uri, "jobs"))
        self.job = confirm_runs(study, data, [teacher.id], [study.student])[-1].job
        assert self.job.teachers == (teacher.id,)

    def do(self) -> None:
        teachers = teachers_of(self.store, self.job, Worker(torch.device("cpu")), STORED)
        for epoch in (1, 2):
            teachers.of_epoch(epoch)

    def look(self) -> None:
        self.whole()
        garbage(self.store, study="steady")

    def whole(self) -> dict[str, bytes]:
        found = {}
        for key in self.store.names("teacher_logits"):
            for epoch in self.store.names(f"teacher_logits/{key}"):
                if (
                    epoch.isdecimal()
                    and (record := self.store.get(f"teacher_logits/{key}/{epoch}")) is not None
                ):
                    found[epoch] = record.read("logits.arrow")
        return found

    def finished(self) -> object:
        whole = self.whole()
        assert list(whole) == ["00001", "00002"]
        return whole


class Searching:
    """A search of three trials, two of them set, up to its end."""

    FIRST = (
        {"temperature": 4.0, "alpha": 0.9, "lr": 0.1},
        {"temperature": 2.0, "alpha": 0.5, "lr": 0.1},
    )

    def __init__(self, folder: Path) -> None:
        self.study = load_study(
            STUDY, [*SMALL, f"search.try_first={list(self.FIRST)}", "search.trials=3"]
        )
        self.data = data_of(self.study)
        self.store = Store.open(str(folder / "store"))

    def do(self) -> None:
        history = open_history(self.study, self.data, ["a"], self.store, None)
        queue_first(history, self.study.search)
        settle_abandoned(history)
        while not is_over(history, self.study.search):
            trial = history.ask()
            self.study.search.space.suggest(trial)
            trial.set_user_attr("job_id", "f" * 20)
            trial.report(0.5, 1)
            trial.set_user_attr("seconds", 1.0)
            history.tell(trial, 0.4)
            history.set_user_attr("seconds", 1.0)

    def look(self) -> None:
        path = Path(self.store.uri, "studies", "steady", "search.journal")
        if path.exists():
            from optuna.storages.journal import JournalFileBackend, JournalStorage

            JournalStorage(JournalFileBackend(str(path)))  # as others open it

    def finished(self) -> object:
        trials = counted(open_history(self.study, self.data, ["a"], self.store, None))
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
        assert all(first in [trial.params for trial in trials] for first in self.FIRST)
        return None


class Diary:
    """What the driver writes down beside the results: which jobs there are, and how long the stages
    took.
    """

    def __init__(self, folder: Path) -> None:
        self.study = load_study(STUDY)
        self.store = Store.open(str(folder / "store"))
        self.runs: list[StudyJob] = teacher_runs(self.study, data_of(self.study))

    def do(self) -> None:
        for observer in (StageLog(self.study, self.store), References(self.study, self.store)):
            observer.stage_started("teach", len(self.runs))
            for run in self.runs:
                observer.started(run)
                observer.ended(run, JobState.FINISHED, {}, "")
            observer.stage_ended("teach")

    def look(self) -> None:
        assert len(stage_rows(self.study, self.store)) < 2
        referenced(self.store, "steady")

    def finished(self) -> object:
        assert len(stage_rows(self.study, self.store)) == 1
        return referenced(self.store, "steady")


class SettingAside:
    """Two damaged records: one whose manifest is no JSON, one with a changed file."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(str(folder / "store"))
        self.store.put("jobs/a", {"weights": b"1" * 100}, {})
        self.store.put("jobs/b", {"weights": b"2" * 100}, {})
        self.store.write(f"jobs/a/{MANIFEST}", b"{")
        record = self.store.get("jobs/b")
        assert record is not None
        self.store.write(record.files["weights"]["path"], b"3" * 100)

    def do(self) -> None:
        for key, content in (("jobs/a", b"1" * 100), ("jobs/b", b"2" * 100)):
            if (found := self.store.get(key)) is not None:
                with contextlib.suppress(DistillRayError):
                    found.read("weights")
            if self.store.get(key) is None:
                self.store.put(key, {"weights": content}, {})

    def look(self) -> None:
        for key, content in (("jobs/a", b"1" * 100), ("jobs/b", b"2" * 100)):
            if (found := Store(self.store.uri).get(key)) is not None:
                with contextlib.suppress(DistillRayError):
                    assert found.read("weights") == content

    def finished(self) -> object:
        return [self.store.get(key).read("weights") for key in ("jobs/a", "jobs/b")]  # type: ignore[union-attr]


class Recording:
    """MLflow's database, made and filled with the run of a job."""

    name = StudyName("small", "abc", "1")

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file = folder / "mlflow.db"

    def do(self) -> None:
        tracker = Tracker(f"sqlite:///{self.file}", "small", "abc", interval=0.01)
        tracker.start_study("small")
        tracker.start_job("teach/a", "teacher 0", {"lr": 0.1}, {"stage": "teach"}, started=1e9)
        tracker.log_epoch("teach/a", 1, 1e9, {"val/nll": 0.5})
        tracker.finish_job("teach/a", JobState.FINISHED, {"val/nll": 0.5}, ended=1e9)
        tracker.finish_study(JobState.FINISHED)
        if not tracker.close(600):
            raise RunError("MLflow does not have everything")

    def look(self) -> None:
        if self.file.exists():
            runs_in_database(self.file, self.name)

    def finished(self) -> object:
        runs = runs_in_database(self.file, self.name)
        assert runs is not None
        return {key: (run.state, run.metrics) for key, run in runs.items()}


WORKS: dict[str, Callable[[Path], Work]] = {
    "training": Training,
    "teacher_logits": TeacherLogits,
    "search": Searching,
    "diary": Diary,
    "setting-aside": SettingAside,
    "mlflow": Recording,
}


def run_apart(work: Callable[[], None]) -> int:
    """Do it in a process of its own; how that ended: 0 well, 1 with a message for the user, 2 with
    another error, or `DIED`.
    """
    child = os.fork()
    if child == 0:
        code = 0
        try:
            work()
        except DistillRayError as error:
            code = 1
            print(f"  {error}", flush=True)
        except BaseException:
            code = 2
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def interruptions(what: str, how: int, folder: Path) -> Iterator[int]:
    """The number of each interruption that was gone through."""
    faults = ctypes.CDLL(None)
    plain = WORKS[what](folder / "undisturbed")
    plain.do()
    expected = plain.finished()
    total = limit(folder, what)
    for number in range(1, total + 1, max(1, total // SAMPLED.get(what, total))):
        here = folder / f"{number}"
        work = WORKS[what](here)

        def interrupted(work: Work = work, here: Path = here, number: int = number) -> None:
            faults.interrupt_at(str(here).encode(), ctypes.c_long(number), how)
            work.do()

        code = run_apart(interrupted)
        assert code in (0, 1, DIED) and (how == 2 or code in (0, DIED)), (
            f"{what}, operation {number}: exit code {code}"
        )
        assert run_apart(work.look) == 0, f"{what}, operation {number}: does not hold after it"
        assert run_apart(work.do) == 0, f"{what}, operation {number}: cannot be done again"
        work.look()
        assert work.finished() == expected, f"{what}, operation {number}: not the same"
        shutil.rmtree(here)
        if code:
            yield number


def limit(folder: Path, what: str) -> int:
    """How many operations there are in all, counted once."""
    counted = folder / "counted"
    if not counted.exists():
        work = WORKS[what](folder / "count")
        faults = ctypes.CDLL(None)

        def count() -> None:
            faults.interrupt_at(str(folder / "count").encode(), ctypes.c_long(1 << 40), 1)
            work.do()
            counted.write_text(str(faults.interrupt_seen()))

        assert run_apart(count) == 0
    return int(counted.read_text())


if __name__ == "__main__":
    torch.set_num_threads(1)
    how = {"die": 1, "full": 2}[sys.argv[1]]
    for what in sys.argv[3:] or WORKS:
        folder = Path(sys.argv[2], what)
        folder.mkdir(parents=True)
        number = sum(1 for _ in interruptions(what, how, folder))
        print(f"{what}: interrupted {number} times, {limit(folder, what)} operations", flush=True)
