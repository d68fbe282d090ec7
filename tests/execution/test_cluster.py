"""Connecting to Ray, where it does not answer at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray
from ray._private import ray_constants

from distill_ray.errors import RequestError, RunError
from distill_ray.execution.cluster import STARTS, Cluster, Machines, WorkerResources
from distill_ray.study import Study

LATE = "The current node timed out during startup."


def late(times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let Ray be too slow that many times, as it is on a machine with much else to do; the list
    grows with each start.
    """
    starts: list[str] = []

    def init(address: str, **_: object) -> None:
        starts.append(address)
        if len(starts) <= times:
            raise Exception(f"{LATE}\nSecond line.")

    monkeypatch.setattr(ray, "init", init)
    return starts


def test_a_slow_machine_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = late(STARTS - 1, monkeypatch)
    with Cluster() as cluster:
        cluster.connect()
        cluster.connect()
    assert starts == ["local"] * STARTS


def test_no_process_makes_an_environment_of_its_own_though_ray_was_imported_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under `uv run` Ray would have each process do so, which takes minutes; it reads the variable
    when it is imported.
    """
    late(0, monkeypatch)
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    with Cluster() as cluster:
        cluster.connect()
    assert not ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV


def test_a_machine_where_ray_does_not_start_is_a_failure_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = late(STARTS, monkeypatch)
    with (
        Cluster() as cluster,
        pytest.raises(RunError, match=f"Ray did not start on this machine, tried 3 times: {LATE}$"),
    ):
        cluster.connect()
    assert len(starts) == STARTS


def test_a_cluster_that_does_not_answer_is_a_wrong_request(
    monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    starts = late(1, monkeypatch)
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
    tiny_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [machine])
    said: list[str] = []
    cluster = Cluster(say=said.append)
    for _ in range(2):
        cluster.check(tiny_study())
    assert said == [
        "training on CPUs: to use the cluster's GPUs set resources.gpus_per_worker to 1, or to 0.25 to share each"
    ]
    said.clear()
    Cluster(say=said.append).check(tiny_study("resources.gpus_per_worker=0.5"))
    assert said == []
    with pytest.raises(
        RequestError,
        match=r"workers of 1 CPU and 2 GPU do not fit the cluster, which has 4 CPU and 2 GPU",
    ):
        Cluster(say=said.append).check(
            tiny_study("resources.gpus_per_worker=2", "resources.workers_per_trial=2")
        )


def test_ray_client_is_refused() -> None:
    with (
        Cluster("ray://head:10001") as cluster,
        pytest.raises(RequestError, match=r"--address ray://head:10001: .*ray job submit"),
    ):
        cluster.connect()


def test_machines_without_a_limit_have_room_for_everything(
    tiny_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 0.0}}])
    cluster = Cluster()
    monkeypatch.setattr(cluster, "_possible", lambda: [Machines({"CPU": 1.0}, float("inf"))])
    assert cluster.capacity(2, WorkerResources()) > 10**6
