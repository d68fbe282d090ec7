"""What a study leaves in MLflow: told once, told twice, told in parts, and told while MLflow cannot
be written.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_ray.events import JobState
from distill_ray.tracking import DataSet, Tracker, outbox

NOON = 1_790_000_000.25
SPLITS = [
    DataSet("digits training", "d" * 64, "sklearn://digits", "training", 400, (8, 8, 1)),
    DataSet("digits validation", "e" * 64, "sklearn://digits", "validation", 200, (8, 8, 1)),
]
TABLES = (
    "experiments",
    "experiment_tags",
    "runs",
    "tags",
    "params",
    "metrics",
    "latest_metrics",
    "inputs",
    "datasets",
)


class Database:
    """An MLflow database read with plain SQL, to see what is really in it."""

    def __init__(self, uri: str) -> None:
        self.file = uri.removeprefix("sqlite:///")

    def query(self, sql: str, *values: object) -> list[Any]:
        connection = sqlite3.connect(self.file)
        try:
            return list(connection.execute(sql, values))
        finally:
            connection.close()

    def dump(self) -> dict[str, list[str]]:
        return {table: sorted(map(repr, self.query(f"SELECT * FROM {table}"))) for table in TABLES}

    def runs(self) -> dict[str, tuple[str, str]]:
        """By key, the status that MLflow shows and the one in the tag."""
        rows = self.query(
            "SELECT substr(k.value, instr(k.value, '/') + 1), r.status, s.value FROM runs r "
            "JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'distill_ray.key' "
            "JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'status' WHERE r.lifecycle_stage = 'active'"
        )
        found = {key: (status, word) for key, status, word in rows}
        assert len(found) == len(rows), f"a key occurs twice: {rows}"
        return found

    def values(self, table: str, key: str) -> dict[str, Any]:
        """The `params`, `tags` or `latest_metrics` of the run with this key."""
        return dict(
            self.query(
                f"SELECT t.key, t.value FROM {table} t JOIN tags k ON k.run_uuid = t.run_uuid AND k.key = 'distill_ray.key' "
                "WHERE k.value LIKE ?",
                f"%/{key}",
            )
        )

    def history(self, key: str, metric: str) -> list[tuple[int, int, float]]:
        """(step, milliseconds, value) of a metric of the run with this key."""
        return self.query(
            "SELECT step, timestamp, m.value FROM metrics m JOIN tags k ON k.run_uuid = m.run_uuid AND k.key = 'distill_ray.key' "
            "WHERE k.value LIKE ? AND m.key = ? ORDER BY step, timestamp",
            f"%/{key}",
            metric,
        )


@pytest.fixture
def database(tracking_uri: str) -> Database:
    return Database(tracking_uri)


@pytest.fixture
def said() -> list[str]:
    """The warnings of the trackers of a test."""
    return []


@pytest.fixture
def track(tracking_uri: str, tmp_path: Path, said: list[str]) -> Callable[..., Tracker]:
    def make(study_key: str = "abc", uri: str = tracking_uri) -> Tracker:
        return Tracker(
            uri,
            "small",
            study_key,
            artifacts=str(tmp_path / "artifacts"),
            warn=said.append,
            interval=0.02,
        )

    return make


def tell_job(
    tracker: Tracker, number: int, ending: JobState | None = JobState.FINISHED, epochs: int = 3
) -> None:
    """Announce a whole job at once, as a study does that finds it in the store."""
    key = f"trial/{number}"
    params: dict[str, str | int | float | bool] = {
        "temperature": 4.0,
        "nesterov": True,
        "epochs": 3,
        "method": "kd",
    }
    tracker.start_job(
        key, f"trial {number:03d}", params, {"stage": "search", "seed": "0"}, started=NOON
    )
    tracker.log_dataset(SPLITS, key)
    for epoch in range(epochs):
        tracker.log_epoch(
            key, epoch, NOON + epoch, {"val/nll": 2.0 - epoch / 4, "train/loss": float("nan")}
        )
    if ending == JobState.FINISHED:
        tracker.finish_job(
            key, JobState.FINISHED, {"best/val/nll": 1.5}, {"kept_epoch": "2"}, ended=NOON + 9
        )
    elif ending == JobState.PRUNED:
        tracker.finish_job(key, JobState.PRUNED, ended=NOON + 5)
    elif ending == JobState.FAILED:
        tracker.finish_job(key, JobState.FAILED, ended=NOON + 5)


def tell_study(
    tracker: Tracker, jobs: int = 3, file: str = "name: small\n", result: float = 0.75
) -> None:
    tracker.start_study(
        "small", description="# Small\n", params={"search.trials": jobs}, study_file=file
    )
    tracker.log_dataset(SPLITS)
    for number in range(jobs):
        tell_job(tracker, number)
    tracker.log_results({"best/test/accuracy": result})
    tracker.finish_study(JobState.FINISHED)


def test_a_study_is_a_run_with_a_nested_run_per_job(
    database: Database, track: Callable[..., Tracker], said: list[str], tmp_path: Path
) -> None:
    with track() as tracker:
        tell_study(tracker)
    assert said == []
    assert database.runs() == dict.fromkeys(
        ("study", "trial/0", "trial/1", "trial/2"), ("FINISHED", "finished")
    )

    assert database.values("params", "trial/1") == {
        "temperature": "4.0",
        "nesterov": "True",
        "epochs": "3",
        "method": "kd",
    }
    tags = database.values("tags", "trial/1")
    ((study_id,),) = database.query(
        "SELECT run_uuid FROM tags WHERE key = 'distill_ray.key' AND value = 'abc/study'"
    )
    assert tags["mlflow.parentRunId"] == study_id
    assert (
        tags.items()
        >= {
            "stage": "search",
            "seed": "0",
            "study": "small",
            "kept_epoch": "2",
            "mlflow.runName": "trial 001",
        }.items()
    )
    noon = int(NOON * 1000)
    assert database.history("trial/1", "val/nll") == [
        (0, noon, 2.0),
        (1, noon + 1000, 1.75),
        (2, noon + 2000, 1.5),
    ]
    assert database.query("SELECT count(*) FROM metrics WHERE is_nan AND key = 'train/loss'") == [
        (9,)
    ]
    assert database.query(
        "SELECT DISTINCT start_time, end_time FROM runs WHERE name LIKE 'trial%'"
    ) == [(noon, noon + 9000)]

    assert database.values("latest_metrics", "study") == {"best/test/accuracy": 0.75}
    assert database.values("tags", "study")["mlflow.note.content"] == "# Small\n"
    assert (
        tmp_path / "artifacts" / study_id / "artifacts" / "study.yaml"
    ).read_text() == "name: small\n"


def test_mlflow_gives_back_the_data_sets(tracking_uri: str, track: Callable[..., Tracker]) -> None:
    from mlflow import MlflowClient

    with track() as tracker:
        tell_study(tracker, jobs=1)
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        assert run.inputs is not None
        inputs = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
        assert set(inputs) == {"training", "validation"}
        assert inputs["validation"].name == "digits validation"
        assert inputs["validation"].digest == "e" * 36
        assert json.loads(str(inputs["validation"].profile))["num_rows"] == 200


def test_telling_a_study_again_changes_nothing(
    database: Database, track: Callable[..., Tracker], said: list[str]
) -> None:
    with track() as tracker:
        tell_study(tracker)
    before = database.dump()
    with track() as tracker:
        assert tracker.is_recorded("trial/2") and not tracker.is_recorded("trial/3")
        tell_study(tracker)
    assert database.dump() == before
    assert said == []


@pytest.mark.parametrize("server", [False, True], ids=["database", "server"])
def test_epochs_are_there_once_though_nobody_knows_their_times_any_more(
    server: bool, database: Database, track: Callable[..., Tracker], said: list[str]
) -> None:
    """Of a trial that failed or was pruned the search has the values alone: a later driver tells of
    all as if at its end.
    """

    def tell(number: int, epochs: int, ending: JobState | None, late: float = 0) -> None:
        key = f"trial/{number}"
        tracker.start_job(key, key, {}, {}, started=NOON)
        for epoch in range(1, epochs + 1):
            tracker.log_epoch(key, epoch, NOON + (late or epoch), {"val/nll": 2.0 - epoch / 4})
        if ending:
            tracker.finish_job(key, ending, ended=NOON + 9)

    with track() as tracker:
        tracker.start_study("small")
        tell(0, 3, JobState.FAILED)
        tell(1, 2, None)  # its driver was killed before it could tell of the rest
        tracker.finish_study(JobState.FINISHED)
    before = database.dump()
    for again in range(2):
        with track() as tracker:
            if server:  # which is asked when there is something to write
                tracker._outbox.runs = None
            tracker.start_study("small")
            tell(0, 3, JobState.FAILED, late=9)
            tell(1, 3, JobState.PRUNED, late=9)
            tracker.finish_study(JobState.FINISHED)
        noon = int(NOON * 1000)
        times = [(1, noon + 1000, 1.75), (2, noon + 2000, 1.5)]
        assert database.history("trial/0", "val/nll") == [*times, (3, noon + 3000, 1.25)]
        assert database.history("trial/1", "val/nll") == [*times, (3, noon + 9000, 1.25)]
        assert database.runs()["trial/0"] == ("FAILED", "failed") and database.runs()[
            "trial/1"
        ] == ("KILLED", "pruned")
        if not again:
            before = database.dump()
    assert database.dump() == before and said == []


def test_telling_a_study_again_does_not_load_mlflow(
    tracking_uri: str, track: Callable[..., Tracker]
) -> None:
    with track() as tracker:
        tracker.start_study("small", study_file="name: small\n")
        tracker.finish_study(JobState.FINISHED)
    again = f"""
