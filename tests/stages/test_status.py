"""How far a study is, and its logs, from the store and the search alone."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from distill_ray.cli import main
from distill_ray.resolve import data_of
from distill_ray.stages.state import StudyState
from distill_ray.stages.status import study_status
from distill_ray.store import Store
from distill_ray.study import load_study


@pytest.fixture
def store(finished_study: Any, tmp_path: Path) -> Store:
    """A copy of the finished study's store, to take something from."""
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def look(finished_study: Any, store: Store, *overrides: str) -> Any:
    study = load_study(finished_study.file, overrides)
    return study_status(StudyState(study, data_of(study), store))


def test_a_finished_study(finished_study: Any, store: Store) -> None:
    now = look(finished_study, store)
    assert now.finished
    assert [(stage.stage, stage.ended, stage.jobs, stage.seconds_left) for stage in now.stages] == [
        ("teach", 2, 2, None),
        ("search", 4, 4, None),
        ("confirm", 4, 4, None),
    ]
    assert {job.state for job in now.jobs if job.run.role != "trial"} == {"finished"}
    failed = [job for job in now.jobs if job.state == "failed"]
    assert [(job.run.role, job.run.number, job.reason) for job in failed] == [
        ("trial", 2, "the loss was nan in epoch 1")
    ]
    best, value = now.best
    assert best.role == "trial" and value > 0


def test_a_study_under_way_says_what_runs_and_how_long_it_takes(
    finished_study: Any, store: Store
) -> None:
    more = look(finished_study, store, "search.trials=10")
    assert (more.finished, more.driver) == (False, False)
    # Two baselines, which do not depend on the search
    assert [(stage.ended, stage.jobs) for stage in more.stages] == [(2, 2), (4, 10), (2, 4)]
    assert more.stages[1].seconds_left is None
    teacher = more.jobs[0].run.job.id
    store.delete(f"jobs/{teacher}")
    assert look(finished_study, store).jobs[0].state == "interrupted"
    with open(store.local_path("studies/tiny/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        again = look(finished_study, store, "search.trials=10")
        assert again.driver is True
        assert (again.jobs[0].state, again.jobs[0].last_epoch) == ("running", {})
        store.write(f"logs/{teacher}.json", b'{"epoch": 3, "val/nll": 2.25}')
        again = look(finished_study, store, "search.trials=10")
        assert again.jobs[0].last_epoch == {"epoch": 3, "val/nll": 2.25}
        store.write(f"logs/{teacher}.json", b'{"epoch": 3, "val/')
        assert look(finished_study, store).jobs[0].last_epoch == {}
        assert [(stage.ended, stage.jobs) for stage in again.stages] == [(1, 2), (0, 10), (0, 4)]
    store.delete(f"logs/{teacher}.log")
    assert look(finished_study, store).jobs[0].state == "waiting"


def test_time_left_is_judged_by_the_trials_that_have_ended(
    finished_study: Any, store: Store
) -> None:
    with open(store.local_path("studies/tiny/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = [
            look(finished_study, store, f"search.trials={trials}").stages[1].seconds_left
            for trials in (5, 6, 8)
        ]
    assert left[0] > 0
    assert left[1:] == [pytest.approx(2 * left[0]), pytest.approx(4 * left[0])]


def test_status_prints_it(
    finished_study: Any, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["status", str(finished_study.file), "--store", store.uri]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "tiny: finished",
        "  teach    2/2",
        "  search   4/4, 1 failed",
        "  confirm  4/4",
    ]
    assert lines[4].startswith("  best     trial ") and ": val/nll " in lines[4]
    assert main([*command, "--set", "search.trials=9"]) == 0
    assert capsys.readouterr().out.startswith("tiny: stopped; the same command goes on from here\n")


def test_status_says_of_a_running_job_where_it_is(
    finished_study: Any, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = look(finished_study, store).jobs[0].run.job.id
    store.delete(f"jobs/{teacher}")
    ended = datetime(2026, 1, 1, 12, 0, 1).timestamp()
    record = {"epoch": 3, "time": ended, "val/accuracy": 0.5, "val/nll": 1.2, "val/ece": 0.1}
    store.write(f"logs/{teacher}.json", json.dumps(record).encode())
    with open(store.local_path("studies/tiny/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["status", str(finished_study.file), "--store", store.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "tiny: running",
        "  teach    1/2, 1 running",
        "           teacher 0 · wrn-10-1 · seed 0  2026-01-01 12:00:01  "
        "epoch 3  val/nll 1.2  val/accuracy 0.5",
    ]


def test_a_study_is_not_finished_before_the_test_split_is_read(
    finished_study: Any, store: Store
) -> None:
    assert look(finished_study, store).finished
    teacher = look(finished_study, store).jobs[0].run.job.id
    store.delete(f"jobs/{teacher}/evaluations")
    now = look(finished_study, store)
    assert [stage.ended == stage.jobs for stage in now.stages] == [True] * 3 and not now.finished


def test_watch_looks_until_the_study_is_finished(
    finished_study: Any,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = look(finished_study, store).jobs[-1].run.job.id
    manifest = store.local_path(f"jobs/{job}/manifest.json")
    away = manifest.rename(manifest.with_name("away"))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            away.rename(manifest)

    monkeypatch.setattr(time, "sleep", wait)
    assert (
        main(
            ["status", str(finished_study.file), "--store", store.uri, "--watch", "--every", "0.5"]
        )
        == 0
    )
    assert waits == [0.5] * 3
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny: ")]
    assert heads == ["tiny: stopped; the same command goes on from here", "tiny: finished"]


def test_logs(finished_study: Any, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {
        (job.run.role, job.run.number): job.run.job.id for job in look(finished_study, store).jobs
    }
    at = ["--store", store.uri]
    for words, job in (
        ([jobs["teacher", 1][:8]], jobs["teacher", 1]),
        ([str(finished_study.file), "teacher", "1"], jobs["teacher", 1]),
        ([str(finished_study.file), "trial", "003"], jobs["trial", 3]),
        ([str(finished_study.file), "best", "0"], jobs["best", 0]),
    ):
        assert main(["logs", *words, *at]) == 0
        assert capsys.readouterr().out == f"job {job}\n2026-01-01 12:00:00 epoch 1  val/nll 2.3\n"
    assert main(["logs", str(finished_study.file), *at]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(jobs.values())
    assert "failed      trial 002" in listed[4] and listed[4].endswith(
        ": the loss was nan in epoch 1"
    )
    for words, message in (
        (["zz"], "job zz: no log begins with it"),
        ([""], "logs begin with it, give more digits"),
        (
            [str(finished_study.file), "trial", "9"],
            "trial 9: no such job of tiny; there are teacher 0 to 1, trial 0 to 3",
        ),
        ([str(finished_study.file), "trial", "2"], "has no log in"),
    ):
        assert main(["logs", *words, *at]) == 2
        assert message in capsys.readouterr().err
