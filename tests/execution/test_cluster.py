"""Connecting to Ray, where it does not answer at once."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import ray
from ray._private import ray_constants

from distill_ray.errors import RequestError, RunError
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.local_ray import STARTS
from distill_ray.execution.machines import Machines
from distill_ray.execution.resources import WorkerResources
from distill_ray.study import StudyDefinition

LATE = "The port is taken."


def failing(times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let Ray fail to start that many times; the list grows with each start."""
    starts: list[str] = []

    def init(address: str, **_: object) -> None:
        starts.append(address)
        if len(starts) <= times:
            raise Exception(f"{LATE}\nSecond line.")

    monkeypatch.setattr(ray, "init", init)
    return starts


def test_a_start_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = failing(STARTS - 1, monkeypatch)
    with Cluster() as cluster:
        cluster.connect()
        cluster.connect()
    assert starts == ["local"] * STARTS


@pytest.mark.parametrize("address", [None, "auto"], ids=["here", "elsewhere"])
def test_no_process_makes_an_environment_of_its_own_though_ray_was_imported_first(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `uv run` Ray would have each process do so, which takes minutes; it reads the variable
    when it is imported.
    """
    failing(0, monkeypatch)
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    with Cluster(address) as cluster:
        cluster.connect()
    assert not ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV


def test_a_machine_where_ray_does_not_start_is_a_failure_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = failing(STARTS, monkeypatch)
    with (
        Cluster() as cluster,
        pytest.raises(
            RunError,
            match=rf"Ray did not start on this machine, tried {STARTS} times: {LATE}; its logs are",
        ),
    ):
        cluster.connect()
    assert len(starts) == STARTS


def test_a_cluster_that_does_not_answer_is_a_wrong_request(
    monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    starts = failing(1, monkeypatch)
    with (
        Cluster("auto") as cluster,
        pytest.raises(RequestError, match=f"no Ray cluster at --address auto: {LATE}$"),
    ):
        cluster.connect()
    assert starts == ["auto"], "another try would join another cluster"
    with (
        Cluster(f"127.0.0.1:{free_port()}") as cluster,
        pytest.raises(RequestError, match="refused; start one, or leave it out"),
    ):
        cluster.connect()
    assert len(starts) == 1


def test_gpus_that_a_study_leaves_alone_are_said_once(
    tiny_study: Callable[..., StudyDefinition],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [machine])
    caplog.set_level("INFO", "distill_ray")
    cluster = Cluster()
    for _ in range(2):
        cluster.check(tiny_study())
    assert caplog.messages == [
        "training on CPUs: to use the cluster's GPUs set resources.gpus_per_worker to 1, "
        "or to 0.25 to share each"
    ]
    caplog.clear()
    Cluster().check(tiny_study("resources.gpus_per_worker=0.5"))
    assert caplog.messages == []
    with pytest.raises(
        RequestError,
        match=r"workers of 1 CPU and 2 GPU do not fit the cluster, which has 4 CPU and 2 GPU",
    ):
        Cluster().check(tiny_study("resources.gpus_per_worker=2", "resources.workers_per_trial=2"))


def test_what_this_machine_cannot_have_is_known_before_ray_starts(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    """By the field that asks for it. An address, or a cluster in use, may offer more."""
    cluster = Cluster()
    cluster.check_machine(tiny_study())
    for field, needed in (("gpus", "1 CPU and 1000 GPU"), ("cpus", "1000 CPU and 0 GPU")):
        study = tiny_study(f"resources.{field}_per_worker=1000")
        refusal = f"resources.{field}_per_worker: a worker of {needed} does not fit this machine"
        with pytest.raises(RequestError, match=f"{refusal}, which has "):
            cluster.check_machine(study)
        Cluster("auto").check_machine(study)
    workers = "resources.workers_per_teacher=1000"
    with pytest.raises(RequestError, match="workers_per_teacher: 1000 workers of 1 CPU and 0 GPU"):
        cluster.check_machine(tiny_study(workers, "teachers.batch_size=1000"))
    assert not ray.is_initialized()


def test_ray_client_is_refused() -> None:
    with (
        Cluster("ray://head:10001") as cluster,
        pytest.raises(RequestError, match=r"--address ray://head:10001: .*ray job submit"),
    ):
        cluster.connect()


def test_machines_without_a_limit_have_room_for_everything(
    tiny_study: Callable[..., StudyDefinition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 0.0}}])
    cluster = Cluster()
    monkeypatch.setattr(cluster, "_possible", lambda: [Machines({"CPU": 1.0}, float("inf"))])
    assert cluster.capacity(2, WorkerResources()) > 10**6


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError(13, "Permission denied", "/tmp/ray/session_1"), "set RAY_TMPDIR to anot"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /x"), "with a short path"),
        (OSError(28, "No space left on device"), "RAY_TMPDIR names another folder"),
    ],
)
def test_a_folder_that_ray_cannot_use_is_named_with_the_remedy(
    error: OSError, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[str] = []

    def init(address: str, **_: object) -> None:
        starts.append(address)
        raise error

    monkeypatch.setattr(ray, "init", init)
    with Cluster() as cluster, pytest.raises(RunError) as raised:
        cluster.connect()
    assert remedy in str(raised.value) and (error.strerror or str(error)) in str(raised.value)
    assert starts == ["local"], "another attempt would meet the same"


def test_variables_of_a_cluster_started_here_are_gone_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A notebook may join another cluster later, which has another token."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    seen: dict[str, str] = {}
    monkeypatch.setattr(ray, "init", lambda **_: seen.update(os.environ))
    with Cluster() as cluster:
        cluster.connect()
    assert seen["RAY_AUTH_MODE"] == "token" and len(seen["RAY_AUTH_TOKEN"]) == 64
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(os.environ)


@pytest.mark.parametrize("place", ["ray://head:10001", "http://127.0.0.1:8265"])
def test_a_foreign_address_in_the_environment_is_named(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", place)
    with (
        Cluster("auto") as cluster,
        pytest.raises(RequestError, match=rf"--address auto \(RAY_ADDRESS={place}\)"),
    ):
        cluster.connect()
    starts = failing(0, monkeypatch)
    with Cluster() as cluster:
        cluster.connect()
    assert starts == ["local"], "without --address it has no say"
