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
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError

from distill_ray.events import JobState
from distill_ray.tracking import DataSet, Tracker, check_tracking, default_uri, outbox

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
            "SELECT replace(substr(k.value, instr(k.value, '/') + 1), 'study/1', 'study'), "
            "r.status, s.value FROM runs r "
            "JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'distill_ray.key' "
            "JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'status' "
            "WHERE r.lifecycle_stage = 'active'"
        )
        found = {key: (status, word) for key, status, word in rows}
        assert len(found) == len(rows), f"a key occurs twice: {rows}"
        return found

    def values(self, table: str, key: str) -> dict[str, Any]:
        """The `params`, `tags` or `latest_metrics` of the run with this key."""
        key = "study/1" if key == "study" else key
        return dict(
            self.query(
                f"SELECT t.key, t.value FROM {table} t JOIN tags k "
                "ON k.run_uuid = t.run_uuid AND k.key = 'distill_ray.key' WHERE k.value LIKE ?",
                f"%/{key}",
            )
        )

    def history(self, key: str, metric: str) -> list[tuple[int, int, float]]:
        """(step, milliseconds, value) of a metric of the run with this key."""
        return self.query(
            "SELECT step, timestamp, m.value FROM metrics m "
            "JOIN tags k ON k.run_uuid = m.run_uuid AND k.key = 'distill_ray.key' "
            "WHERE k.value LIKE ? AND m.key = ? ORDER BY step, timestamp",
            f"%/{key}",
            metric,
        )


@pytest.fixture
def database(tracking_uri: str) -> Database:
    return Database(tracking_uri)


