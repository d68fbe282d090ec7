"""What a study leans on goes away for a while: MLflow, room on the disk, whole files, a clock that
goes forward.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import RequestError
from distill_ray.records import EPOCHS, WEIGHTS, find_job
from distill_ray.store import MANIFEST, Store
from distill_ray.tracking import check_tracking

STAGES = {"study": 1, "teach": 2, "screen": 2, "search": 4, "confirm": 2}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=60m", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_the_disk_full_and_then_freed(steady: Any, undisturbed: Any, disk: Path) -> None:
    study = steady(store=disk / "store")
    with study.running() as driver:
        driver.wait_for("[search] trial 000")
        before = driver.until_training(1)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(b"0" * 4096)
                except OSError:
                    break
        assert driver.ended() == 1, "".join(study.printed)
    assert "no space left" in "".join(study.printed), "".join(study.printed)
    assert "Traceback" not in "".join(study.printed) and "unexpectedly" not in "".join(
        study.printed
    ), "".join(study.printed)
    full = study.run()
    assert (
        full.returncode in (1, 2)
        and "Traceback" not in full.stderr
        and "unexpectedly" not in full.stderr
    ), full.stderr
    (disk / "ballast").unlink()
    study.finish()
    study.goes_on_from(before)
    assert study.results() == undisturbed.results()


def test_damage_is_found_set_aside_and_made_good(
    steady: Any, undisturbed: Any, tmp_path: Path
) -> None:
    """Bits of weights, of predictions and of teacher logits, manifests, a checkpoint, a list; one
    command makes the store as it was.
    """
    shutil.copytree(undisturbed.store, tmp_path / "store")
    study, store = steady(), Store(str(tmp_path / "store"))
    jobs = {name: found for name in store.names("jobs") if (found := find_job(store, name))}
    teachers = [
        name for name, found in jobs.items() if not found.job.teachers and found.job.seed < 2
    ]
    students = [name for name, found in jobs.items() if found.job.teachers]
    confirmed = next(name for name in students if jobs[name].has_read_test)
    searched = next(name for name in students if not jobs[name].has_read_test)

    def flip(path: str) -> None:
        content = bytearray(store.read(path) or b"")
        content[len(content) // 2] ^= 1
        store.write(path, bytes(content))

    flip(jobs[teachers[0]].record.files[WEIGHTS]["path"])
    store.write(f"jobs/{teachers[1]}/{MANIFEST}", b'{"info": {')
    flip(jobs[searched].record.files[EPOCHS]["path"])
    store.delete(f"jobs/{confirmed}")
    store.write(f"work/{confirmed}/checkpoint.safetensors", b"not a checkpoint")
    teacher_logits = [
        path for path, _, _ in store.tree("teacher_logits") if path.endswith(".arrow")
    ]
    for path in teacher_logits:
        flip(path)
    for name in store.names("studies/steady"):
        if name.startswith(("jobs-", "stages-")):
            store.write(f"studies/steady/{name}", b"\xff")
    study.finish()
    assert study.results() == undisturbed.results(), study.printed
    damaged = [path for path, _, _ in store.tree("") if ".damaged-" in path]
    # Two teachers, a trial, the notes of the stages; a list of jobs has been replaced
    assert len(damaged) == 4, damaged
    assert teacher_logits
    print(f"{len(damaged)} files set aside: {study.printed[-1]}")

    gc = [sys.executable, "-m", "distill_ray", "gc", "--store", store.uri]
    shown = subprocess.run(gc, capture_output=True, text=True, check=True).stdout
    assert "damaged files that were set aside" in shown and "--yes removes it" in shown
    assert [path for path, _, _ in store.tree("") if ".damaged-" in path] == damaged, (
        "a preview removes nothing"
    )
    subprocess.run([*gc, "--unreferenced", "--yes"], capture_output=True, text=True, check=True)
    assert not [path for path, _, _ in store.tree("") if ".damaged-" in path]
    assert study.results() == undisturbed.results()


CLOCK = """
import os, time

_real = time.time


def _shifted():
    try:
        with open(os.environ["TEST_CLOCK"]) as file:
            return _real() + float(file.read() or 0)
    except OSError:
        return _real()