import sys
from distill_ray.events import JobState
from distill_ray.tracking import Tracker
with Tracker({tracking_uri!r}, "small", "abc", warn=print) as tracker:
    tracker.start_study("small", study_file="name: small\\n")
    tracker.finish_study(JobState.FINISHED)
print("mlflow" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", again], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_only_what_is_new_is_added_to_a_finished_study(
    database: Database, track: Callable[..., Tracker], tmp_path: Path
) -> None:
    with track() as tracker:
        tell_study(tracker)
    before = database.dump()
    with track() as tracker:
        tell_study(tracker, jobs=4, file="name: small\n# a comment\n", result=0.8)
        tracker.set_description("# Better")
    after = database.dump()
    assert set(before["runs"]) - set(after["runs"]) <= {
        row for row in before["runs"] if "'small'" in row
    }, "only the study's own"
    assert len(after["runs"]) == len(before["runs"]) + 1
    assert set(before["metrics"]) <= set(after["metrics"])
    assert database.runs()["study"] == ("FINISHED", "finished")
    assert database.values("latest_metrics", "study") == {"best/test/accuracy": 0.8}
    assert database.values("tags", "study")["mlflow.note.content"] == "# Better"
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("study.yaml")] == [
        "name: small\n# a comment\n"
    ]


def test_another_study_key_is_another_run_in_the_same_experiment(
    database: Database, track: Callable[..., Tracker]
) -> None:
    for key in ("abc", "def"):
        with track(key) as tracker:
            tell_study(tracker, jobs=1)
    assert database.query("SELECT count(*) FROM runs") == [(4,)]
    assert database.query("SELECT count(*) FROM experiments WHERE name = 'small'") == [(1,)]


