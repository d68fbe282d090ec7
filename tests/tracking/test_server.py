"""A real `mlflow server` on this machine: one that is there, one that dies in the middle of a
study, one that comes back.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
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


def test_a_study_outlives_the_server_and_is_completed_later(
    tracking_uri: str, tmp_path: Path, said: list[str], free_port: Callable[[], int]
) -> None:
    from mlflow import MlflowClient

    port = free_port()
    uri = f"http://me:secret@127.0.0.1:{port}"
    (tmp_path / "report.html").write_text("<p>first</p>")
    with server(tmp_path, tracking_uri, port) as process:
        tracker = Tracker(uri, "small", "abc", interval=0.05)
        tracker.start_study("small", description="# Small", study_file="name: small\n")
        tell(tracker, range(2))
        limit = time.monotonic() + 120
        while not tracker.has_job("trial/1"):
            assert time.monotonic() < limit, said
            time.sleep(0.1)
        stop(process)
        tell(tracker, range(2, 4))
        while not said:
            time.sleep(0.1)
        tell(tracker, range(4, 5))
        assert not tracker.close(120)
    (line,) = said
    assert f"http://127.0.0.1:{port} is away" in line and "distill-ray sync" in line
    assert "secret" not in line and "\n" not in line
    with server(tmp_path, tracking_uri, port):
        for _ in range(2):
            with Tracker(uri, "small", "abc", interval=0.05) as again:
                again.start_study("small", description="# Small", study_file="name: small\n")
                tell(again, range(6))
                again.log_artifacts({"report/report.html": tmp_path / "report.html"})
                again.finish_study(JobState.FINISHED)
            assert again.complete and len(said) == 1

        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name("small")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        runs = {run.data.tags["distill_ray.key"].removeprefix("abc/"): run for run in found}
        assert set(runs) == {"study/1", *(f"trial/{number}" for number in range(6))}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for number in range(6):
            history = client.get_metric_history(runs[f"trial/{number}"].info.run_id, "val/nll")
            assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.0)]
        run_id = runs["study/1"].info.run_id
        kept = client.download_artifacts(run_id, "report/report.html", str(tmp_path))
        assert Path(kept).read_text() == "<p>first</p>"


def test_a_server_that_is_away_from_the_start_does_not_hold_up_the_end(said: list[str]) -> None:
    tracker = Tracker("http://127.0.0.1:1", "small", "abc", interval=0.05)
    tracker.start_study("small")
    tell(tracker, range(3))
    tracker.finish_study(JobState.FINISHED)
    assert not tracker.close(60)
    assert len(said) == 1 and "is away" in said[0]


def test_the_interface_answers_when_it_says_so_and_is_gone_when_ended(
    tracking_uri: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    arguments = ["ui", "--tracking-uri", tracking_uri, "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "distill_ray", *arguments],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )

    def answer(method: str, path: str, content: str = "{}") -> int:
        request = urllib.request.Request(
            address + path,
            content.encode() if method != "GET" else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    before = sorted(tmp_path.iterdir())
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"MLflow UI on {address}")
        assert answer("GET", "/health") == answer("GET", "/") == 200
        assert (
            answer("POST", "/ajax-api/2.0/mlflow/experiments/search", '{"max_results": 5}') == 200
        )
        evil = '{"name": "evil", "artifact_location": "file:///etc"}'
        assert answer("POST", "/ajax-api/2.0/mlflow/experiments/create", evil) == 403
        assert answer("PUT", "/api/2.0/mlflow-artifacts/artifacts/x.txt") == 403
        children = psutil.Process(process.pid).children(recursive=True)
        assert children == []
        process.terminate()
        _, complained = process.communicate(timeout=60)
    finally:
        stop(process)
    assert process.returncode == 130 and complained.strip().endswith("interrupted")
    assert socket.socket().connect_ex(("127.0.0.1", port)), "the server is still there"
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_no_database_is_refused(
    tmp_path: Path, free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    assert main(["ui", "--store", str(tmp_path), "--port", str(free_port())]) == 2
    assert "not a database" in capsys.readouterr().err
