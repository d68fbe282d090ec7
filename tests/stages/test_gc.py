"""gc: what it offers to remove, and above all what it leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from distill_ray.cli import main
from distill_ray.errors import RequestError
from distill_ray.events import JobState
from distill_ray.records import find_job
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages.gc import (
    CHECKPOINTS,
    LEFT,
    PRUNED,
    SET_ASIDE,
    TEACHER_LOGITS,
    UNREFERENCED,
    Garbage,
    garbage,
    remove,
)
from distill_ray.stages.references import References, referenced
from distill_ray.store import Store
from distill_ray.study import load_study


@pytest.fixture
def store(finished_study: Any, tmp_path: Path) -> Store:
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"), make=False)


def reasons(store: Store, **settings: Any) -> dict[str, str]:
    return {each.path: each.why for each in garbage(store, **settings)}


def files(store: Store) -> dict[str, bytes | None]:
    return {path: store.read(path) for path, _, _ in store.tree("")}


def age(store: Store, path: str, hours: float) -> None:
    for name, _, _ in store.tree(path):
        os.utime(store.local_path(name), (time.time() - hours * 3600,) * 2)


def test_a_finished_store_has_nothing_to_remove(store: Store, finished_study: Any) -> None:
    age(store, "jobs", 9)
    assert reasons(store) == {}
    study = load_study(finished_study.file)
    assert reasons(store, study=study.name) == {}


def test_each_kind_is_found_and_nothing_else_goes(store: Store) -> None:
    finished, other = store.names("jobs")[:2]
    before = files(store)
    journal = JournalStorage(
        JournalFileBackend(str(store.local_path("studies/tiny/search.journal")))
    )
    history = optuna.load_study(study_name=optuna.get_all_study_names(journal)[0], storage=journal)
    trial = history.ask()
    trial.set_user_attr("job_id", "f" * 20)
    history.tell(trial, state=TrialState.PRUNED)
    before["studies/tiny/search.journal"] = store.read("studies/tiny/search.journal")

    for job in (finished, "f" * 20, "e" * 20):
        store.write(f"work/{job}/checkpoint.safetensors", b"1" * 100)
    before[f"work/{'e' * 20}/checkpoint.safetensors"] = b"1" * 100
    store.write("teacher_logits/a/00001/manifest.json", b"{}")
    store.write("teacher_logits/b/00001/manifest.json", b"{}")
    before["teacher_logits/b/00001/manifest.json"] = b"{}"
    age(store, "teacher_logits/a", 2)
    store.write(f"jobs/{other}/manifest.json.damaged-12345678", b"{")
    store.write(f"jobs/{other}/0badc0de/weights.safetensors", b"half")
    store.write(f"jobs/{finished}/0badc0de/weights.safetensors", b"half, and just now")
    before[f"jobs/{finished}/0badc0de/weights.safetensors"] = b"half, and just now"
    age(store, f"jobs/{other}", 2)

    assert reasons(store) == {
        f"work/{finished}": CHECKPOINTS,
        f"work/{'f' * 20}": PRUNED,
        "teacher_logits/a": TEACHER_LOGITS,
        f"jobs/{other}/manifest.json.damaged-12345678": SET_ASIDE,
        f"jobs/{other}/0badc0de/weights.safetensors": LEFT,
    }
    remove(store, garbage(store))
    assert files(store) == before
    assert reasons(store) == {}


def test_teacher_logits_stay_while_a_study_is_being_run(store: Store) -> None:
    store.write("teacher_logits/a/00001/manifest.json", b"{}")
    age(store, "teacher_logits", 5)
    assert reasons(store) == {"teacher_logits/a": TEACHER_LOGITS}
    with store.local_path("studies/tiny/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert reasons(store) == {}
        with pytest.raises(RequestError, match="study tiny is being run"):
            garbage(store, unreferenced=True)


def test_jobs_that_no_study_refers_to(store: Store, finished_study: Any) -> None:
    """Teachers of jobs that are referred to stay, and nothing is told while a study does not say
    what it needs.
    """
    with pytest.raises(RequestError, match="does not say which jobs are its own"):
        garbage(store, unreferenced=True)
    study = load_study(finished_study.file)
    teachers = {run.job.id for run in teacher_runs(study, data_of(study))}
    assert referenced(store, study.name) is None
    student = next(
        name
        for name in store.names("jobs")
        if (found := find_job(store, name)) and found.job.teachers
    )
    store.write(f"studies/{study.name}/jobs-x.json", f'["{student}"]'.encode())
    rest = {f"jobs/{name}" for name in store.names("jobs")} - {
        f"jobs/{name}" for name in (*teachers, student)
    }
    found = reasons(store, unreferenced=True)
    assert rest == {path for path in found if path.startswith("jobs/")}
    assert set(found.values()) == {UNREFERENCED}
    remove(store, garbage(store, unreferenced=True))
    assert set(store.names("jobs")) == {*teachers, student}


def test_a_study_writes_down_its_jobs_before_they_train(store: Store, finished_study: Any) -> None:
    study = load_study(finished_study.file)
    runs = teacher_runs(study, data_of(study))
    references = References(study, store)
    references.started(runs[0])
    assert referenced(store, study.name) == {runs[0].job.id}
    again = References(study, store)
    again.past(runs[1], "finished", lambda: [], {}, "")
    again.stage_ended("teach")
    assert referenced(store, study.name) == {run.job.id for run in runs}


def test_a_damaged_list_is_known_to_be_missing_until_the_study_has_run_again(
    store: Store, finished_study: Any
) -> None:
    study = load_study(finished_study.file)
    runs = teacher_runs(study, data_of(study))
    folder = f"studies/{study.name}"
    for name in store.names(folder):
        if name.startswith("jobs-"):
            store.delete(f"{folder}/{name}")
    for number, run in enumerate(runs):
        store.write(
            f"{folder}/jobs-{study.digest}-{number}.json", json.dumps([run.job.id]).encode()
        )
    store.write(f"{folder}/jobs-{study.digest}-0.json", b"\xff")
    assert referenced(store, study.name) is None
    for path in reasons(store):
        store.delete(path)
    with pytest.raises(RequestError, match="does not say which jobs are its own"):
        garbage(store, unreferenced=True)
    again = References(study, store)
    for run in runs:
        again.past(run, JobState.FINISHED, lambda: [], {}, "")
    again.stage_ended("confirm")
    assert referenced(store, study.name) == {run.job.id for run in runs}
    assert not [name for name in store.names(folder) if "damaged" in name]


def test_the_command_shows_first_and_removes_when_told(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(f"work/{store.names('jobs')[0]}/checkpoint.safetensors", b"1" * 3_000_000)
    assert main(["gc", "--store", store.uri]) == 0
    shown = capsys.readouterr().out
    assert "3.0 MB  checkpoints of finished jobs" in shown and "--yes removes it" in shown
    assert store.names("work")
    assert main(["gc", "--store", store.uri, "--yes"]) == 0
    assert "3.0 MB freed" in capsys.readouterr().out
    assert not store.names("work")
    assert main(["gc", "--store", store.uri]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_lease_that_a_killed_process_left_among_teacher_logits_is_no_epoch(store: Store) -> None:
    store.write("studies/tiny/jobs-x.json", b'["abc"]')
    store.write("teacher_logits/a/00001/manifest.json", b'{"info": {"identity": "abc"}}')
    store.write("teacher_logits/a/00000.lease", b"host 1 2")
    age(store, "teacher_logits", 5)
    assert reasons(store, study="tiny")["teacher_logits/a"] == TEACHER_LOGITS


@pytest.mark.parametrize("name", ["jobs", "teacher_logits", "logs"])
def test_a_folder_that_is_no_store_is_left_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name / "old" / ".thesis.tex"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    os.utime(file, (0, 0))
    assert main(["gc", "--yes", "--unreferenced", "--store", str(tmp_path)]) == 2
    assert "there is none" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["jobs", "work", "teacher_logits"])
def test_what_lies_behind_a_link_is_left_alone(store: Store, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside" / "00001"
    outside.mkdir(parents=True)
    (outside / "manifest.json").write_text("{}")
    os.utime(outside / "manifest.json", (0, 0))
    finished = store.names("jobs")[0]
    link = store.local_path(name) / ("zz" if name != "work" else finished)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside.parent)
    assert reasons(store) == {}
    remove(store, [Garbage(f"{name}/{link.name}", 0, LEFT)])
    assert (outside / "manifest.json").exists() and not link.is_symlink()

    folder = store.local_path(name)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(RequestError, match=f"{name} is a link, and gc does not remove"):
        garbage(store)


def test_a_clock_that_was_set_back_makes_nothing_old(store: Store) -> None:
    store.write("teacher_logits/new/00001/manifest.json", b"{}")
    store.write("jobs/.half.0123abcd", b"being written")
    store.write("work/unfinished/checkpoint", b"1")
    age(store, "work", -10)
    assert reasons(store) == {}