@pytest.fixture
def track(tracking_uri: str, tmp_path: Path) -> Callable[..., Tracker]:
    def make(
        study_key: str = "abc", uri: str = tracking_uri, variant: str = "1", interval: float = 0.02
    ) -> Tracker:
        artifacts = str(tmp_path / "artifacts")
        return Tracker(
            uri, "small", study_key, variant=variant, artifacts=artifacts, interval=interval
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
        "SELECT run_uuid FROM tags WHERE key = 'distill_ray.key' AND value = 'abc/study/1'"
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
        assert tracker.has_job("trial/2") and not tracker.has_job("trial/3")
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
        assert database.runs()["trial/0"] == ("FAILED", "failed")
        assert database.runs()["trial/1"] == ("FINISHED", "pruned")
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
with Tracker({tracking_uri!r}, "small", "abc") as tracker:
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
        "trial/1": ("FINISHED", "pruned"),
        "trial/2": ("FAILED", "failed"),
        "trial/3": ("KILLED", "interrupted"),
    }
    tracker = track()
    assert [tracker.has_job(f"trial/{number}") for number in range(4)] == [
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
    assert database.runs()["trial/1"] == ("FINISHED", "pruned")


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


def test_a_short_absence_is_waited_for(
    database: Database,
    track: Callable[..., Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.log_batch
    calls = iter(range(len(outbox.RETRY_INTERVALS)))

    def log_batch(client: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is not None:
            raise ConnectionError("away")
        return real(client, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with track() as tracker:
        tell_study(tracker)
    assert tracker.complete and said == []
    assert database.runs() == dict.fromkeys(
        ("study", "trial/0", "trial/1", "trial/2"), ("FINISHED", "finished")
    )
    assert [step for step, _, _ in database.history("trial/0", "val/nll")] == [0, 1, 2]


def test_a_longer_absence_is_said_once_and_announcing_again_completes_it(
    database: Database,
    track: Callable[..., Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    def log_batch(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("http://me:secret@127.0.0.1 is away\nfor long")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", log_batch)
        tracker = track(interval=0.001)
        tell_study(tracker)
        wait_for(lambda: bool(said))
        tell_job(tracker, 3)  # which waits for nothing and is not kept
        assert not tracker.close() and not tracker.complete
    assert len(said) == 1 and "`distill-ray sync` completes it" in said[0]
    assert "is away" in said[0] and "secret" not in said[0] and "\n" not in said[0]
    assert not tracker._outbox._pending
    with track() as tracker:
        tell_study(tracker)
    assert tracker.complete
    assert database.runs() == dict.fromkeys(
        ("study", "trial/0", "trial/1", "trial/2"), ("FINISHED", "finished")
    )
    assert [step for step, _, _ in database.history("trial/0", "val/nll")] == [0, 1, 2]


def test_versions_of_a_study_share_the_runs_of_their_jobs(
    database: Database, track: Callable[..., Tracker], said: list[str]
) -> None:
    with track(variant="1") as tracker:
        tell_study(tracker, jobs=2)
    with track(variant="2") as tracker:
        assert not tracker.has_job("trial/1"), "it must be announced to be listed"
        tell_study(tracker, jobs=3)
        wait_for(lambda: tracker.has_job("trial/1"))
    keys = sorted(key for (key,) in database.query("SELECT value FROM tags WHERE key LIKE '%.key'"))
    assert keys == ["abc/study/1", "abc/study/2", *(f"abc/trial/{number}" for number in range(3))]
    for variant, count in (("1", 2), ("2", 3)):
        listed = database.query("SELECT count(*) FROM tags WHERE key = ?", f"variant.{variant}")
        assert listed == [(count,)]
    assert [step for step, _, _ in database.history("trial/0", "val/nll")] == [0, 1, 2]
    before = database.dump()
    with track(variant="1") as tracker:
        assert tracker.has_job("trial/1")
        tell_study(tracker, jobs=2)
    assert database.dump() == before and said == []


def test_a_user_without_a_name(
    database: Database, track: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as a user id that /etc/passwd does not have."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with track() as tracker:
        tell_study(tracker, jobs=1)
    assert tracker.complete
    assert database.values("tags", "trial/0")["mlflow.user"] == "4000000000"


@pytest.mark.parametrize("name", ["a%20b", "a b", "what?", "a#b", "100%"])
def test_stores_with_special_characters_in_their_path(name: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / "report.html").write_text("<p>")
    uri = default_uri(folder)
    check_tracking(uri)
    artifacts = (folder / "mlflow").as_uri()
    with Tracker(uri, "small", "abc", artifacts=artifacts, interval=0.02) as tracker:
        tracker.start_study("small")
        tracker.log_artifacts({"report/report.html": tmp_path / "report.html"})
        tracker.finish_study(JobState.FINISHED)
    assert tracker.complete
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow", "mlflow.db"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "report.html"])
    (run,) = MlflowClient(uri).search_runs(["1"])
    copy = MlflowClient(uri).download_artifacts(run.info.run_id, "report/report.html")
    assert Path(copy).read_text() == "<p>"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("no answer"),
        OperationalError("ROLLBACK", {}, RuntimeError("terminating connection")),
        InterfaceError("ROLLBACK", {}, RuntimeError("connection already closed")),
        PendingRollbackError("invalid transaction"),
    ],
    ids=["server", "database", "connection", "transaction"],
)
def test_a_run_that_was_made_though_the_answer_got_lost_is_found(
    error: Exception,
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
            raise error
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    tracker = track()
    tell_study(tracker)
    wait_for(lambda: database.runs().get("study") == ("FINISHED", "finished"))
    assert tracker.close()
    assert set(database.runs()) == {"study", "trial/0", "trial/1", "trial/2"}
    assert next(lost, None) is None and said == []


def test_closing_waits_for_as_long_as_runs_get_written(
    track: Callable[..., Tracker], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    tracker = track()
    tell_job(tracker, 0)
    wait_for(lambda: tracker.has_job("trial/0"))
    create_run = MlflowClient.create_run

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(1)
        return create_run(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    for number in range(1, 5):
        tell_job(tracker, number)
    assert tracker.close(timeout=1500)
    assert len(database.runs()) == 5


def test_closing_does_not_wait_for_ever(
    track: Callable[..., Tracker], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    over = threading.Event()
    monkeypatch.setattr(MlflowClient, "create_run", lambda *args, **kwargs: over.wait())
    tracker = track()
    tell_study(tracker)
    assert not tracker.close(timeout=0.1)
    assert "it takes too long" in said[0] and "distill-ray sync" in said[0]
    over.set()


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


def wait_for(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)
