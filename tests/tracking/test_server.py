"""A real `mlflow server` on this machine: one that is there, one that dies in the middle of a
study, one that comes back.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill_ray.cli import main
from distill_ray.errors import RequestError
from distill_ray.events import JobState
from distill_ray.tracking import Tracker, check_tracking

pytestmark = pytest.mark.slow


@contextmanager
def server(folder: Path, database: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server that answers; it is gone afterwards, if it still was there."""
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
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "kept")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        limit = time.monotonic() + 240
        while True:
            try:
                check_tracking(f"http://127.0.0.1:{port}")
                break
            except RequestError:
                assert process.poll() is None and time.monotonic() < limit, (
                    folder / "server.log"
                ).read_text()
                time.sleep(0.5)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    subprocess.run(
        ["kill", "-KILL", "--", f"-{process.pid}"], check=False, stderr=subprocess.DEVNULL
    )
    process.wait()


def tell(tracker: Tracker, jobs: range) -> None:
    for number in jobs:
        key = f"trial/{number}"
        tracker.start_job(
            key, f"trial {number:03d}", {"temperature": 4.0, "epochs": 2}, {"stage": "search"}
        )
        for epoch in range(2):
            tracker.log_epoch(
                key,
                epoch,
                1_790_000_000 + epoch,
                {"val/nll": 2.0 - epoch, "train/loss": float("nan")},
            )
        tracker.finish_job(key, JobState.FINISHED, {"best/val/nll": float("inf")})


def test_a_study_outlives_the_server_and_is_whole_when_it_is_back(
    tracking_uri: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://me:secret@127.0.0.1:{port}"
    said: list[str] = []
    (tmp_path / "report.html").write_text("<p>first</p>")
    with server(tmp_path, tracking_uri, port) as process:
        tracker = Tracker(uri, "small", "abc", warn=said.append, interval=0.05)
        tracker.start_study("small", description="# Small", study_file="name: small\n")
        tell(tracker, range(2))
        limit = time.monotonic() + 120
        while not tracker.is_recorded("trial/1"):
            assert time.monotonic() < limit, said
            time.sleep(0.1)
        stop(process)
        tell(tracker, range(2, 4))
        while not said:
            assert time.monotonic() < limit
            time.sleep(0.1)
        began = time.monotonic()
        tell(tracker, range(4, 5))
        assert time.monotonic() - began < 0.5
    assert (
        len(said) == 1
        and f"http://127.0.0.1:{port}" in said[0]
        and "secret" not in said[0]
        and "\n" not in said[0]
    )
    with server(tmp_path, tracking_uri, port):
        tell(tracker, range(5, 6))
        tracker.log_artifacts({"report/report.html": tmp_path / "report.html"})
        tracker.finish_study(JobState.FINISHED)
        assert tracker.close(120), said
        assert len(said) == 2 and "works again" in said[1]

        with Tracker(uri, "small", "abc", warn=said.append, interval=0.05) as again:
            again.start_study("small", description="# Small", study_file="name: small\n")
            tell(again, range(6))
            again.finish_study(JobState.FINISHED)
        assert len(said) == 2

        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name("small")
        assert experiment is not None
        runs = {
            run.data.tags["distill_ray.key"]: run
            for run in client.search_runs([experiment.experiment_id])
        }
        assert set(runs) == {"study", *(f"trial/{number}" for number in range(6))}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for number in range(6):
            history = client.get_metric_history(runs[f"trial/{number}"].info.run_id, "val/nll")
            assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.0)]
        kept = client.download_artifacts(
            runs["study"].info.run_id, "report/report.html", str(tmp_path)
        )
        assert Path(kept).read_text() == "<p>first</p>"


def test_a_server_that_is_away_from_the_start_does_not_hold_up_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker("http://127.0.0.1:1", "small", "abc", warn=said.append, interval=0.05)
    tracker.start_study("small")
    tell(tracker, range(3))
    limit = time.monotonic() + 120
    while not said:
        assert time.monotonic() < limit
        time.sleep(0.1)
    tracker.finish_study(JobState.FINISHED)
    began = time.monotonic()
    assert not tracker.close(60)
    assert time.monotonic() - began < 10


def test_the_interface_is_there_until_it_is_ended(
    tracking_uri: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "distill_ray",
        "ui",
        "--tracking-uri",
        tracking_uri,
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        limit = time.monotonic() + 240
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.5)
        process.terminate()
        said, complained = process.communicate(timeout=60)
    finally:
        stop(process)
    assert (process.returncode, complained.strip()) == (130, "interrupted")
    assert said.startswith(f"MLflow UI on http://127.0.0.1:{port}")
    assert socket.socket().connect_ex(("127.0.0.1", port)), "the server is still there"


def test_an_interface_that_ends_by_itself_is_an_error(
    tmp_path: Path, free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    port = free_port()
    assert main(["ui", "--store", str(tmp_path), "--port", str(port)]) == 1
    assert (
        f"the MLflow UI on http://127.0.0.1:{port} has ended; --verbose shows what it said"
        in capsys.readouterr().err
    )