def test_a_job_that_was_cut_off_is_taken_up_again(
    database: Database, track: Callable[..., Tracker]
) -> None:
    with pytest.raises(KeyboardInterrupt), track() as tracker:
        tracker.start_study("small")
        tell_job(tracker, 0)
        tell_job(tracker, 1, ending=JobState.PRUNED)
        tell_job(tracker, 2, ending=JobState.FAILED)
        tell_job(tracker, 3, ending=None, epochs=2)
        raise KeyboardInterrupt
    assert database.runs() == {
        "study": ("KILLED", "interrupted"),
        "trial/0": ("FINISHED", "finished"),
        "trial/1": ("KILLED", "pruned"),
        "trial/2": ("FAILED", "failed"),
        "trial/3": ("KILLED", "interrupted"),
    }
    tracker = track()
    assert [tracker.is_recorded(f"trial/{number}") for number in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    tracker.start_study("small")
    tell_job(tracker, 3, ending=None)
    wait_for(lambda: database.runs()["trial/3"] == ("RUNNING", "running"))
    assert database.runs()["study"] == ("RUNNING", "running")
    tell_job(tracker, 3)
    tell_job(tracker, 2)
    tracker.finish_study(JobState.FINISHED)
    assert tracker.close()
    assert [step for step, _, _ in database.history("trial/3", "val/nll")] == [0, 1, 2]
    assert (
        database.runs()["trial/2"]
        == database.runs()["trial/3"]
        == database.runs()["study"]
        == ("FINISHED", "finished")
    )
    assert database.runs()["trial/1"] == ("KILLED", "pruned")


def test_a_process_that_died_leaves_runs_that_the_next_one_settles(
    database: Database, track: Callable[..., Tracker]
) -> None:
    tracker = track()
    tracker.start_study("small")
    tell_job(tracker, 0, ending=None)
    assert tracker.close()
    assert database.runs()["trial/0"] == ("RUNNING", "running")
    with track() as tracker:
        tell_study(tracker, jobs=0)
    assert database.runs() == {
        "study": ("FINISHED", "finished"),
        "trial/0": ("KILLED", "interrupted"),
    }


def test_runs_and_experiments_that_the_user_deleted_come_back(
    tracking_uri: str, database: Database, track: Callable[..., Tracker]
) -> None:
    from mlflow import MlflowClient

    with track() as tracker:
        tell_study(tracker)
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert database.runs() == {}
    with track() as tracker:
        tell_study(tracker)
    assert set(database.runs()) == {"study", "trial/0", "trial/1", "trial/2"}
    ((run_id,),) = database.query(
        "SELECT run_uuid FROM tags WHERE key = 'distill_ray.key' AND value = 'abc/trial/1'"
    )
    client.delete_run(run_id)
    with track() as tracker:
        tell_study(tracker)
    assert set(database.runs()) == {"study", "trial/0", "trial/1", "trial/2"}


def test_what_cannot_be_written_is_kept_and_sent_later(
    database: Database,
    track: Callable[..., Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    works = threading.Event()
    real = MlflowClient.log_batch
    calls = []

    def log_batch(client: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(time.monotonic())
        if not works.is_set():
            raise ConnectionError("http://me:secret@127.0.0.1 is away")
        return real(client, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    tracker = track()
    began = time.monotonic()
    tell_study(tracker)
    assert time.monotonic() - began < 0.5, "telling must not wait"
    wait_for(lambda: len(calls) >= 3)
    assert len(said) == 1 and "is away" in said[0] and "secret" not in said[0]
    works.set()
    wait_for(lambda: database.runs().get("study") == ("FINISHED", "finished"))
    assert tracker.close()
    assert len(said) == 2 and "works again" in said[1]
    assert set(database.runs()) == {"study", "trial/0", "trial/1", "trial/2"}
    assert [step for step, _, _ in database.history("trial/0", "val/nll")] == [0, 1, 2]


def test_a_run_that_was_made_though_the_answer_got_lost_is_found(
    database: Database,
    track: Callable[..., Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.create_run
    lost = iter([True, False, True])

    def create_run(client: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        run = real(client, *args, **kwargs)
        if next(lost, False):
            raise TimeoutError("no answer")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    tracker = track()
    tell_study(tracker)
    wait_for(lambda: database.runs().get("study") == ("FINISHED", "finished"))
    assert tracker.close()
    assert set(database.runs()) == {"study", "trial/0", "trial/1", "trial/2"}
    assert [line for line in said if "no answer" in line]


def test_closing_waits_for_as_long_as_runs_get_written(
    track: Callable[..., Tracker], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    tracker = track()
    tell_job(tracker, 0)
    limit = time.monotonic() + 120
    while not tracker.is_recorded("trial/0"):
        assert time.monotonic() < limit
        time.sleep(0.05)
    create_run = MlflowClient.create_run

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(1)
        return create_run(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    for number in range(1, 5):
        tell_job(tracker, number)
    assert tracker.close(timeout=3)
    assert len(database.runs()) == 5


def test_closing_gives_up_when_mlflow_stays_away(
    track: Callable[..., Tracker], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def create_run(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    tracker = track()
    tell_study(tracker)
    began = time.monotonic()
    assert not tracker.close(timeout=20)
    assert time.monotonic() - began < 10, "one more try is enough"
    assert "run the same command again" in said[-1]


def test_what_mlflow_refuses_is_said_and_left_out(
    database: Database, track: Callable[..., Tracker], said: list[str]
) -> None:
    with track() as tracker:
        tracker.start_study("small")
        tell_job(tracker, 0)
        tracker.start_job("trial/1", "trial 001", {"lr": 0.1}, {})
        tracker.log_epoch("trial/1", 0, NOON, {"no good name?!": 1.0})
        tell_job(tracker, 2)
    assert len(said) == 1 and "does not take trial/1" in said[0] and "\n" not in said[0]
    assert database.runs()["trial/0"] == database.runs()["trial/2"] == ("FINISHED", "finished")


def test_one_thing_that_never_works_does_not_hold_up_the_rest(
    database: Database,
    track: Callable[..., Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    def log_artifacts(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("the artifact store is away")

    (tmp_path / "report.html").write_text("<p>")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", log_artifacts)
        tracker = track()
        tell_study(tracker, jobs=1, file="")
        tracker.log_artifacts({"report/report.html": tmp_path / "report.html"})
        assert not tracker.close(), "the report is missing"
    assert database.runs() == {
        "study": ("FINISHED", "finished"),
        "trial/0": ("FINISHED", "finished"),
    }
    assert any("the artifact store is away" in line for line in said)


def test_many_runs_that_wait_end_the_rest_and_share_what_is_kept_of_them(
    database: Database, track: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "REST", 1e6)
    with track() as tracker:
        tracker.start_study("small")
        # Which loaded MLflow and is no measure of the rest
        wait_for(lambda: "study" in database.runs())
        tracker.start_job("trial/0", "trial 000", {}, {})
        wait_for(lambda: "trial/0" in database.runs())
        tell_job(tracker, 1)
        time.sleep(0.5)
        assert "trial/1" not in database.runs(), "no rest"
        for number in range(2, 1 + outbox.MANY):
            tell_job(tracker, number)
        wait_for(
            lambda: database.runs().get(f"trial/{outbox.MANY - 2}") == ("FINISHED", "finished")
        )
        kept = tracker._outbox.runs or {}
        assert (
            kept["trial/1"].tags is kept["trial/2"].tags
            and kept["trial/1"].metrics is kept["trial/2"].metrics
        )


def test_numbers_may_be_added_to_a_job_long_after_its_end(
    database: Database, track: Callable[..., Tracker]
) -> None:
    for _ in range(2):
        with track() as tracker:
            tell_study(tracker, jobs=1)
            tracker.log_results(
                {"test/accuracy": 0.5, "test/nll": float("nan"), "test/ece": float("inf")},
                "trial/0",
            )
    assert [value for _, _, value in database.history("trial/0", "test/accuracy")] == [0.5]
    assert (
        len(database.history("trial/0", "test/nll"))
        == len(database.history("trial/0", "test/ece"))
        == 1
    )
    assert database.runs()["trial/0"] == ("FINISHED", "finished")


def test_a_run_too_large_to_hold_is_not_called_finished(
    database: Database,
    track: Callable[..., Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    def create_run(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", create_run)
        patch.setattr(outbox, "MOST_POINTS", 5)
        tracker = track()
        tracker.start_study("small")
        wait_for(lambda: bool(said))
        tell_job(tracker, 0)
    assert not tracker.close()
    assert database.runs()["trial/0"][0] == "RUNNING"
    with track() as tracker:
        tell_study(tracker, jobs=1)
    assert database.runs() == {
        "study": ("FINISHED", "finished"),
        "trial/0": ("FINISHED", "finished"),
    }
    assert [step for step, _, _ in database.history("trial/0", "val/nll")] == [0, 1, 2]


def test_many_epochs_and_long_texts_go_through_in_parts(
    database: Database, track: Callable[..., Tracker]
) -> None:
    with track() as tracker:
        tracker.start_study("small", description="long " * 4000)
        tracker.start_job(
            "teach/x",
            "teacher",
            {f"p{n}": n for n in range(230)},
            {f"t{n}": "x" for n in range(230)},
        )
        for epoch in range(300):
            tracker.log_epoch("teach/x", epoch, NOON + epoch, {f"m{n}": float(n) for n in range(8)})
        tracker.finish_job("teach/x", JobState.FINISHED)
        tracker.finish_study(JobState.FINISHED)
    assert database.query("SELECT count(*) FROM metrics") == [(2400,)]
    assert len(database.values("params", "teach/x")) == 230
    before = database.dump()
    with track() as tracker:
        tracker.start_study("small", description="long " * 4000)
        tracker.finish_study(JobState.FINISHED)
    assert database.dump() == before


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)