time.time = _shifted
"""


def test_a_clock_that_goes_back_and_forth(steady: Any, undisturbed: Any, tmp_path: Path) -> None:
    """A day back while the search runs, two days forward later: no time limit is reached, nothing
    is lost.
    """
    study, clock = steady("--set", "search.time_limit=2h"), tmp_path / "clock"
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    study.environment = os.environ | {"PYTHONPATH": str(tmp_path), "TEST_CLOCK": str(clock)}
    began = time.monotonic()
    with study.running() as driver:
        driver.wait_for("[search] trial 000")
        driver.until_training(1)
        clock.write_text("-86400")
        driver.wait_for("[search] trial 002")
        clock.write_text("86400")
        assert driver.ended() == 0, "".join(study.printed)
    times = [record["time"] for records in study.epochs().values() for record in records]
    assert max(times) - min(times) > 80000, "the clock of the workers has not moved"
    assert study.results() == undisturbed.results()
    for trial in study.trials():
        assert trial.user_attrs.get("seconds", 0) >= 0
    assert 0 < spent(study) < time.monotonic() - began


def spent(study: Any) -> float:
    import optuna

    from distill_ray.search.history import journal_path, time_spent
    from distill_ray.search.journal import journal

    storage = journal(Store(str(study.store)), journal_path("steady"))
    (summary,) = optuna.get_all_study_summaries(storage)
    return time_spent(optuna.load_study(study_name=summary.study_name, storage=storage))


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[Callable[[], tuple[str, subprocess.Popen[bytes]]]]:
    """Starts an MLflow server, the same one each time: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[str, subprocess.Popen[bytes]]:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += [
            "--backend-store-uri",
            f"sqlite:///{tmp_path}/server.db",
            "--artifacts-destination",
            str(tmp_path / "kept"),
        ]
        with (tmp_path / "server.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
            )
        started.append(process)
        limit = time.monotonic() + 600
        while True:
            try:
                check_tracking(f"http://127.0.0.1:{port}")
                return f"http://me:hidden@127.0.0.1:{port}", process
            except RequestError:
                assert process.poll() is None and time.monotonic() < limit, (
                    tmp_path / "server.log"
                ).read_text()
                time.sleep(0.5)

    yield start
    for process in started:
        stop(process)


def away_for_a_while(
    driver: Any, server: subprocess.Popen[bytes], start: Any
) -> subprocess.Popen[bytes]:
    """Kill MLflow's server before anything was written, and start it again within the time that the
    study tries for.
    """
    driver.wait_for("[teach] teacher 0")
    stop(server)
    time.sleep(20)
    _, server = start()
    return server


def stop(process: subprocess.Popen[bytes]) -> None:
    subprocess.run(
        ["kill", "-KILL", "--", f"-{process.pid}"], check=False, stderr=subprocess.DEVNULL
    )
    process.wait()


def test_mlflow_away_for_a_while_then_for_good_and_synchronised_later(
    steady: Any, longer: Any, mlflow_server: Any
) -> None:
    """The study is finished without it, and says so; `sync` then sends what is missing, and a
    second time nothing.
    """
    uri, process = mlflow_server()
    study = steady(*longer.options, "--tracking-uri", uri)
    with study.running() as driver:
        process = away_for_a_while(driver, process, mlflow_server)
        while "teach" not in {run.data.tags["stage"] for run in recorded(uri)}:
            assert driver.process.poll() is None, "the study was over too soon"
            time.sleep(1)
        stop(process)
        assert driver.ended() == 1, "".join(study.printed)
    last = [line for line in "".join(study.printed).splitlines() if line.strip()][-1]
    assert "does not have all of it; `distill-ray sync` completes it" in last
    assert study.results() == longer.results()
    stop(process)
    mlflow_server()
    where = [*longer.options, "--store", str(study.store), "--tracking-uri", uri]
    sync = [
        sys.executable,
        "-m",
        "distill_ray",
        "sync",
        str(Path(__file__).with_name("steady.yaml")),
        *where,
    ]
    before: dict[str, list[tuple[int, float]]] = {}
    for _ in range(2):
        done = subprocess.run(sync, capture_output=True, text=True, timeout=1500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (
            "has all of study steady" in done.stdout and "hidden" not in done.stdout + done.stderr
        )
        runs = recorded(uri)
        assert Counter(run.data.tags["stage"] for run in runs) == STAGES
        assert {run.info.status for run in runs if run.data.tags["stage"] != "search"} == {
            "FINISHED"
        }
        points = {run.info.run_id: points_of(uri, run) for run in runs}
        for run in runs:
            if run.data.tags["stage"] in ("teach", "confirm"):
                assert [step for step, _ in points[run.info.run_id]] == list(range(1, 101))
        assert before in ({}, points)
        before = points
    assert "hidden" not in "".join(study.printed)


def test_mlflow_away_for_a_while_and_back(steady: Any, longer: Any, mlflow_server: Any) -> None:
    """The study itself brings MLflow up to date."""
    uri, process = mlflow_server()
    study = steady(*longer.options, "--tracking-uri", uri)
    with study.running() as driver:
        away_for_a_while(driver, process, mlflow_server)
        assert driver.ended() == 0, "".join(study.printed)
    assert "is away" not in "".join(study.printed)
    assert study.results() == longer.results()
    runs = recorded(uri)
    assert Counter(run.data.tags["stage"] for run in runs) == STAGES
    for run in runs:
        if run.data.tags["stage"] in ("teach", "confirm"):
            assert [step for step, _ in points_of(uri, run)] == list(range(1, 101))


def recorded(uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri.replace("me:hidden@", ""))
    experiment = client.get_experiment_by_name("steady")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def points_of(uri: str, run: Any) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(uri.replace("me:hidden@", "")).get_metric_history(
        run.info.run_id, "val/nll"
    )
    return sorted((point.step, point.value) for point in history)
